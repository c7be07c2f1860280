from __future__ import annotations

import json

import pytest
from convert_helpers import assert_says, jsonl

from spacy_bertft.convert import convert
from spacy_bertft.errors import ConfigError, DataError

PAIR = {"first": "Is it open?", "second": "When do you open?"}
TABLES = {"tsv": "\t", "csv": ","}


def segments(doc):
    return [span.text for span in doc.spans["segments"]]


def table(ending, *rows):
    return "".join(TABLES[ending].join(row) + "\n" for row in rows)


@pytest.mark.parametrize("ending", TABLES)
def test_two_columns_are_the_segments(made, ending):
    rows = [("label", "second", "id", "first"), ("same", "b c", "1", "a"), (" other ", "e", "2", "d ")]
    out = made(f"a.{ending}", table(ending, *rows))
    assert [doc.text for doc in out.docs] == ["a\tb c", "d \te"]
    assert [segments(doc) for doc in out.docs] == [["a", "b c"], ["d", "e"]]
    assert [doc.cats for doc in out.docs] == [{"other": 0.0, "same": 1.0}, {"other": 1.0, "same": 0.0}]
    assert out.counts.ignored == {"id": 2}
    assert out.counts.categories == {"other": 1, "same": 1}


def test_two_keys_are_the_segments(made):
    out = made("a.jsonl", jsonl({**PAIR, "label": "same"}, {"second": "b", "first": "a", "label": "other"}))
    assert [segments(doc) for doc in out.docs] == [list(PAIR.values()), ["a", "b"]]
    assert [doc.cats for doc in out.docs] == [{"other": 0.0, "same": 1.0}, {"other": 1.0, "same": 0.0}]


def test_pairs_may_lie_beside_single_texts(made):
    out = made("a.jsonl", jsonl({**PAIR, "label": "x"}, {"text": "alone", "label": "y"}))
    assert segments(out.docs[0]) == list(PAIR.values())
    assert out.docs[1].text == "alone"
    assert "segments" not in out.docs[1].spans


def test_labels_are_several_categories(made):
    expected = [{"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.0}]
    assert [
        doc.cats
        for doc in made("a.jsonl", jsonl({**PAIR, "labels": ["b", "a"]}, {**PAIR, "labels": []})).docs
    ] == expected  # fmt: skip
    rows = table("tsv", ("first", "second", "labels"), ("x", "y", "b| a"), ("x", "y", ""))
    assert [doc.cats for doc in made("a.tsv", rows).docs] == expected
    assert made("b.tsv", rows.replace("|", ";"), label_separator=";").docs[0].cats == expected[0]


def test_cats_are_kept_and_no_label_is_no_annotation(made):
    out = made("a.jsonl", jsonl({**PAIR, "cats": {"a": 0.25, "b": 0.75}}, PAIR, {**PAIR, "label": None}))
    assert [doc.cats for doc in out.docs] == [{"a": 0.25, "b": 0.75}, {}, {}]


@pytest.mark.parametrize("ending", [*TABLES, "jsonl"])
def test_keys_can_be_named(made, ending):
    names, values = ("premise", "hypothesis", "gold", "first"), ("a", "b", "x", "no")
    one = dict(zip(names, values, strict=True))
    content = jsonl(one) if ending == "jsonl" else table(ending, names, values)
    out = made(f"a.{ending}", content, first_key="premise", second_key="hypothesis", label_key="gold")
    assert segments(out.doc) == ["a", "b"]
    assert out.doc.cats == {"x": 1.0}
    assert out.counts.ignored == {"first": 1}


@pytest.mark.parametrize("ending", [*TABLES, "jsonl"])
def test_text_goes_before_first_and_second(made, ending):
    one = {"text": "alone", "first": "a", "second": "b", "label": "x"}
    out = made(f"a.{ending}", jsonl(one) if ending == "jsonl" else table(ending, one.keys(), one.values()))
    assert out.doc.text == "alone"
    assert "segments" not in out.doc.spans
    assert out.counts.ignored == {"first": 1, "second": 1}


def test_a_null_text_is_as_absent(made):
    out = made("a.jsonl", jsonl({**PAIR, "text": None, "label": "x"}))
    assert segments(out.doc) == list(PAIR.values())
    assert not {"first", "second"} & set(out.counts.ignored)


def test_spans_of_pairs_are_not_used(made):
    out = made("a.jsonl", jsonl({**PAIR, "label": "x", "spans": [[0, 2, "X"]], "entities": [], "id": 3}))
    assert not out.doc.ents
    assert out.counts.entities == {}
    assert out.counts.ignored == {"entities": 1, "id": 1, "spans": 1}


def test_line_breaks_quotes_and_tabs_in_the_second_text(made):
    out = made("a.csv", 'first,second,label\n"say ""a"", b","one\ntwo\tthree",x\n')
    assert segments(out.doc) == ['say "a", b', "one\ntwo\tthree"]
    assert made("a.tsv", 'first\tsecond\tlabel\n"a\t"b\tx\n', quotes=False).doc.text == '"a\t"b'
    assert segments(made("a.jsonl", jsonl({"first": "a", "second": "b\tc"})).doc) == ["a", "b\tc"]


def test_categories_are_those_of_all_inputs(tmp_path):
    (tmp_path / "train.tsv").write_text("first\tsecond\tlabel\na\tb\tx\n")
    (tmp_path / "dev.jsonl").write_text(json.dumps({**PAIR, "label": "y"}))
    report = convert([tmp_path / "train.tsv", tmp_path / "dev.jsonl"], tmp_path / "out")
    assert [file.counts.categories for file in report.files] == [{"x": 1, "y": 0}, {"x": 0, "y": 1}]


BAD = {
    "no second column": ("a.tsv", "first\tlabel\na\tx\n", 1, "the columns ['first', 'label']", "second_key"),
    "no first column": ("a.csv", "second,label\na,x\n", 1, "the columns ['second', 'label']", "first_key"),
    "no label": ("a.tsv", "first\tsecond\na\tb\n", 1, "['first', 'second']", "--label-key"),
    "both labels": ("a.tsv", "first\tsecond\tlabel\tlabels\n", 1, "'label', 'labels']", "--labels-key"),
    "twice": ("a.tsv", "first\tsecond\tfirst\tlabel\n", 1, "'first', 'label']", "rename"),
    "short row": ("a.tsv", "first\tsecond\tlabel\na\tx\n", 2, "2 columns, ['a', 'x']", "double quotes"),
    "empty first": ("a.csv", "first,second,label\n ,b,x\n", 2, "an empty text", "delete this row"),
    "empty second": ("a.tsv", "first\tsecond\tlabel\na\tb\tx\na\t\tx\n", 3, "an empty text", "delete this row"),
    "empty label": ("a.tsv", "first\tsecond\tlabel\na\tb\t\n", 2, "an empty label", "delete this row"),
    "no second key": ("a.jsonl", '{"first": "a"}', 1, "no text under 'second', only the keys ['first']", "second_key"),
    "no first key": ("a.jsonl", '{"second": "a"}', 1, "no text under 'first'", "first_key"),
    "null second": ("a.jsonl", '{"first": "a", "second": null}', 1, "no text under 'second'", "second_key"),
    "second type": ("a.jsonl", '{"first": "a", "second": ["b"]}', 1, "'second': ['b']", "double quotes"),
    "empty second key": ("a.jsonl", '{"first": "a", "second": " "}', 1, "an empty text", "delete this record"),
    "surrogate": ("a.jsonl", '{"first": "a", "second": "\\ud83d"}', 1, "half a surrogate pair", "both halves"),
    "two forms": ("a.jsonl", json.dumps({**PAIR, "label": "x", "cats": {}}), 1, "'label' and 'cats'", "keep one"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "line", "found", "fix"), BAD.values(), ids=BAD)
def test_errors_say_where_what_and_how_to_fix(made, name, content, line, found, fix):
    with pytest.raises(DataError) as caught:
        made(name, content)
    assert_says(caught.value, f"{name}:{line}", found, fix)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [("a.jsonl", '{"first": "a\\tb", "second": "c"}', 1), ("a.csv", 'first,second,label\n"a\tb",c,x\n', 2)],
)
def test_a_tab_in_the_first_text_is_an_error(made, name, content, line):
    with pytest.raises(DataError, match=rf"{name}:{line}: found a tab in the first of two texts, 'a\\tb'; .*a space"):
        made(name, content)


@pytest.mark.parametrize("keys", [{"first_key": "second"}, {"second_key": "text"}, {"first_key": "label"}])
def test_keys_that_are_the_same_are_an_error(made, keys):
    with pytest.raises(ConfigError, match=r"expected different names; fix: .*--first-key, --second-key"):
        made("a.jsonl", jsonl(PAIR), **keys)


@pytest.mark.parametrize("key", ["first_key", "second_key"])
def test_a_key_without_a_name_is_an_error(made, key):
    with pytest.raises(ConfigError, match=f"{key}: found an empty string"):
        made("a.jsonl", jsonl(PAIR), **{key: ""})
