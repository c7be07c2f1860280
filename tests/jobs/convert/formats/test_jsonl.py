from __future__ import annotations

import json
import re

import pytest
from convert_helpers import assert_says, ents, iobs, jsonl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spacy_bertft.errors import DataError

TEXT = "Ada met Bob in Paris."


@pytest.mark.parametrize(("value", "name"), [("ham", "ham"), (3, "3"), (True, "True"), (0, "0")])
def test_label_is_one_exclusive_category(made, value, name):
    out = made("a.jsonl", jsonl({"text": "x", "label": value}, {"text": "y", "label": "other"}))
    assert [doc.cats for doc in out.docs] == [{name: 1.0, "other": 0.0}, {name: 0.0, "other": 1.0}]
    assert out.counts.categories == {name: 1, "other": 1}


def test_labels_are_several_categories_and_may_be_none(made):
    out = made("a.jsonl", jsonl({"text": "x", "labels": ["b", "a", "a"]}, {"text": "y", "labels": []}))
    assert [doc.cats for doc in out.docs] == [{"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.0}]


def test_cats_are_kept_and_missing_names_stay_missing(made):
    out = made(
        "a.jsonl", jsonl({"text": "x", "cats": {"a": 0.25, "b": 0.5}}, {"text": "y", "cats": {"b": 1, "c": True}})
    )
    assert [doc.cats for doc in out.docs] == [{"a": 0.25, "b": 0.5}, {"b": 1.0, "c": 1.0}]
    assert out.counts.categories == {"a": 0, "b": 2, "c": 1}


def test_no_label_or_null_is_no_annotation(made):
    out = made("a.jsonl", jsonl({"text": "x", "label": None}, {"text": "y"}, {"text": "z", "label": "a"}))
    assert [doc.cats for doc in out.docs] == [{}, {}, {"a": 1.0}]


@pytest.mark.parametrize("key", ["spans", "entities"])
def test_spans_become_entities(made, key):
    spans = [{"start": 8, "end": 11, "label": "PER"}, [0, 3, "PER"], [15, 20, "LOC"]]
    out = made("a.jsonl", jsonl({"text": TEXT, key: spans}))
    assert ents(out.doc) == [("Ada", "PER"), ("Bob", "PER"), ("Paris", "LOC")]
    assert iobs(out.doc) == ["B-PER", "O", "B-PER", "O", "B-LOC", "O"]
    assert out.counts.entities == {"LOC": 1, "PER": 2}


def test_absent_spans_are_missing_and_empty_spans_are_outside(made):
    absent, null, empty = made(
        "a.jsonl", jsonl({"text": "a b"}, {"text": "a b", "spans": None}, {"text": "a b", "spans": []})
    ).docs
    assert [t.ent_iob for t in absent] == [t.ent_iob for t in null] == [0, 0]
    assert [t.ent_iob for t in empty] == [2, 2]
    assert empty.has_annotation("ENT_IOB")
    assert not absent.has_annotation("ENT_IOB")


def test_misaligned_spans_are_missing_not_outside(made):
    text = "Ada met Bobby in Paris"
    spans = [[8, 11, "PER"], [11, 13, "X"], [0, 3, "PER"], [15, 19, "LOC"]]
    out = made("a.jsonl", jsonl({"text": text, "spans": spans}))
    assert iobs(out.doc) == ["B-PER", "O", "", "", ""]
    assert out.counts.misaligned == 3
    assert out.counts.entities == {"PER": 1}
    first, second, third = out.counts.examples
    assert (first.text, first.label, first.tokens) == ("Bob", "PER", ("Bobby",))
    assert second.tokens == ("Bobby",)
    assert (third.text, third.tokens) == ("n Pa", ("in", "Paris"))
    assert first.where.endswith("a.jsonl:1")


def test_an_entity_beside_a_misaligned_one_survives(made):
    out = made("a.jsonl", jsonl({"text": "Bobby Tables ran", "spans": [[0, 3, "PER"], [6, 12, "PER"]]}))
    assert iobs(out.doc) == ["", "B-PER", "O"]


def test_only_touched_tokens_are_missing(made):
    out = made("a.jsonl", jsonl({"text": "I don't.", "spans": [[4, 6, "X"]]}))
    assert [token.text for token in out.doc] == ["I", "do", "n't", "."]
    assert iobs(out.doc) == ["O", "O", "", "O"]


def test_only_the_first_five_misaligned_are_examples(made):
    out = made("a.jsonl", jsonl(*({"text": f"word{i}", "spans": [[0, 2, "X"]]} for i in range(7))))
    assert out.counts.misaligned == 7
    assert [example.tokens for example in out.counts.examples] == [(f"word{i}",) for i in range(5)]


def test_white_space_at_the_edges_is_trimmed(made):
    out = made("a.jsonl", jsonl({"text": "in  Paris \n now", "spans": [[2, 11, "LOC"], [12, 15, "T"]]}))
    assert ents(out.doc) == [("Paris", "LOC"), ("now", "T")]
    assert out.counts.trimmed == 1
    assert out.counts.misaligned == 0


def test_other_keys_are_counted(made):
    span = {"start": 0, "end": 1, "label": "X", "text": "a", "score": 1}
    out = made("a.jsonl", jsonl({"text": "a b", "id": 7, "spans": [span]}, {"text": "c", "id": 8, "meta": {}}))
    assert out.counts.ignored == {"id": 2, "meta": 1, "spans.score": 1}


def test_keys_can_be_named(made):
    out = made(
        "a.jsonl",
        jsonl({"body": "x", "kind": "a", "text": 1, "label": 2}),
        text_key="body",
        label_key="kind",
    )
    assert out.doc.text == "x"
    assert out.doc.cats == {"a": 1.0}
    assert out.counts.ignored == {"label": 1, "text": 1}


def test_blank_lines_byte_order_mark_and_windows_line_ends(made):
    out = made("a.jsonl", b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}')
    assert [doc.text for doc in out.docs] == ["a", "b"]
    assert out.counts.skipped == 2


def test_line_separators_inside_a_text_do_not_split_it(made):
    text = "a\u2028b\x85c\x0bd"
    assert made("a.jsonl", jsonl({"text": text})).doc.text == text


def test_a_text_over_spacys_max_length(made):
    text = "word " * 200_001
    assert made("a.jsonl", jsonl({"text": text})).doc.text == text


BAD = {
    "bad json": ('{"text": "a",}', "invalid JSON", "on its own line"),
    "pretty json": ('{\n"text": "a"}', "invalid JSON", "on its own line"),
    "deep json": ("[" * 100_000, "invalid JSON", "on its own line"),
    "array": ('[{"text": "a"}]', "a JSON list", "JSON Lines"),
    "number": ("3", "a JSON int", "JSON Lines"),
    "no text": ('{"body": "a"}', "no text under 'text', only the keys ['body']", "--text-key"),
    "null text": ('{"text": null}', "no text under 'text'", "--text-key"),
    "text type": ('{"text": 3}', "'text': 3", "double quotes"),
    "empty": ('{"text": ""}', "an empty text", "delete this record"),
    "blank": ('{"text": " \\n"}', "an empty text", "delete this record"),
    "surrogate": ('{"text": "a\\ud83d"}', "half a surrogate pair", "both halves"),
    "surrogate label": ('{"text": "a", "label": "\\ud83d"}', "half a surrogate pair", "both halves"),
    "label type": ('{"text": "a", "label": 1.5}', "'label': 1.5", '{"label": "NAME"}'),
    "label object": ('{"text": "a", "label": {"b": 1}}', "'label': {'b': 1}", '{"label": "NAME"}'),
    "empty label": ('{"text": "a", "label": " "}', "'label': ' '", '{"label": "NAME"}'),
    "labels type": ('{"text": "a", "labels": "b"}', "'labels': 'b'", "--label-key"),
    "labels item": ('{"text": "a", "labels": [null]}', "'labels': None", "NAME"),
    "cats type": ('{"text": "a", "cats": "b"}', "'cats': 'b'", '{"cats": {"NAME": 1.0'),
    "cats value": ('{"text": "a", "cats": {"b": "1"}}', "'cats': {'b': '1'}", "NAME"),
    "cats range": ('{"text": "a", "cats": {"b": 1.5}}', "'cats': {'b': 1.5}", "NAME"),
    "cats nan": ('{"text": "a", "cats": {"b": NaN}}', "'cats': {'b': nan}", "NAME"),
    "cats name": ('{"text": "a", "cats": {"": 1}}', "'cats': ''", "NAME"),
    "two forms": ('{"text": "a", "label": "b", "cats": {}}', "categories under 'label' and 'cats'", "keep one"),
    "two spans": ('{"text": "a", "spans": [], "entities": []}', "under 'spans' and 'entities'", "keep one"),
    "spans type": ('{"text": "a", "spans": {}}', "'spans': {}", '"start": 0'),
    "span type": ('{"text": "a", "spans": [3]}', "'spans': 3", "start, end and label"),
    "span short": ('{"text": "a", "spans": [[0, 1]]}', "'spans': [0, 1]", "start, end and label"),
    "span keys": ('{"text": "a", "spans": [{"start": 0}]}', "'spans': [0, None, None]", "start, end and label"),
    "span float": ('{"text": "a", "spans": [[0, 1.0, "X"]]}', "[0, 1.0, 'X']", "start, end and label"),
    "span bool": ('{"text": "a", "spans": [[false, true, "X"]]}', "[False, True, 'X']", "start, end and label"),
    "span label": ('{"text": "a", "spans": [[0, 1, ""]]}', "'spans.label': ''", "NAME"),
    "negative": ('{"text": "ab", "spans": [[-1, 1, "X"]]}', "from -1 to 1", "count in characters"),
    "empty span": ('{"text": "ab", "spans": [[1, 1, "X"]]}', "from 1 to 1", "count in characters"),
    "reversed": ('{"text": "ab", "spans": [[2, 1, "X"]]}', "from 2 to 1", "count in characters"),
    "too long": ('{"text": "ab", "spans": [[0, 3, "X"]]}', "from 0 to 3", "count in characters"),
    "blank span": ('{"text": "a  b", "spans": [[1, 3, "X"]]}', "white space only, 1 to 3", "correct its offsets"),
}  # fmt: skip


@pytest.mark.parametrize(("line", "found", "fix"), BAD.values(), ids=BAD)
def test_errors_say_where_what_and_how_to_fix(made, line, found, fix):
    with pytest.raises(DataError) as caught:
        made("bad.jsonl", '{"text": "fine"}\n' + line + "\n")
    assert_says(caught.value, "bad.jsonl:2", found, fix)


@pytest.mark.parametrize("spans", [[[0, 7, "A"], [4, 11, "B"]], [[0, 3, "A"], [0, 3, "B"]], [[0, 4, "A"], [1, 2, "B"]]])
def test_overlapping_entities_are_both_named(made, spans):
    with pytest.raises(DataError, match=r"bad.jsonl:1: found overlapping entities .*'A'.* and .*'B'.*; expected"):
        made("bad.jsonl", jsonl({"text": TEXT, "spans": spans}))


def test_touching_entities_do_not_overlap(made):
    out = made("a.jsonl", jsonl({"text": "it's", "spans": [[0, 2, "A"], [2, 4, "B"]]}))
    assert ents(out.doc) == [("it", "A"), ("'s", "B")]


def test_long_values_are_cut_in_messages(made):
    with pytest.raises(DataError, match=re.escape("…; expected")) as caught:
        made("bad.jsonl", jsonl({"text": ["x" * 5000]}))
    assert len(str(caught.value)) < 500


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), min_size=1, max_size=4),
    st.data(),
)
def test_texts_and_offsets_come_back_exactly(made, texts, data):
    """Whatever aligns keeps its offsets; whatever does not is counted; nothing gets lost."""
    records = []
    for text in texts:
        cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), min_size=2, max_size=6)))
        spans = [[a, b, "X"] for a, b in zip(cuts[::2], cuts[1::2], strict=False) if text[a:b].strip()]
        records.append({"text": text, "spans": spans})
    out = made("a.jsonl", "\n".join(json.dumps(record) for record in records))
    assert [doc.text for doc in out.docs] == texts
    expected = sum(len(record["spans"]) for record in records)
    assert out.counts.entities.get("X", 0) + out.counts.misaligned == expected
    assert sum(len(doc.ents) for doc in out.docs) == out.counts.entities.get("X", 0)
    for doc, record in zip(out.docs, records, strict=True):
        trimmed = set()
        for start, end, _ in record["spans"]:
            piece = record["text"][start:end]
            trimmed.add((end - len(piece.lstrip()), start + len(piece.rstrip())))
        assert {(ent.start_char, ent.end_char) for ent in doc.ents} <= trimmed
