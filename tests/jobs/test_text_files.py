"""Lines of files and JSON, and what is said where they are something else."""

from __future__ import annotations

import os

import pytest

from spacy_bertft.errors import DataError
from spacy_bertft.jobs.text_files import check_model, check_plain, decode, lines, parse_json, without_mark


def test_lines_keep_their_ends_and_lose_the_byte_order_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffé\r\n\n\ufeffb".encode())
    assert list(lines(tmp_path / "a.txt")) == [(1, "é\r\n"), (2, "\n"), (3, "\ufeffb")]


def test_only_the_first_line_has_a_mark():
    marked = "\ufeffa".encode()
    assert (without_mark(marked, 1), without_mark(marked, 2)) == (b"a", marked)


def test_a_byte_that_is_no_utf8_is_named():
    assert decode("é".encode(), "a:1", guess="", fix="") == "é"
    with pytest.raises(DataError) as caught:
        decode(b"caf\xe9\n", "a:3", guess=" (it is Latin-1)", fix="convert it")
    said = "a:3: found the byte 0xe9 at byte 4 of the line (it is Latin-1); expected UTF-8 text; fix: convert it"
    assert str(caught.value) == said
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("text", ['{"a": [1, null]}', b'{"a": [1, null]}'])
def test_json(text):
    assert parse_json(text, "a:1", expected="", fix="") == {"a": [1, None]}


@pytest.mark.parametrize("text", ["", "{a", "[" * 100_000, b"\xff", "1" * 5_000])
def test_what_is_no_json_is_said(text):
    with pytest.raises(DataError) as caught:
        parse_json(text, "a:1", expected="one object", fix="write one")
    message = str(caught.value)
    assert message.startswith("a:1: found invalid JSON (")
    assert message.endswith("); expected one object; fix: write one")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_fifo_in_a_folder_is_refused_before_anyone_waits_for_it(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for check in (check_plain, lambda folder: check_model(str(folder))):
        check(tmp_path)
    os.mkfifo(tmp_path / "in" / "b.txt")
    for check in (check_plain, lambda folder: check_model(str(folder))):
        with pytest.raises(DataError, match=r"b\.txt: found something that is not a regular file; expected .*; fix: "):
            check(tmp_path)
    check_plain(tmp_path, "*.spacy")


def test_a_model_is_no_file(tmp_path):
    (tmp_path / "model.bin").write_text("a")
    with pytest.raises(DataError, match=r"model\.bin: found a file; expected the folder of an encoder"):
        check_model(str(tmp_path / "model.bin"))
    check_model("a/name-on-the-hub")
