"""CSV and TSV of entities: one row per entity, with its text, start, end and label."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert.options import Options, is_pair
from spacy_bertft.jobs.convert.records import Record, brief, entities
from spacy_bertft.jobs.convert.tally import Tally

_Bounds = tuple[str, str]
_BOUNDS: tuple[_Bounds, ...] = (("start", "end"), ("start_offset", "end_offset"))
_ID = "id"
_WHOLE = re.compile(r"-?[0-9]+(\.0+)?")  # pandas writes 3.0 in a column with empty cells


@dataclass
class _Text:
    """A text, and the entities that its rows name."""

    where: str  # its first row
    text: str
    spans: list[object] = field(default_factory=list)  # [start, end, label]
    rows: int = 0


def bounds_of(columns: Collection[str], options: Options) -> _Bounds | None:
    """The columns of start and end; None if the table is not of entities."""
    if is_pair(columns, options) or not {options.label_key, options.labels_key} & set(columns):
        return None
    return next((bounds for bounds in _BOUNDS if set(bounds) <= set(columns)), None)


def check_columns(columns: Collection[str], where: str, options: Options) -> None:
    """Raise DataError for a table of entities whose labels are in the column for several categories."""
    bounds = bounds_of(columns, options)
    if bounds and options.label_key not in columns:
        shown = ", ".join(map(repr, (*bounds, options.labels_key)))
        raise data_error(
            where,
            found=f"the columns {shown}",
            expected=f"the label of an entity under {options.label_key!r}",
            fix=f"set label_key and another labels_key (--label-key {options.labels_key} --labels-key other); if the "
            f"rows are not entities, rename {bounds[0]!r} and {bounds[1]!r}",
        )


def read(
    rows: Iterable[tuple[str, dict[str, str]]], bounds: _Bounds, options: Options, tally: Tally
) -> Iterator[Record]:
    """Yield a Record per text: rows with the same "id" or, without such a column, neighbours with the same text."""
    seen: dict[str, Record] = {}
    used = {*bounds, options.text_key, options.label_key, _ID}
    for text in _texts(rows, bounds, options, tally, used):
        spans = entities(text.spans, text.text, text.where, options.label_key, tally, options)
        record = Record(text.where, text=text.text, spans=spans)
        before = seen.setdefault(text.text, record)
        if text.rows == 0 and before.spans != spans:
            raise data_error(
                text.where,
                found=f"the text of line {before.where.rpartition(':')[2]} again, with other entities",
                expected="all entities of a text in neighbouring rows",
                fix=f"sort the rows by text, or add a column {_ID!r} with one id for all rows of a text",
            )
        yield record


def _texts(
    rows: Iterable[tuple[str, dict[str, str]]], bounds: _Bounds, options: Options, tally: Tally, used: set[str]
) -> Iterator[_Text]:
    by_id: dict[str, _Text] = {}
    last: _Text | None = None
    for where, row in rows:
        tally.ignored.update(name for name in row if name not in used)
        text, span = row[options.text_key], _span(row, bounds, options, where)
        if _ID in row:
            current = by_id.setdefault(row[_ID].strip(), _Text(where, text))
            current.rows += 1
            _check_same(current, text, where)
        elif last is not None and last.text == text:
            current = last
        else:
            if last is not None:
                yield last
            current = last = _Text(where, text)
        current.spans += [span] if span else []
    if last is not None:
        yield last
    _check_ids(list(by_id.values()))
    yield from by_id.values()


def _span(row: dict[str, str], bounds: _Bounds, options: Options, where: str) -> list[object] | None:
    """A row's entity; None if its cells are empty, since the text has none."""
    start, end, label = (row[key].strip() for key in (*bounds, options.label_key))
    if not (start or end or label):
        return None
    if not (start and end and label):
        raise data_error(
            where,
            found=f"start {start!r}, end {end!r} and label {label!r}",
            expected="all of them, or none for a text without entities",
            fix="fill in all three, or clear them",
        )
    return [_offset(start, bounds[0], where), _offset(end, bounds[1], where), label]


def _offset(cell: str, name: str, where: str) -> int:
    if not _WHOLE.fullmatch(cell):
        raise data_error(
            where,
            found=f"{name!r}: {brief(cell)}",
            expected="a whole number, the position of a character in the text",
            fix="count in characters, from 0; if the rows are categories, not entities, rename the columns of start "
            "and end",
        )
    return int(cell.partition(".")[0])


def _check_same(text: _Text, other: str, where: str) -> None:
    if text.text != other:
        raise data_error(
            where,
            found=f"a different text than at {text.where} under the same {_ID!r}, {brief(other)}",
            expected="one text per id",
            fix="give each text its own id, or rename the column",
        )


def _check_ids(texts: list[_Text]) -> None:
    """Raise DataError if the ids number rows instead of texts, which would separate the entities of a text."""
    if any(text.rows > 1 for text in texts):
        return
    for first, second in pairwise(texts):
        if first.text == second.text and first.spans and second.spans and first.spans != second.spans:
            raise data_error(
                second.where,
                found=f"an id for each row, and the text of line {first.where.rpartition(':')[2]} again",
                expected=f"one {_ID!r} for all rows of a text",
                fix="give them the same id, or rename the column: then neighbouring rows of one text belong together",
            )
