from __future__ import annotations

import gzip
import json
import lzma
import tracemalloc
from io import BytesIO

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import DocBin

from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.pretraining import texts
from spacy_bertft.jobs.pretraining.texts import read_documents, text_files

pytestmark = pytest.mark.touches_transformers

PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}
WANTED = [["One here.", "Two there."], ["Drei für Müller."]]


def write(folder, name, content, packing=""):
    path = folder / f"{name}{packing}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PACK[packing](content if isinstance(content, bytes) else content.encode()))
    return path


def docbin(*records):
    nlp = spacy.blank("xx")
    return DocBin(docs=[nlp.make_doc(text) for text in records]).to_bytes()


CONTENTS = {
    ".txt": "\ufeffOne here.  \r\n\tTwo there.\r\n \t\r\n\n\nDrei für Müller.".encode(),
    ".jsonl": "\n".join(
        json.dumps({"text": text}) for text in ("One here.\n\n Two there.", " \n", "Drei für Müller.\n")
    ),
    ".spacy": docbin("One here.\n\n Two there.", " \n", "Drei für Müller.\n"),
}


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("kind", CONTENTS)
def test_all_kinds_of_files_give_documents_of_texts(tmp_path, kind, packing):
    path = write(tmp_path, f"a{kind}", CONTENTS[kind], packing)
    assert list(read_documents([path])) == WANTED


def test_files_of_compressed_members_are_read_to_the_end(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"a\n") + gzip.compress(b"b\n"))
    assert list(read_documents([path])) == [["a", "b"]]


def test_folders_are_walked_in_order_and_each_file_is_read_once(tmp_path):
    for name in ("b.txt", "a/z.TXT", "a/y.txt.gz", ".hidden.txt", ".git/c.txt", "notes.md"):
        write(tmp_path, name, gzip.compress(name.encode()) if name.endswith(".gz") else name)
    files = text_files([tmp_path / "b.txt", tmp_path])
    assert [str(file.relative_to(tmp_path)) for file in files] == ["b.txt", "a/y.txt.gz", "a/z.TXT"]
    assert list(read_documents([tmp_path])) == [["a/y.txt.gz"], ["a/z.TXT"], ["b.txt"]]


def test_a_hidden_file_is_read_if_it_is_named_and_so_is_one_in_a_hidden_folder(tmp_path):
    path = write(tmp_path, ".cache/texts/a.txt", "x")
    assert text_files([path]) == text_files([path.parent]) == [path]


def test_text_key(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"body": "x", "text": 3}\n\n{"body": "y"}')
    assert list(read_documents([path], text_key="body")) == [["x"], ["y"]]


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path):
    path = write(tmp_path, "a.jsonl", r'{"text": "a \ud83d b \ud83d\ude00"}')
    assert list(read_documents([path])) == [["a ? b 😀"]]


def test_long_documents_come_as_several(tmp_path, monkeypatch):
    path = write(tmp_path, "a.txt", "a\nb\nc\n\nd\ne\n")
    monkeypatch.setattr(texts, "MAX_TEXTS", 2)
    assert list(read_documents([path])) == [["a", "b"], ["c"], ["d", "e"]]
    monkeypatch.setattr(texts, "MAX_CHARACTERS", 1)
    assert list(read_documents([path])) == [["a"], ["b"], ["c"], ["d"], ["e"]]


@given(st.lists(st.text("ab é東\t", max_size=30), max_size=6))
def test_long_lines_are_cut_at_white_space_and_nothing_is_lost(lines):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "MAX_BYTES", 10)
        pieces = [
            (number, raw.decode(), whole) for number, raw, whole in texts._lines(BytesIO("\n".join(lines).encode()))
        ]
    for number, line in enumerate(lines, 1):
        own = [piece for place, piece, _ in pieces if place == number]
        assert "".join(own).rstrip("\n") == line
        assert all(len(piece.encode()) <= 10 for piece in own)
        assert all(piece[-1].isspace() or not set(piece) & set(" \t") for piece in own[:-1])
        wholes = [whole for place, _, whole in pieces if place == number]
        if len(line.encode()) < 9 and own:
            assert wholes == [True]
        assert len(own) == 1 or not any(wholes)


def test_white_space_inside_a_long_line_divides_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "MAX_BYTES", 4)
    path = write(tmp_path, "a.txt", "a" + " " * 20 + "b\n" + "c" * 6)
    assert list(read_documents([path])) == [["a", "b", "ccc", "ccc"]]


@pytest.mark.parametrize("packing", ["", ".gz"])
def test_a_line_of_50_mb_takes_bounded_memory(tmp_path, packing):
    path = tmp_path / f"a.txt{packing}"
    with gzip.open(path, "wb", 1) if packing else path.open("wb") as file:
        for _ in range(50):
            file.write(b"word " * 200_000)
    tracemalloc.start()
    try:
        size = sum(len(text) + 1 for document in read_documents([path]) for text in document)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 50_000_000
    assert peak < 40_000_000


def test_progress_counts_bytes_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "_PROGRESS_STEP", 1)
    first, second = write(tmp_path, "a.txt", "a\n\nb\n"), write(tmp_path, "b.txt", b"c\n" * 9, ".xz")
    total = sum(path.stat().st_size for path in (first, second))
    seen = []
    list(read_documents([tmp_path], progress=lambda done, of: seen.append((done, of))))
    assert seen == sorted(seen)
    assert {of for _, of in seen} == {total}
    assert seen[-1] == (total, total)


BAD = {
    "latin-1": ("a.txt", "x\nMüller\n".encode("latin-1"), r"a\.txt:2: found the byte 0xfc at byte 2 of the line"),
    "utf-16": ("a.txt", "x".encode("utf-16"), r"a\.txt:1: found a NUL .*UTF-16.* save the file as UTF-8"),
    "binary": ("a.txt", b"x\ny\0z", r"a\.txt:2: found a NUL at byte 2 .*binary"),
    "binary jsonl": ("a.jsonl", b"\0\1\2", r"a\.jsonl:1: found a NUL"),
    "empty": ("a.txt", b"", r"a\.txt: found no text"),
    "blank": ("a.txt", b" \n\n", r"a\.txt: found no text"),
    "cut gz": ("a.txt.gz", gzip.compress(b"abcdef\n" * 99)[:-9], r"a\.txt\.gz: found a compressed file that is cut"),
    "cut xz": ("a.txt.xz", lzma.compress(b"abcdef\n" * 99)[:-9], r"a\.txt\.xz: found a compressed file that is cut"),
    "no gz": ("a.txt.gz", b"plain\n", r"a\.txt\.gz: found a compressed file that can't be decompressed"),
    "no xz": ("a.txt.xz", b"plain\n" * 9, r"a\.txt\.xz: found a compressed file that can't be decompressed"),
    "damaged gz": ("a.txt.gz", gzip.compress(b"abcd\n")[:10] + b"\xff" * 20, r"can't be decompressed"),
    "no json": ("a.jsonl", b'{"text": "x"}\n{text', r"a\.jsonl:2: found invalid JSON"),
    "no object": ("a.jsonl", b'["x"]', r"a\.jsonl:1: found no text under 'text' \(list\)"),
    "no key": ("a.jsonl", b'{"body": "x"}', r"no text under 'text' \(the keys 'body'\).*text_key"),
    "no string": ("a.jsonl", b'{"text": null}', r"no text under 'text'"),
    "no docbin": ("a.spacy", b"plain", r"a\.spacy: found a file that spaCy can't read"),
    "ending": ("a.pdf", b"x", r"a\.pdf: found a file name that ends in '\.pdf'; expected \.txt, .*\.gz"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_named(tmp_path, case):
    name, content, message = BAD[case]
    with pytest.raises(DataError, match=message):
        list(read_documents([write(tmp_path, name, content)]))


def test_paths_that_hold_nothing_are_named(tmp_path):
    with pytest.raises(DataError, match="a folder without any text file"):
        text_files([tmp_path])
    with pytest.raises(DataError, match="no such file"):
        text_files([tmp_path / "a.txt"])
    with pytest.raises(ConfigError, match="paths: found none"):
        list(read_documents([]))
    with pytest.raises(ConfigError, match="text_key"):
        list(read_documents([tmp_path], text_key=""))


def test_an_empty_file_among_others_is_passed_over(tmp_path):
    write(tmp_path, "a.txt", "")
    write(tmp_path, "b.txt", "x")
    assert list(read_documents([tmp_path])) == [["x"]]


def test_the_readers_errors_are_not_mixed_with_the_callers(tmp_path):
    documents = read_documents([write(tmp_path, "a.txt", "a\n\nb\n")])
    next(documents)
    with pytest.raises(OSError, match="mine"):
        documents.throw(OSError("mine"))


def test_files_of_folders_are_excluded_by_patterns_of_their_names(tmp_path):
    for name in ("a.txt", "sub/b_test.txt", "sub/c.txt", "c_test.txt"):
        write(tmp_path, name, "text")
    found = [path.name for path in text_files([tmp_path], exclude=["*_test.txt"])]
    assert found == ["a.txt", "c.txt"]
    named = text_files([tmp_path / "c_test.txt", tmp_path / "sub"], exclude=["b*"])
    assert [path.name for path in named] == ["c_test.txt", "c.txt"]


@pytest.mark.parametrize(
    ("patterns", "found"), [(["*.txt", "d*", "A*"], r"\['A\*', 'd\*'\] match no file"), (["*.txt"], "leave no file")]
)
def test_a_pattern_that_excludes_nothing_or_all_is_refused(tmp_path, patterns, found):
    write(tmp_path, "a.txt", "text")
    with pytest.raises(ConfigError, match=rf"exclude: found .* {found}.*; expected .*; fix: correct them"):
        text_files([tmp_path], exclude=patterns)
