"""`Format`: what there is to know of a file format; and `Sample`, the beginning of an input, which tells its format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from spacy_bertft.jobs.convert.annotated import Annotated, Kind
from spacy_bertft.jobs.convert.json_items import from_pair
from spacy_bertft.jobs.convert.options import FormatName, Options
from spacy_bertft.jobs.convert.records import Record, categorised
from spacy_bertft.jobs.convert.tally import Tally

_HEAD = 1 << 16  # bytes
_RECORDS = 20

ReadFile = Callable[[Path, Options, Tally], Iterator[Record]]
WriteFile = Callable[[Sequence[Annotated], Path, Tally], None]


class Sample:
    """The beginning of an input. All of it is empty where the input is something else."""

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        self.options = options

    @cached_property
    def names(self) -> list[str]:
        """The names of the files in a folder, at any depth, relative to it."""
        if not self.path.is_dir():
            return []
        return sorted(path.relative_to(self.path).as_posix() for path in self.path.rglob("*"))

    @cached_property
    def head(self) -> bytes:
        """The first 64 KiB of a file."""
        try:
            with self.path.open("rb") as file:
                return file.read(_HEAD)
        except OSError:  # a folder, or no such file; the reader reports files that can't be read
            return b""

    @cached_property
    def lines(self) -> list[str]:
        """The first lines, without their ends; bytes that are not UTF-8 are replaced."""
        text = self.head.decode("utf-8-sig", "replace")
        whole = text if len(self.head) < _HEAD else text.rpartition("\n")[0]
        return [line.rstrip("\r") for line in whole.split("\n")]

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The first 20 objects of JSON Lines or of a JSON array, or the one object of a JSON file."""
        if self.head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] not in (b"{", b"["):
            return []
        found = _values(self.head)
        if not found and len(self.head) == _HEAD:  # one object may be longer than the head
            found = _values(self.path.read_bytes())
        records = (from_pair(value, self.options) for value in found)
        return [record for record in records if isinstance(record, dict)]


def _values(content: bytes) -> list[Any]:
    """The first values of JSON Lines or of an array."""
    text = content.decode("utf-8-sig", "replace").lstrip()
    inside = re.match(r"\[\s*(?=[{\[])", text)
    at = inside.end() if inside else 0
    found: list[Any] = []
    while len(found) < _RECORDS and text.startswith(("{", "["), at):
        try:
            value, at = json.JSONDecoder().raw_decode(text, at)
        except (ValueError, RecursionError):  # cut off here, or broken, which the reader reports
            break
        found.append(value)
        at = re.compile(r"[\s,]*").match(text, at).end()  # type: ignore[union-attr]  # it matches always
    return found


def one_part(path: Path, options: Options) -> list[Path]:
    """The parts of an input that has only one."""
    return [path]


@dataclass(frozen=True)
class Format:
    """One file format.

    name      its name as an option
    title     what it is called in tables
    fits      whether a sample is of this format
    read      yields the records of an input; `records` is what to call
    endings   of file names, for files whose content doesn't tell
    parts     the parts of an input that become files of their own, such as the splits of a data set
    write     writes annotated texts to a path and counts what is lost, None if this format is only read
    ending    of the path to write, empty for a folder
    holds     what `write` can write
    """

    name: FormatName
    title: str
    fits: Callable[[Sample], bool]
    read: ReadFile
    endings: tuple[str, ...] = ()
    parts: Callable[[Path, Options], list[Path]] = one_part
    write: WriteFile | None = None
    ending: str = ""
    holds: frozenset[Kind] = frozenset()

    def records(self, path: Path, options: Options, tally: Tally) -> Iterator[Record]:
        """Yield the records of an input, with their categories as the options say."""
        return (categorised(record, options) for record in self.read(path, options, tally))
