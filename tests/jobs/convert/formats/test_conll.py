from __future__ import annotations

import pytest
from convert_helpers import assert_says, ents, iobs

from spacy_bertft.errors import ConfigError, DataError

TWO = "Ada B-PER\nran O\n\nNew B-LOC\nYork I-LOC\n"


@pytest.mark.parametrize("name", ["a.iob", "a.conll", "a.bio", "a.IOB"])
@pytest.mark.parametrize("content", [TWO, TWO.replace(" ", "\t"), TWO.replace(" ", "  \t ").replace("\t", " ")])
def test_tokens_and_tags(made, name, content):
    out = made(name, content)
    assert [doc.text for doc in out.docs] == ["Ada ran ", "New York "]
    assert [ents(doc) for doc in out.docs] == [[("Ada", "PER")], [("New York", "LOC")]]
    assert [iobs(doc) for doc in out.docs] == [["B-PER", "O"], ["B-LOC", "I-LOC"]]
    assert out.counts.entities == {"LOC": 1, "PER": 1}
    assert out.counts.misaligned == 0


def test_windows_line_ends_byte_order_mark_and_blank_lines_with_spaces(made):
    out = made("a.iob", b"\xef\xbb\xbfa B-X\r\n \t\r\n\r\nb O\r\n")
    assert [[token.text for token in doc] for doc in out.docs] == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("content", "repaired"),
    [
        ("a I-X\nb I-X\nc B-X\n", 0),
        ("a B-X\nb I-X\nc B-X\n", 0),
        ("a B-X\nb L-X\nc U-X\n", 0),
        ("a B-X\nb E-X\nc S-X\n", 0),
        ("a B-X\nb I-X\nc B-X\n\nd O\ne I-Y", 1),
    ],
)
def test_schemes(made, content, repaired):
    out = made("a.iob", content)
    assert ents(out.docs[0]) == [("a b", "X"), ("c", "X")]
    assert out.counts.repaired == repaired


def test_plain_tags(made):
    out = made("a.iob", "a PER\nb PER\nc O\nd LOC\n")
    assert ents(out.doc) == [("a b", "PER"), ("d", "LOC")]


def test_docstart_and_comments_are_skipped_and_counted(made):
    content = "# text = a b\n-DOCSTART- -X- O\n\n# sent 1\na NN B-X\n# b\nb NN I-X\n-DOCSTART- -X- O\nc NN O\n"
    out = made("a.conll", content)
    assert [doc.text for doc in out.docs] == ["a b ", "c "]
    assert out.counts.skipped == 5


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_a_hash_with_a_tag_is_a_token(made, separator):
    content = "# O\na B-X\n# I-X\n# no tag\n# wow this is O\n".replace(" O\na", f"{separator}O\na")
    content = content.replace("a B", f"a{separator}B").replace("# I", f"#{separator}I")
    out = made("a.iob", content)
    assert [token.text for token in out.doc] == ["#", "a", "#"]
    assert iobs(out.doc) == ["O", "B-X", "I-X"]
    assert out.counts.skipped == 2


def test_a_file_of_hashes_only(made):
    assert iobs(made("a.iob", "# O\n# B-X\n").doc) == ["O", "B-X"]


def test_columns_can_be_chosen(made):
    content = "1 Ada NN B-PER x\n2 ran VB O x\n"
    for tag_column in (4, -2):
        out = made("a.conll", content, token_column=2, tag_column=tag_column)
        assert ents(out.doc) == [("Ada", "PER")]


def test_tsv_as_conll(made):
    assert ents(made("a.tsv", "Ada\tB-PER\n", format="conll").doc) == [("Ada", "PER")]


def test_odd_characters_are_tokens_and_spaces_may_stand_inside_them(made):
    out = made("a.iob", "\u00a0\tO\nNew York\tB-LOC\n\x85\tO\n\u200b\tI-LOC\n")
    assert [token.text for token in out.doc] == ["\u00a0", "New York", "\x85", "\u200b"]
    assert iobs(out.doc) == ["O", "B-LOC", "O", "B-LOC"]
    assert [t.text for t in made("b.iob", "\u00a0 O\nb B-X").doc] == ["\u00a0", "b"]


def test_merged_sentences(made):
    content = "a B-X\n\nb I-X\n\nc O\n-DOCSTART- O\nd U-X\n".replace("U-X", "B-X")
    out = made("a.iob", content, merge_sentences=2)
    assert [doc.text for doc in out.docs] == ["a b ", "c ", "d "]
    assert iobs(out.docs[0]) == ["B-X", "B-X"]
    assert out.counts.records == out.counts.docs == 3


BAD = {
    "one column": ("a O\nb\n", 2, "1 columns, ['b']", "--tag-column"),
    "one column only": ("a\nb\n", 1, "1 columns, ['a']", "--tag-column"),
    "ragged": ("a O\nb NN O\n", 2, "3 columns, ['b', 'NN', 'O']", "--tag-column"),
    "no token": ("a\tO\n\tO\n", 2, "no token", "delete this line"),
    "spacy's iob": ("I|PRP|O like|VBP|O\n", 1, "the tag 'like|VBP|O'", "--tag-column"),
    "number tags": ("a 0\n", 1, "the tag '0'", "label names"),
    "bare prefix": ("a O\nb B\n", 2, "the tag 'B'", "label names"),
    "mixed": ("a B-X\nb PER\n", 2, "'B-X' and 'PER'", "B-LABEL"),
    "old mac": ("a O\rb O", 1, "a bare carriage return", "line ends"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "line", "found", "fix"), BAD.values(), ids=BAD)
def test_errors_say_where_what_and_how_to_fix(made, content, line, found, fix):
    with pytest.raises(DataError) as caught:
        made("a.iob", content)
    assert_says(caught.value, f"a.iob:{line}", found, fix)


def test_columns_that_are_not_there(made):
    with pytest.raises(DataError, match=r"a\.iob:1: found 2 columns.*expected at least 3.*--token-column"):
        made("a.iob", "a O\n", token_column=3)


@pytest.mark.parametrize("option", ["token_column", "tag_column", "merge_sentences"])
def test_zero_is_refused(made, option):
    with pytest.raises(ConfigError, match=f"{option}: found 0; expected 1 or more.*fix: "):
        made("a.iob", TWO, **{option: 0})


@pytest.mark.parametrize("content", ["# only\n# comments here\n", "\n\n", "-DOCSTART- O\n"])
def test_no_sentence_is_no_data(made, content):
    with pytest.raises(DataError, match=r"a\.iob: found no records"):
        made("a.iob", content)
