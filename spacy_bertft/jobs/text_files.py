"""Checks of input files: existence, content, UTF-8 and JSON."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spacy_bertft.errors import DataError, data_error

_BLANK = 1 << 16  # bytes; larger files are not checked for white space only
JSON_LINES_FIX = "write each record on its own line (JSON Lines)"


def check_input(path: Path) -> None:
    """Raise DataError unless `path` is a plain file with something in it (it is read twice)."""
    if not path.exists():
        raise data_error(str(path), found="no such file", expected="an input file", fix="check the path")
    if path.is_dir():
        empty = not any(path.iterdir())
        raise data_error(
            str(path),
            found="an empty folder" if empty else "a folder",
            expected="a file",
            fix="check the path" if empty else f"name the files in it, e.g. {path}/train.jsonl",
        )
    if not path.is_file():
        raise data_error(
            str(path),
            found="something that is not a regular file",
            expected="a file that can be read twice",
            fix="save the data to a file first",
        )
    if _is_blank(path):
        raise no_records(path)


def _is_blank(path: Path) -> bool:
    """Whether a file holds nothing but white space, as far as it is worth looking."""
    try:
        with path.open("rb") as file:
            return path.stat().st_size <= _BLANK and not file.read().removeprefix(codecs.BOM_UTF8).strip()
    except OSError:  # the reader reports it
        return False


def check_plain(folder: Path, pattern: str = "*") -> None:
    """Raise DataError if something in a folder is neither file nor folder: reading a FIFO would never end.

    pattern: of the names to check.
    """
    odd = (path for path in sorted(folder.rglob(pattern)) if path.exists() and not (path.is_file() or path.is_dir()))
    for path in odd:
        raise data_error(
            str(path),
            found="something that is not a regular file",
            expected="only files and folders",
            fix="save it to a file, or move it elsewhere",
        )


def check_model(name: str) -> None:
    """Raise DataError if an encoder's name is a file, or a folder with anything but files and folders."""
    path = Path(name)
    if path.is_dir():
        check_plain(path)
    elif path.exists():
        raise data_error(
            name,
            found="a file",
            expected="the folder of an encoder, or a name on the Hugging Face hub",
            fix="name the folder that holds its config.json",
        )


def no_records(path: Path) -> DataError:
    """The error for a file without any record."""
    return data_error(
        str(path),
        found="no records (the file is empty, or has a header or comments only)",
        expected="at least one",
        fix="check how the file was made, or leave it out",
    )


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the file's lines with their numbers, from 1; line ends are kept, a byte-order mark is not.

    Lines are decoded one at a time, so that an error can name the line.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                utf16 = number == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                yield (
                    number,
                    decode(
                        without_mark(raw, number),
                        f"{path}:{number}",
                        guess=" (it looks like UTF-16)" if utf16 else "",
                        fix="save the file as UTF-8",
                    ),
                )
    except OSError as err:
        raise data_error(
            str(path),
            found=f"a file that can't be read ({err.strerror})",
            expected="a readable file",
            fix="check its permissions",
        ) from err


def without_mark(raw: bytes, number: int) -> bytes:
    """Remove the UTF-8 byte-order mark, which the first line may have."""
    return raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw


def decode(raw: bytes, where: str, *, guess: str, fix: str) -> str:
    """Decode a line of UTF-8. guess: what the file may be instead, for the error message."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as err:
        raise data_error(
            where,
            found=f"the byte 0x{raw[err.start]:02x} at byte {err.start + 1} of the line{guess}",
            expected="UTF-8 text",
            fix=fix,
        ) from None


def parse_json(text: str | bytes, where: str, *, expected: str, fix: str) -> Any:
    """Parse JSON. Raises DataError that says where it is and what was expected there."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as err:
        raise data_error(where, found=f"invalid JSON ({err})", expected=expected, fix=fix) from None
