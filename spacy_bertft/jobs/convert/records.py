"""`Record`, which the readers yield for each Doc to make, and checks that several readers share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert.offsets import NAMES, in_characters, same, unit_of
from spacy_bertft.jobs.convert.options import Options, Unit
from spacy_bertft.jobs.convert.tally import Tally

_Form = Literal["label", "labels", "cats"]
_COVERED = "text"  # key of an entity's text
# Keys of an entity: ours first, then doccano's and Label Studio's.
_START, _END, _LABEL = ("start", "start_offset"), ("end", "end_offset"), ("label", "labels")
_SPAN_FORM = '{"start": 0, "end": 5, "label": "PERSON"} or [0, 5, "PERSON"]'


@dataclass(frozen=True)
class Entity:
    """One entity: characters `start` to `end` (exclusive) of the record's text, and its label.

    given: the offsets in the file, before white space was cut off; None if they are the same.
    """

    start: int
    end: int
    label: str
    given: tuple[int, int] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Answer:
    """One gold answer: its first character in the context, and its text."""

    start: int
    text: str


@dataclass(frozen=True)
class Record:
    """One training example, as read from a file.

    Either `text` or `words` is set; each word is followed by one space, or by none where `spaces` says so. Of two
    segments, `text` is the first and `second` the other, which holds the `answers`. At most one of `label` (one
    exclusive category), `labels` (any number of categories) and `cats` (a number for each category) is set; `value`, a
    number for the whole text, may be set as well. None means "not annotated", an empty tuple "annotated, and there is
    none". `partial`: there may be more entities than `spans` has. `missing`: characters of which it is not known
    whether they belong to an entity. `incorrect`: spans that are known not to be entities of their labels.
    """

    where: str  # "file:line", for messages
    text: str = ""
    second: str | None = None
    words: tuple[str, ...] = ()
    spaces: tuple[bool, ...] = ()
    label: str | None = None
    labels: tuple[str, ...] | None = None
    cats: Mapping[str, float] | None = None
    value: float | None = None
    spans: tuple[Entity, ...] | None = None
    partial: bool = False
    missing: tuple[tuple[int, int], ...] = ()
    incorrect: tuple[Entity, ...] = ()
    answers: tuple[Answer, ...] | None = None

    @property
    def joined(self) -> str:
        """The text, made of the words if they are given."""
        spaces = self.spaces or (True,) * len(self.words)
        return self.text or "".join(word + " " * space for word, space in zip(self.words, spaces, strict=True))

    @property
    def form(self) -> _Form | None:
        """How the categories are given; None if there are none."""
        if self.label is not None:
            return "label"
        if self.labels is not None:
            return "labels"
        return "cats" if self.cats is not None else None

    @property
    def chosen(self) -> tuple[str, ...]:
        """The categories named by `label` or `labels`."""
        return (self.label,) if self.label is not None else self.labels or ()


def brief(value: object, *, limit: int = 60) -> str:
    """`repr(value)`, cut so that a message stays readable."""
    shown = repr(value)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def finite(value: object, where: str, key: str, *, fix: str) -> float:
    """Return the value as a finite float. Raises DataError if it isn't one."""
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an integer too large for a float
        number = math.inf
    if not math.isfinite(number):
        raise data_error(where, found=f"{key!r}: {brief(value)}", expected="a finite number", fix=fix)
    return number


def encodable(text: str, where: str, key: str) -> str:
    """Return the text. Raises DataError if it can't be encoded as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as err:
        raise data_error(
            where,
            found=f"half a surrogate pair, {text[err.start]!r}, at character {err.start} of {key!r}",
            expected="whole characters",
            fix="write the character itself, or both halves of its \\u escape",
        ) from None
    return text


def name_of(value: object, where: str, key: str) -> str:
    """Return the value as a name. Raises DataError if it can't be one."""
    if isinstance(value, (str, int)) and str(value).strip():  # bool is an int
        return encodable(str(value), where, key)
    raise data_error(
        where, found=f"{key!r}: {brief(value)}", expected="one name: a string, an integer or true/false",
        fix=f'write it as {{"{key}": "NAME"}}',
    )  # fmt: skip


def entities(value: object, text: str, where: str, key: str, tally: Tally, options: Options) -> tuple[Entity, ...]:
    """Return the spans in a list, sorted, each once. Raises DataError if one lies outside the text or has another."""
    if not isinstance(value, list):
        raise data_error(
            where,
            found=f"{key!r}: {brief(value)}",
            expected="a list",
            fix=f"write each entity as {_SPAN_FORM}",
        )
    found = {_entity(item, text, where, key, tally, options): None for item in value}
    return tuple(sorted(found, key=lambda entity: (entity.start, entity.end)))


def categorised(record: Record, options: Options) -> Record:
    """The record with its categories as one exclusive category or as any number, if the options say which they are.

    Raises DataError for a second category where they exclude each other.
    """
    if options.categories == "independent" and record.label is not None:
        return replace(record, label=None, labels=(record.label,))
    if options.categories != "exclusive" or record.labels is None:
        return record
    if len(record.labels) > 1:
        raise data_error(
            record.where,
            found=f"the categories {', '.join(map(repr, record.labels))}",
            expected="one at most, since categories are exclusive",
            fix="correct the annotation, or set categories to independent (--categories independent)",
        )
    return replace(record, label=next(iter(record.labels), None), labels=None)


def check_disjoint(record: Record) -> None:
    """Raise DataError if two spans of a record overlap."""
    text = record.joined
    for first, second in pairwise(record.spans or ()):
        if second.start < first.end:
            raise data_error(
                record.where,
                found=f"overlapping entities {_show(first, text)} and {_show(second, text)}",
                expected="entities that share no character",
                fix="keep one of them, or put all spans into a group for spancat with span_group (--span-group sc)",
            )


def _show(entity: Entity, text: str) -> str:
    piece = brief(text[entity.start : entity.end], limit=40)
    return f"[{entity.start}, {entity.end}, {entity.label!r}] {piece}"


def _entity(item: object, text: str, where: str, key: str, tally: Tally, options: Options) -> Entity:
    covered = None
    if isinstance(item, dict):
        used = [next((name for name in names if name in item), names[0]) for names in (_START, _END, _LABEL)]
        covered = item.get(_COVERED) if isinstance(item.get(_COVERED), str) else None
        tally.ignored.update({f"{key}.{name}" for name in item if name not in (*used, _COVERED)})
        item = [_only(item.get(name)) for name in used]
    if not (isinstance(item, list) and len(item) == 3 and all(type(offset) is int for offset in item[:2])):
        raise data_error(
            where,
            found=f"{key!r}: {brief(item)}",
            expected=_SPAN_FORM,
            fix="give start, end and label of each entity",
        )
    start, end = located(text, item[0], item[1], where, covered=covered, unit=options.offsets)
    return _trim(Entity(start, end, name_of(item[2], where, f"{key}.label")), text, where, tally)


def located(
    text: str, start: int, end: int, where: str, *, covered: str | None, unit: Unit = "characters"
) -> tuple[int, int]:
    """Turn a span's offsets into characters. Raises DataError if they don't fit the text, and says what they count.

    covered: the text of the span, if the file has it.
    """
    found = in_characters(text, start, end, unit) if start < end else None
    if found and (covered is None or same(text[slice(*found)], covered)):
        return found
    counts = unit_of(text, start, end, covered) if unit == "characters" and start < end else None
    if counts is not None:
        fix = f"set offsets to {counts} (--offsets {counts})"
        reason = f"; the offsets fit if they count {NAMES[counts]}"
    else:
        fix = "count in characters (not bytes or UTF-16 units), from 0, with the end exclusive"
        reason = "; the text may have been changed after the annotation" if found else ""
    if found:
        there = brief(text[slice(*found)], limit=40)
        raise data_error(
            where,
            found=f"the span {brief(covered, limit=40)} from {start} to {end}, where the text has {there}{reason}",
            expected="offsets of the span's text",
            fix=fix,
        )
    length = len(text) if unit == "characters" else f"the length of the text in {NAMES[unit]}"
    raise data_error(
        where,
        found=f"an entity from {start} to {end}{reason}",
        expected=f"0 <= start < end <= {length}, the length of the text"
        if unit == "characters"
        else f"0 <= start < end <= {length}, at whole characters",
        fix=fix,
    )


def _only(value: object) -> object:
    """The item of a list that has only one; anything else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _trim(entity: Entity, text: str, where: str, tally: Tally) -> Entity:
    piece = text[entity.start : entity.end]
    if not piece.strip():
        raise data_error(
            where,
            found=f"an entity of white space only, {entity.start} to {entity.end}",
            expected="at least one other character",
            fix="delete this entity or correct its offsets",
        )
    start = entity.end - len(piece.lstrip())
    end = entity.start + len(piece.rstrip())
    tally.trimmed += (start, end) != (entity.start, entity.end)
    return Entity(start, end, entity.label, (entity.start, entity.end))
