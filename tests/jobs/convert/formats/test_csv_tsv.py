from __future__ import annotations

import csv
import io

import pytest
from convert_helpers import assert_says
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spacy_bertft.errors import DataError


def test_csv_with_a_label(made):
    out = made("a.csv", 'text,label,id\n"one, two", ham ,1\n\nthree,spam,2\n')
    assert [doc.text for doc in out.docs] == ["one, two", "three"]
    assert [doc.cats for doc in out.docs] == [{"ham": 1.0, "spam": 0.0}, {"ham": 0.0, "spam": 1.0}]
    assert out.counts.ignored == {"id": 2}
    assert out.counts.skipped == 1
    assert all(token.ent_iob == 0 for doc in out.docs for token in doc)


def test_tsv_with_labels(made):
    out = made("a.tsv", "labels\ttext\na| b|a\tone\n\ttwo\n")
    assert [doc.cats for doc in out.docs] == [{"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.0}]


def test_the_separator_of_labels_can_be_chosen(made):
    out = made("a.tsv", "labels\ttext\na;b|c\tone\n", label_separator=";")
    assert out.doc.cats == {"a": 1.0, "b|c": 1.0}


def test_columns_can_be_named(made):
    out = made("a.csv", "text,label,body,kind\n1,2,hello,x\n", text_key="body", label_key="kind")
    assert (out.doc.text, out.doc.cats) == ("hello", {"x": 1.0})


def test_byte_order_mark_and_windows_line_ends(made):
    out = made("a.csv", b"\xef\xbb\xbftext,label\r\na,x\r\n")
    assert (out.doc.text, out.doc.cats) == ("a", {"x": 1.0})


def test_format_goes_before_the_ending(made):
    assert made("a.txt", "text\tlabel\na\tx\n", format="tsv").doc.cats == {"x": 1.0}


def test_a_field_over_the_csv_modules_limit(made):
    before = csv.field_size_limit(131_072)
    assert len(made("a.csv", f"text,label\n{'word ' * 40_000},x\n").doc.text) == 200_000
    assert csv.field_size_limit(before) == 131_072


def test_quotes_can_be_plain_characters(made):
    out = made("a.tsv", 'text\tlabel\n"hello\tx\nsay "bye\ty\n', quotes=False)
    assert [doc.text for doc in out.docs] == ['"hello', 'say "bye']


BAD = {
    "no header": ("a.csv", "hello,ham\n", 1, "the columns ['hello', 'ham']", "--text-key"),
    "semicolons": ("a.csv", "text;label\na;b\n", 1, "the columns ['text;label']", "--text-key"),
    "no label": ("a.csv", "text,kind\na,b\n", 1, "the columns ['text', 'kind']", "--label-key"),
    "both": ("a.csv", "text,label,labels\na,b,c\n", 1, "['text', 'label', 'labels']", "--labels-key"),
    "twice": ("a.csv", "text,label,text\na,b,c\n", 1, "['text', 'label', 'text']", "rename"),
    "short row": ("a.csv", "text,label\na,b\n\nc\n", 4, "1 columns, ['c']", "double quotes"),
    "long row": ("a.csv", "text,label\na,b,c\n", 2, "3 columns", "double quotes"),
    "empty text": ("a.csv", 'text,label\n"a\nb",c\n ,x\n', 4, "an empty text", "delete this row"),
    "empty label": ("a.csv", "text,label\na, \n", 2, "an empty label", "delete this row"),
    "open quote": ("a.csv", 'text,label\na,b\n"c,d\ne,f\n', 3, "can't be split", "--no-quotes"),
    "bad quote": ("a.csv", 'text,label\n"a" b,c\n', 2, "can't be split", "--no-quotes"),
    "stray": ("a.tsv", 'text\tlabel\n"a\tx\nb"\ty\n', 2, "tabs and line breaks in it, up to line 3", "--no-quotes"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "line", "found", "fix"), BAD.values(), ids=BAD)
def test_errors_say_where_what_and_how_to_fix(made, name, content, line, found, fix):
    with pytest.raises(DataError) as caught:
        made(name, content)
    assert_says(caught.value, f"{name}:{line}", found, fix)


def test_a_header_alone_is_no_data(made):
    with pytest.raises(DataError, match=r"a\.csv: found no records"):
        made("a.csv", "text,label\n")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip),
        min_size=1,
        max_size=5,
    )
)
def test_texts_come_back_exactly(made, texts):
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "label"), *((text, "x") for text in texts)])
    assert [doc.text for doc in made("a.csv", file.getvalue()).docs] == texts
