from __future__ import annotations

import pytest
from convert_helpers import assert_says, ents, iobs

from spacy_bertft.errors import DataError

TEXT = "Ada met Bob"


def test_neighbouring_rows_of_a_text_are_its_entities(made):
    rows = f"text,start,end,label\n{TEXT},8,11,PER\n{TEXT}, 0 ,3,PER\nIn Bern,3,7,LOC\nNobody,,,\n"
    out = made("a.csv", rows)
    assert [ents(doc) for doc in out.docs] == [[("Ada", "PER"), ("Bob", "PER")], [("Bern", "LOC")], []]
    assert iobs(out.docs[2]) == ["O"]
    assert [doc.cats for doc in out.docs] == [{}, {}, {}]
    assert (out.counts.ignored, out.counts.categories) == ({}, {})


@pytest.mark.parametrize("names", ["start_offset\tend_offset", "start\tend"])
def test_rows_of_one_id_may_lie_apart(made, names):
    rows = f"id\ttext\t{names}\tkind\n1\t{TEXT}\t0\t3\tPER\n2\tYes\t\t\t\n3\tYes\t\t\t\n1\t{TEXT}\t8\t11\tPER\n"
    out = made("a.tsv", rows, label_key="kind")
    assert [(doc.text, len(doc.ents)) for doc in out.docs] == [(TEXT, 2), ("Yes", 0), ("Yes", 0)]
    assert out.counts.ignored == {}


def test_the_same_text_again_with_the_same_entities(made):
    rows = f"text,start,end,label,score\n{TEXT},0,3,PER,1\nNo,,,,\n{TEXT},0,3,PER,1\n"
    out = made("a.csv", rows)
    assert [doc.text for doc in out.docs] == [TEXT, "No", TEXT]
    assert out.counts.ignored == {"score": 3}


def test_texts_of_their_own_ids_may_be_alike(made):
    out = made("a.csv", "id,text,start,end,label\n1,Ada,0,3,PER\n2,Ada,0,3,PER\n3,Ada,,,\n")
    assert [ents(doc) for doc in out.docs] == [[("Ada", "PER")], [("Ada", "PER")], []]


BAD = {
    "no number": ("text,start,end,label\nAda,0:10,3,PER\n", 2, "'start': '0:10'", "rename the columns"),
    "half": ("text,start,end,label\nAda,0,3,\n", 2, "start '0', end '3' and label ''", "fill in all three"),
    "beyond": ("text,start,end,label\nAda,0,4,PER\n", 2, "an entity from 0 to 4", "count in characters"),
    "overlap": (f"text,start,end,label\n{TEXT},0,3,PER\n{TEXT},0,7,X\n", 2, "overlapping", "keep one"),
    "apart": (f"text,start,end,label\n{TEXT},0,3,PER\nNo,,,\n{TEXT},8,11,X\n", 4, "the text of line 2 again", "sort"),
    "texts": ("id,text,start,end,label\n1,Ada,0,3,PER\n1,Bob,0,3,PER\n", 3, "a different text", "its own id"),
    "row ids": (f"id,text,start,end,label\n1,{TEXT},0,3,PER\n2,{TEXT},8,11,PER\n", 3, "an id for each row", "same id"),
    "labels": ("text,start,end,labels\nAda,0,3,PER\n", 1, "'start', 'end', 'labels'", "--label-key labels"),
    "no text": ("text,start,end,label\n ,0,3,PER\n", 2, "an empty text", "delete this row"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "line", "found", "fix"), BAD.values(), ids=BAD)
def test_errors_say_where_what_and_how_to_fix(made, content, line, found, fix):
    with pytest.raises(DataError) as caught:
        made("a.csv", content)
    assert_says(caught.value, f"a.csv:{line}", found, fix)
