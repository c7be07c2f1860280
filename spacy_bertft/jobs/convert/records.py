"""What the readers yield: one `Record` for each Doc to be made; and checks that several readers share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from spacy_bertft.errors import data_error

_Form = Literal["label", "labels", "cats"]


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
    """One training example as the file has it.

    Either `text` is set, or `words`, each of which is followed by one space. Of two segments, `text` is the first and
    `second` the other; `answers` are in that one. At most one of `label` (one exclusive category), `labels` (any number
    of categories) and `cats` (a number for each category) is set; `value`, a number of the text itself, may be set
    beside them. None says "not annotated"; an empty tuple says "annotated, and there is none".
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
    """The value as a number, or an error if it is none, or infinite."""
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    if not math.isfinite(number):
        raise data_error(where, found=f"{key!r}: {brief(value)}", expected="a finite number", fix=fix)
    return number


def encodable(text: str, where: str, key: str) -> str:
    """The text, or an error if it can't be written as UTF-8."""
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
