from __future__ import annotations

import json

import pytest
from convert_helpers import ents, iobs, jsonl

from spacy_bertft.errors import DataError

TEXT = "Ada met Bob"
BOTH = [("Ada", "PER"), ("Bob", "PER")]
LABEL_STUDIO = {"id": 1, "data": {"text": TEXT}, "annotations": [{"result": []}]}


@pytest.mark.parametrize(
    "record",
    [
        {"text": TEXT, "label": [[0, 3, "PER"], [8, 11, "PER"]]},
        {"text": TEXT, "labels": [[0, 3, "PER"], [8, 11, "PER"]]},
        {"text": TEXT, "label": [{"start": 0, "end": 3, "text": "Ada", "labels": ["PER"]}, [8, 11, "PER"]]},
        {"text": TEXT, "entities": [{"id": 5, "start_offset": a, "end_offset": a + 3, "label": "PER"} for a in (0, 8)]},
        {"text": TEXT, "ents": [{"start": a, "end": a + 3, "label": "PER"} for a in (0, 8)], "spans": {"sc": []}},
        [TEXT, {"entities": [[0, 3, "PER"], [8, 11, "PER"]]}],
    ],
    ids=["doccano", "old doccano", "label studio", "doccano relations", "doc.to_json", "spacy 2"],
)  # fmt: skip
def test_entities_of_other_tools(made, record):
    out = made("a.jsonl", jsonl(record))
    assert ents(out.doc) == BOTH
    assert iobs(out.doc)[1] == "O"
    assert out.doc.cats == {}


def test_doccanos_lists_of_names_are_labels(made):
    out = made("a.jsonl", jsonl({"text": "x", "label": ["b", "a"]}, {"text": "y", "label": []}))
    assert [doc.cats for doc in out.docs] == [{"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.0}]
    assert not any(doc.has_annotation("ENT_IOB") for doc in out.docs)


@pytest.mark.parametrize("key", ["label", "labels"])
def test_an_empty_list_is_what_the_others_are(made, key):
    empty, _ = made("a.jsonl", jsonl({"text": "x", key: []}, {"text": TEXT, key: [[0, 3, "PER"]]})).docs
    assert iobs(empty) == ["O"]
    assert empty.cats == {}
    labels, _ = made("a.jsonl", jsonl({"text": "x", key: []}, {"text": TEXT, key: ["a"]})).docs
    assert labels.cats == {"a": 0.0}
    assert iobs(labels) == [""]


def test_times_beside_a_label_are_no_entity(made):
    record = {"text": TEXT, "start": "0:10", "end": "0:12", "label": "x"}
    assert made("a.jsonl", jsonl(record)).doc.cats == {"x": 1.0}


def test_annotations_of_spacy_2_may_be_categories(made):
    assert made("a.jsonl", jsonl([TEXT, {"cats": {"a": 0.5}}])).doc.cats == {"a": 0.5}


BAD = {
    "label studio": (LABEL_STUDIO, "Label Studio", "label-studio"),
    "old label studio": ({"data": {"text": TEXT}, "completions": []}, "Label Studio", "label-studio"),
    "annotations": ({"text": TEXT, "annotations": [{"x": 1}]}, "'annotations'", "'spans'"),
    "datasets": ({"tokens": ["Ada"], "ner_tags": [1]}, "the tag 1", "--format datasets"),
    "words": ({"words": ["Ada"], "ner": ["B-PER"]}, "Hugging Face", "--tokens-key words --tags-key ner"),
    "one entity": ({"text": TEXT, "start": 0, "end": 3, "label": "PER"}, "'start' and 'end' beside 'label'", "'spans'"),
    "datasets with a text": ({"text": "Ada", "tokens": ["Ada"], "tags": ["B-PER"]}, "Hugging Face", "--tags-key tags"),
    "question": ({"question": "Who?", "context": TEXT, "answers": {}}, "'answers': {}", "this form"),
    "squad": ({"version": "2.0", "data": [{"paragraphs": []}]}, "SQuAD", "squad"),
    "spacy 2 corpus": ({"id": 0, "paragraphs": [{"sentences": []}]}, "spaCy 2", "spacy-json"),
    "mixed": ({"text": TEXT, "label": [[0, 3, "PER"], "x"]}, "'label'", "start, end and label"),
    "two labels": ({"text": TEXT, "label": [{"start": 0, "end": 3, "labels": ["A", "B"]}]}, "'label.label'", "NAME"),
    "twice": ({"text": TEXT, "label": [[0, 3, "PER"]], "spans": []}, "entities under 'spans' and 'label'", "keep one"),
}  # fmt: skip


@pytest.mark.parametrize(("record", "found", "fix"), BAD.values(), ids=BAD)
def test_what_is_not_read_is_named(made, record, found, fix):
    with pytest.raises(DataError) as caught:
        made("bad.jsonl", jsonl(record), format="jsonl")
    message = str(caught.value)
    assert "bad.jsonl:1: found " in message
    assert found in message.split("; expected ")[0]
    assert fix in message.split("; fix: ")[1]


def test_a_cell_of_label_studio_is_no_category(made):
    cell = json.dumps([{"start": 0, "end": 3, "labels": ["PER"]}]).replace('"', '""')
    for name in ("label", "labels"):
        with pytest.raises(DataError, match=r"bad\.csv:2: found .*Label Studio.*; expected .*; fix: .*JSON-MIN"):
            made("bad.csv", f'text,{name}\n{TEXT},"{cell}"\n')


KINDS = {
    "zip": (b"PK\x03\x04rest", "an Excel file that was cut off", "download it again"),
    "gzip": (b"\x1f\x8brest", "gzip", "gunzip"),
    "webanno": (b"#FORMAT=WebAnno TSV 3.3\n", "WebAnno TSV", "UIMA CAS XMI"),
    "pdf": (b"%PDF-1.7", "a PDF file", "annotate its text"),
}


@pytest.mark.parametrize(("content", "found", "fix"), KINDS.values(), ids=KINDS)
def test_files_without_annotated_text_are_named(made, content, found, fix):
    with pytest.raises(DataError, match=rf"a\.xlsx: found .*{found}; expected .*; fix: .*{fix}"):
        made("a.xlsx", content)
