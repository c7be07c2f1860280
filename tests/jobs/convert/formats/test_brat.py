"""brat's standoff files."""

from __future__ import annotations

import pytest
from convert_helpers import ents, iobs

from spacy_bertft.errors import DataError

TEXT = "Ada and Bob Lee\nran away"


@pytest.fixture
def folder(tmp_path):
    """`folder(ann, text)` writes a folder with one document."""

    def write(ann, text=TEXT):
        path = tmp_path / "corpus"
        path.mkdir(exist_ok=True)
        (path / "d1.txt").write_bytes(text.encode("utf-8"))
        (path / "d1.ann").write_bytes(ann.encode("utf-8"))
        return path

    return write


def test_a_folder_and_one_document_of_it(folder, converted):
    path = folder("T1\tPER 0 3\tAda\nT2\tPER 8 15\tBob Lee\n")
    (path / "d2.txt").write_text("Nobody", "utf-8")
    (path / "d2.ann").touch()
    (path / "d3.txt").write_text("not annotated", "utf-8")
    out = converted(path)
    assert out.format == "brat"
    assert [ents(doc) for doc in out.docs] == [[("Ada", "PER"), ("Bob Lee", "PER")], []]
    assert iobs(out.docs[1]) == ["O"]
    assert out.counts.rejected == 1
    for name in ("d1.ann", "d1.txt"):
        assert ents(converted(path / name).doc) == [("Ada", "PER"), ("Bob Lee", "PER")]


def test_discontinuous_spans_are_refused_and_counted(folder, converted):
    out = converted(folder("T1\tPER 0 3;12 15\tAda Lee\nT2\tPER 8 11\tBob\n"))
    assert ents(out.doc) == [("Bob", "PER")]
    assert out.counts.dropped == {"discontinuous spans": 1}
    assert iobs(out.doc)[:4] == ["", "O", "B-PER", ""]  # its tokens are not O


def test_other_annotations_are_counted(folder, converted):
    ann = (
        "T1\tPER 0 3\tAda\nT2\tRun 16 19\tran\nE1\tRun:T2 Who:T1\nR1\tKnows Arg1:T1 Arg2:T2\t\nA1\tNegation E1\n"
        "N1\tReference T1 Wikipedia:1\tAda\n*\tEquiv T1 T2\n#1\tAnnotatorNotes T1\thm\n"
    )
    out = converted(folder(ann))
    kinds = ("attributes", "equivalences", "events", "normalizations", "relations")
    assert out.counts.dropped == dict.fromkeys(kinds, 1)
    assert out.counts.ignored == {"notes": 1}
    assert ents(out.doc) == [("Ada", "PER"), ("ran", "Run")]


def test_a_span_over_a_line_break(folder, converted):
    assert ents(converted(folder("T1\tX 12 19\tLee ran\n")).doc) == [("Lee\nran", "X")]


@pytest.mark.parametrize("start", [16, 17], ids=["counted as one", "counted as two"])
def test_windows_line_ends_are_counted_as_the_annotations_do(folder, converted, start):
    path = folder(f"T1\tX {start} {start + 3}\tran\n", TEXT.replace("\n", "\r\n"))
    assert ents(converted(path).doc) == [("ran", "X")]


@pytest.mark.parametrize(
    ("offsets", "unit", "name"), [((3, 6), "utf16", "UTF-16 units"), ((5, 8), "bytes", "bytes of UTF-8")]
)
def test_offsets_in_other_units_are_detected(folder, converted, offsets, unit, name):
    start, end = offsets
    path = folder(f"T1\tPER {start} {end}\tAda\n", "😊 Ada met Bob")
    with pytest.raises(DataError, match=rf"d1\.ann:1: found the span 'Ada' .*count {name}; .*--offsets {unit}"):
        converted(path)
    assert ents(converted(path, offsets=unit).doc) == [("Ada", "PER")]


def test_a_text_that_was_changed_is_an_error(folder, converted):
    with pytest.raises(
        DataError, match=r"d1\.ann:1: found the span 'Eve' from 0 to 3, where the text has 'Ada'.*changed"
    ):
        converted(folder("T1\tPER 0 3\tEve\n"))


@pytest.mark.parametrize("line", ["T1 PER 0 3 Ada", "T1\tPER 0\tAda", "Ada\tPER", "T1\tPER 0 3"])
def test_lines_of_another_form_are_named(folder, converted, line):
    with pytest.raises(DataError, match=r"d1\.ann:2: found .*; expected an annotation of brat.*; fix: "):
        converted(folder(f"T1\tPER 0 3\tAda\n{line}\n"))


def test_each_document_needs_both_files(folder, converted):
    path = folder("T1\tPER 0 3\tAda\n")
    (path / "d1.txt").unlink()
    with pytest.raises(DataError, match=r"d1\.ann: found no d1\.txt beside it; .*fix: copy d1\.txt"):
        converted(path)


def test_another_encoding_is_named(folder, converted):
    path = folder("T1\tPER 0 3\tAda\n")
    (path / "d1.txt").write_bytes("Ada caf\u00e9".encode("latin-1"))
    with pytest.raises(DataError, match=r"d1\.txt:1: found the byte 0xe9 .*expected UTF-8.*fix: save"):
        converted(path)
