"""A number of each text, such as a rating."""

from __future__ import annotations

import json
import math

import pytest
import spacy
from convert_helpers import jsonl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spacy.tokens import DocBin

from spacy_bertft.components.doc_values import value_of
from spacy_bertft.convert import convert
from spacy_bertft.errors import DataError
from spacy_bertft.jobs.convert.corpus import create_corpus


def values(docs):
    return [value_of(doc) for doc in docs]


def test_json_lines_of_texts(made):
    out = made("a.jsonl", jsonl({"text": "one", "value": 3.5}, {"text": "two", "value": -2}, {"text": "three"}))
    assert values(out.docs) == [3.5, -2.0, None]
    assert [type(value) for value in values(out.docs)[:2]] == [float, float]
    assert [doc.cats for doc in out.docs] == [{}, {}, {}]
    assert (out.counts.valued, out.counts.value_sum, out.counts.lowest, out.counts.highest) == (2, 1.5, -2.0, 3.5)
    assert out.counts.ignored == {}


def test_json_lines_of_pairs(made):
    out = made("a.jsonl", jsonl({"first": "a b", "second": "c", "value": 0}))
    assert values(out.docs) == [0.0]
    assert [span.text for span in out.doc.spans["segments"]] == ["a b", "c"]


@pytest.mark.parametrize(
    ("given", "cats"),
    [({"label": "x"}, {"x": 1.0}), ({"labels": ["x"]}, {"x": 1.0}), ({"cats": {"x": 0.25}}, {"x": 0.25})],
)
def test_beside_categories_only_by_another_name(made, given, cats):
    record = {"text": "Ada", "spans": [[0, 3, "PER"]], **given}
    out = made("a.jsonl", jsonl({**record, "stars": 4}), value_key="stars")
    assert (value_of(out.doc), out.doc.cats, [ent.text for ent in out.doc.ents]) == (4.0, cats, ["Ada"])
    for value in (4, "x"):  # the file's own affair, as ever
        out = made("b.jsonl", jsonl({**record, "value": value}))
        assert (value_of(out.doc), out.doc.cats, out.counts.ignored) == (None, cats, {"value": 1})


def test_columns_beside_categories_only_by_another_name(made):
    out = made("a.csv", "text,label,stars\na,x,4\n", value_key="stars")
    assert (value_of(out.doc), out.doc.cats) == (4.0, {"x": 1.0})
    out = made("b.csv", "text,label,value\na,x,four\n")
    assert (value_of(out.doc), out.doc.cats, out.counts.ignored) == (None, {"x": 1.0}, {"value": 1})


def test_a_category_may_have_the_name_of_the_number(made):
    assert made("a.csv", "text,value\na,x\n", label_key="value").doc.cats == {"x": 1.0}
    assert made("b.jsonl", jsonl({"text": "a", "value": 3}), label_key="value").doc.cats == {"3": 1.0}


def test_beside_entities(made):
    out = made("a.jsonl", jsonl({"text": "Ada", "value": 4, "spans": [[0, 3, "PER"]]}))
    assert (value_of(out.doc), [ent.text for ent in out.doc.ents]) == (4.0, ["Ada"])


def test_null_is_no_value(made):
    assert values(made("a.jsonl", jsonl({"text": "a", "value": None})).docs) == [None]


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t")])
def test_columns(made, name, separator):
    rows = [("text", "value", "id"), ("one", " 3.5 ", "1"), ("two", "-1e2", "2"), ("three", "7", "3")]
    out = made(name, "".join(separator.join(row) + "\n" for row in rows))
    assert values(out.docs) == [3.5, -100.0, 7.0]
    assert (out.counts.valued, out.counts.lowest, out.counts.highest) == (3, -100.0, 7.0)
    assert out.counts.ignored == {"id": 3}


def test_columns_of_pairs(made):
    out = made("a.tsv", "first\tsecond\tvalue\na\tb\t4.2\n")
    assert (values(out.docs), [span.text for span in out.doc.spans["segments"]]) == ([4.2], ["a", "b"])


def test_the_key_can_be_named(made):
    assert values(made("a.jsonl", jsonl({"text": "a", "stars": 5}), value_key="stars").docs) == [5.0]
    assert values(made("a.csv", "text,stars\na,5\n", value_key="stars").docs) == [5.0]
    assert made("b.jsonl", jsonl({"text": "a", "value": "x"}), value_key="stars").counts.ignored == {"value": 1}


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ('"4"', "'4'"), ('""', "''"), ("true", "True"), ("false", "False"), ("[4]", "[4]"), ("{}", "{}"),
        ("NaN", "nan"), ("Infinity", "inf"), ("-Infinity", "-inf"), ("1e999", "inf"), ("1" * 400, "1111"),
    ],
)  # fmt: skip
def test_json_that_is_no_number(made, written, found):
    with pytest.raises(DataError) as caught:
        made("a.jsonl", '{"text": "a"}\n{"text": "a", "value": ' + written + "}\n")
    message = str(caught.value)
    assert f"a.jsonl:2: found 'value': {found}" in message
    assert '; expected a finite number; fix: write it as {"value": 3.5}' in message


@pytest.mark.parametrize("written", ["", " ", "four", '"4,5"', "nan", "inf", "-inf", "1e999", "1_000", "4 %", "0x10"])
def test_a_cell_that_is_no_number(made, written):
    with pytest.raises(DataError) as caught:
        made("a.csv", f"text,value\na,1\nb,{written}\n")
    message = str(caught.value)
    assert "a.csv:3: found 'value': " in message
    assert "; expected a finite number; fix: write it with a decimal point" in message


@pytest.mark.parametrize("header", ["text,kind", "text,label,labels", "text,label,labels,value"])
def test_a_table_has_one_column_to_learn(made, header):
    with pytest.raises(DataError) as caught:
        made("a.csv", f"{header}\n")
    message = str(caught.value)
    assert f"a.csv:1: found the columns {header.split(',')}" in message
    assert "expected one column 'label' (one category), 'labels' (several) or 'value' (a number)" in message
    assert all(option in message for option in ("--label-key", "--labels-key", "--value-key"))


def test_totals(tmp_path):
    (tmp_path / "a.jsonl").write_text(jsonl({"text": "a", "value": 1}, {"text": "a", "value": 4}), "utf-8")
    (tmp_path / "b.csv").write_text("text,value\nb,-5\n", "utf-8")
    (tmp_path / "c.jsonl").write_text(jsonl({"text": "c", "label": "x"}), "utf-8")
    report = convert([tmp_path / name for name in ("a.jsonl", "b.csv", "c.jsonl")], tmp_path / "out")
    total = report.total
    assert (total.valued, total.value_sum, total.lowest, total.highest) == (3, 0.0, -5.0, 4.0)
    last = report.files[2].counts
    assert (last.valued, last.value_sum, last.lowest, last.highest) == (0, 0.0, math.inf, -math.inf)


def test_they_stay_without_user_data(made):
    doc = made("a.jsonl", jsonl({"text": "a", "value": 2.5})).doc
    packed = DocBin(docs=[doc], store_user_data=False).to_bytes()
    (again,) = DocBin().from_bytes(packed).get_docs(doc.vocab)
    assert value_of(again) == again._.value == 2.5
    assert len(again.spans["value"]) == 0


def test_the_corpus_reader_gives_them_to_the_references_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl({"text": "a", "value": 2.5}, {"text": "b"}), "utf-8")
    convert([path], tmp_path / "a.spacy")
    for source in (path, tmp_path / "a.spacy"):
        egs = list(create_corpus(source)(spacy.blank("en")))
        assert values(eg.reference for eg in egs) == [2.5, None]
        assert values(eg.predicted for eg in egs) == [None, None]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_numbers_come_back_exactly(made, numbers):
    records = [{"text": "a", "value": number} for number in numbers]
    assert values(made("a.jsonl", "".join(json.dumps(record) + "\n" for record in records)).docs) == numbers
    assert values(made("a.csv", "text,value\n" + "".join(f"a,{number!r}\n" for number in numbers)).docs) == numbers
