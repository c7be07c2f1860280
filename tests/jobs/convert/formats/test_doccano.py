"""doccano's exports, old and new."""

from __future__ import annotations

import pytest
from convert_helpers import ents, iobs, jsonl

from spacy_bertft.errors import DataError

TEXT = "Ada met Bob"
OWN = {"id": 3, "Comments": []}
SPANS = [[0, 3, "PER"], [8, 11, "PER"]]
OBJECTS = [{"id": i, "label": label, "start_offset": a, "end_offset": b} for i, (a, b, label) in enumerate(SPANS)]
RELATION = {"id": 1, "from_id": 0, "to_id": 1, "type": "met"}


@pytest.mark.parametrize(
    ("record", "relations"),
    [
        ({**OWN, "text": TEXT, "label": SPANS}, 0),
        ({**OWN, "text": TEXT, "entities": OBJECTS, "relations": [RELATION]}, 1),
        ({"id": 3, "text": TEXT, "meta": {}, "annotation_approver": None, "labels": SPANS}, 0),
        ({"doc_id": 3, "text": TEXT, "entities": SPANS, "username": "admin", "label": None}, 0),
    ],
    ids=["spans", "relations", "before version 1", "first versions"],
)
def test_spans(made, record, relations):
    out = made("all.jsonl", jsonl(record, {**record, **{k: [] for k in record if record[k] in (SPANS, OBJECTS)}}))
    assert [ents(doc) for doc in out.docs] == [[("Ada", "PER"), ("Bob", "PER")], []]
    assert iobs(out.docs[1]) == ["O", "O", "O"]
    assert sum(out.counts.dropped.values()) == 2 * relations
    assert out.counts.ignored == {}


def test_categories(made):
    out = made("all.jsonl", jsonl({**OWN, "text": "a", "label": ["x", "y"]}, {**OWN, "text": "b", "label": []}))
    assert out.format == "doccano"
    assert [doc.cats for doc in out.docs] == [{"x": 1.0, "y": 1.0}, {"x": 0.0, "y": 0.0}]
    assert not out.docs[0].has_annotation("ENT_IOB")


def test_intents_and_slots(made):
    out = made("all.jsonl", jsonl({**OWN, "text": TEXT, "entities": SPANS, "cats": ["meet"]}))
    assert out.format == "doccano"
    assert (ents(out.doc), out.doc.cats) == ([("Ada", "PER"), ("Bob", "PER")], {"meet": 1.0})


def test_one_array_is_as_good_as_lines(made):
    out = made("all.json", "[" + ",\n".join(jsonl({**OWN, "text": TEXT, "label": SPANS}).split("\n")[:1]) + "]")
    assert (out.format, ents(out.doc)) == ("doccano", [("Ada", "PER"), ("Bob", "PER")])


def test_ids_instead_of_labels_are_refused(made):
    record = {"id": 3, "text": TEXT, "annotations": [{"label": 2, "start_offset": 0, "end_offset": 3, "user": 1}]}
    with pytest.raises(
        DataError, match=r"all\.jsonl:1: found 'annotations' whose labels are ids, such as 2.*Text label"
    ):
        made("all.jsonl", jsonl(record))


def test_offsets_after_the_end_that_count_utf16_units(made):
    record = {**OWN, "text": "😊 Ada", "label": [[3, 6, "PER"]]}
    with pytest.raises(
        DataError, match=r"all\.jsonl:1: found an entity from 3 to 6; .*UTF-16 units; .*--offsets utf16"
    ):
        made("all.jsonl", jsonl(record))
    assert ents(made("all.jsonl", jsonl(record), offsets="utf16").doc) == [("Ada", "PER")]


def test_misaligned_spans_tell_that_offsets_may_count_other_units(made):
    out = made("all.jsonl", jsonl({**OWN, "text": "😊 Ada met Bob", "label": [[3, 6, "PER"], [7, 10, "X"]]}))
    assert (out.counts.misaligned, out.counts.other_units) == (2, {"bytes": 0, "utf16": 2})


@pytest.mark.parametrize("more", [{"annotations": ["x", {"label": 2}]}, {"relations": 3}])
def test_items_of_other_types(made, more):
    with pytest.raises(DataError, match=r"all\.jsonl:1: found '.*; expected .*; fix: export from doccano"):
        made("all.jsonl", jsonl({**OWN, "text": TEXT, "label": SPANS, **more}))
