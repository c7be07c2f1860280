"""What the readers yield: one `Record` for each Doc to be made, and the options that they read by."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from spacy_bertft.errors import ConfigError, data_error

Form = Literal["label", "labels", "cats"]


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
    of categories) and `cats` (a number for each category) is set. None says "not annotated"; an empty tuple says
    "annotated, and there is none".
    """

    where: str  # "file:line", for messages
    text: str = ""
    second: str | None = None
    words: tuple[str, ...] = ()
    label: str | None = None
    labels: tuple[str, ...] | None = None
    cats: Mapping[str, float] | None = None
    spans: tuple[Entity, ...] | None = None
    answers: tuple[Answer, ...] | None = None

    @property
    def form(self) -> Form | None:
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


@dataclass(frozen=True)
class Options:
    """How to read the files; `convert` explains each."""

    text_key: str = "text"
    label_key: str = "label"
    labels_key: str = "labels"
    first_key: str = "first"
    second_key: str = "second"
    label_separator: str = "|"
    quotes: bool = True
    token_column: int = 1
    tag_column: int = -1
    merge_sentences: int = 1

    def __post_init__(self) -> None:
        keys = ("text_key", "label_key", "labels_key", "first_key", "second_key")
        for name in (*keys, "label_separator"):
            if not getattr(self, name):
                raise ConfigError(f"{name}: found an empty string; expected a name; fix: leave it out or fill it")
        values = [getattr(self, name) for name in keys]
        if len(set(values)) < len(values):
            options = ", ".join(f"--{name.replace('_', '-')}" for name in keys)
            raise ConfigError(
                f"{', '.join(keys)}: found {', '.join(map(repr, values))}; expected different names; fix: rename one "
                f"of them ({options})"
            )
        for name in ("token_column", "tag_column"):
            if getattr(self, name) == 0:
                raise ConfigError(f"{name}: found 0; expected 1 or more, or -1 for the last; fix: count from 1")
        if self.merge_sentences < 1:
            raise ConfigError(
                f"merge_sentences: found {self.merge_sentences}; expected 1 or more; "
                "fix: 1 makes one Doc of each sentence"
            )


def brief(value: object, *, limit: int = 60) -> str:
    """`repr(value)`, cut so that a message stays readable."""
    shown = repr(value)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def is_pair(keys: Collection[str], options: Options) -> bool:
    """Whether a record or a header with these keys is of two texts."""
    return options.text_key not in keys and (options.first_key in keys or options.second_key in keys)


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
