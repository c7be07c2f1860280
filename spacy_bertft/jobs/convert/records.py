"""`Record`, which the readers yield for each Doc to make, and checks that several readers share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert.tally import Tally

_Form = Literal["label", "labels", "cats"]
# Keys of an entity: ours first, then doccano's and Label Studio's.
_START, _END, _LABEL = ("start", "start_offset"), ("end", "end_offset"), ("label", "labels")
_SPAN_FORM = '{"start": 0, "end": 5, "label": "PERSON"} or [0, 5, "PERSON"]'


@dataclass(frozen=True)
class Entity:
    """One entity: characters `start` to `end` (exclusive) of the record's text, and its label."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Answer:
    """One gold answer: its first character in the context, and its text."""

    start: int
    text: str


@dataclass(frozen=True)
class Record:
    """One training example, as read from a file.

    Either `text` or `words` is set; each word is followed by one space. Of two segments, `text` is the first and
    `second` the other, which holds the `answers`. At most one of `label` (one exclusive category), `labels` (any number
    of categories) and `cats` (a number for each category) is set; `value`, a number for the whole text, may be set
    as well. None means "not annotated", an empty tuple "annotated, and there is none". `partial`: there may be more
    entities than `spans` has.
    """

    where: str  # "file:line", for messages
    text: str = ""
    second: str | None = None
    words: tuple[str, ...] = ()
    label: str | None = None
    labels: tuple[str, ...] | None = None
    cats: Mapping[str, float] | None = None
    value: float | None = None
    spans: tuple[Entity, ...] | None = None
    partial: bool = False
    answers: tuple[Answer, ...] | None = None

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


def entities(value: object, text: str, where: str, key: str, tally: Tally) -> tuple[Entity, ...]:
    """Return the entities in a list, sorted. Raises DataError if they lie outside the text or overlap."""
    if not isinstance(value, list):
        raise data_error(
            where,
            found=f"{key!r}: {brief(value)}",
            expected="a list",
            fix=f"write each entity as {_SPAN_FORM}",
        )
    found = sorted(
        (_entity(item, text, where, key, tally) for item in value),
        key=lambda entity: (entity.start, entity.end),
    )
    for first, second in pairwise(found):
        if second.start < first.end:
            raise data_error(
                where,
                found=f"overlapping entities {_show(first, text)} and {_show(second, text)}",
                expected="entities that share no character",
                fix="keep one of them",
            )
    return tuple(found)


def _show(entity: Entity, text: str) -> str:
    piece = brief(text[entity.start : entity.end], limit=40)
    return f"[{entity.start}, {entity.end}, {entity.label!r}] {piece}"


def _entity(item: object, text: str, where: str, key: str, tally: Tally) -> Entity:
    if isinstance(item, dict):
        used = [next((name for name in names if name in item), names[0]) for names in (_START, _END, _LABEL)]
        tally.ignored.update({f"{key}.{name}" for name in item if name not in used})
        item = [_only(item.get(name)) for name in used]
    if not (isinstance(item, list) and len(item) == 3 and all(type(offset) is int for offset in item[:2])):
        raise data_error(
            where,
            found=f"{key!r}: {brief(item)}",
            expected=_SPAN_FORM,
            fix="give start, end and label of each entity",
        )
    start, end, label = item
    if not 0 <= start < end <= len(text):
        raise data_error(
            where,
            found=f"an entity from {start} to {end}",
            expected=f"0 <= start < end <= {len(text)}, the length of the text",
            fix="count in characters (not bytes or UTF-16 units), from 0, with the end exclusive",
        )
    return _trim(Entity(start, end, name_of(label, where, f"{key}.label")), text, where, tally)


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
    return Entity(start, end, entity.label)
