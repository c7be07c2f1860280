"""What a Doc holds, in the form in which formats write it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from spacy.tokens import Doc, Span

from spacy_bertft.components.doc_values import VALUE_KEY, value_of
from spacy_bertft.components.pairs import SEGMENTS_KEY
from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Entity
from spacy_bertft.jobs.convert.tally import Tally
from spacy_bertft.tasks.scorers import ANSWERS_KEY

Kind = Literal["entities", "overlaps", "missing", "categories", "numbers", "values", "pairs"]
_HALF = 0.5


@dataclass(frozen=True)
class Token:
    """A token: characters `start` to `end` of the text, whether a space follows, and its entity tag."""

    text: str
    start: int
    end: int
    space: bool
    tag: str  # O, B-LABEL or I-LABEL


@dataclass(frozen=True)
class Annotated:
    """One annotated text. None means "not annotated". where: for messages. cats: category -> score."""

    where: str
    text: str
    second: str | None
    spans: tuple[Entity, ...] | None
    tokens: tuple[Token, ...]
    cats: Mapping[str, float] | None
    value: float | None

    @property
    def chosen(self) -> list[str]:
        """The categories that the text has: those of 0.5 or more."""
        return [label for label, score in (self.cats or {}).items() if score >= _HALF]


def annotated(doc: Doc, where: str, options: Options, tally: Tally, holds: frozenset[Kind]) -> Annotated | None:
    """What a Doc holds, reduced to what a format holds; the rest is counted. None if it can't hold the text itself."""
    segments = doc.spans.get(SEGMENTS_KEY)
    if segments and "pairs" not in holds:
        tally.drop("pairs of texts", where)
        return None
    tally.drop("texts with answers", where, ANSWERS_KEY in doc.spans)
    spans = _spans(doc, where, options, tally, holds)
    if segments and spans:  # their offsets count the pair, and formats hold its two texts
        tally.drop("entities of pairs of texts", where, len(spans))
    spans = None if segments else spans
    cats: Mapping[str, float] | None = doc.cats or None
    if cats and "categories" not in holds:
        tally.drop("texts with categories", where)
        cats = None
    elif cats and "numbers" not in holds:
        tally.drop(
            "scores of categories other than 0 and 1", where, sum(score not in (0, 1) for score in cats.values())
        )
    value = value_of(doc)
    if value is not None and "values" not in holds:
        tally.drop("texts with a number", where)
        value = None
    first, second = (segments[0].text, segments[1].text) if segments else (doc.text, None)
    for span in spans or ():
        tally.entities[span.label] += 1
    for label, score in (cats or {}).items():
        tally.categories[label] += score >= _HALF
    if value is not None:
        tally.add_value(value)
    return Annotated(where, first, second, spans, _tokens(doc), cats, value)


def count_unknown(texts: Sequence[Annotated], tally: Tally, *, what: Literal["entities", "categories"]) -> None:
    """Count the texts without annotation of a kind, for formats that can't tell it from "annotated, and none"."""
    for one in texts:
        unknown = (one.spans if what == "entities" else one.cats) is None
        tally.drop(f"texts without annotation of {what}, which then read as without any", one.where, unknown)


def _spans(doc: Doc, where: str, options: Options, tally: Tally, holds: frozenset[Kind]) -> tuple[Entity, ...] | None:
    """The entities, or the spans of the group that the options name."""
    group = options.span_group
    others = doc.spans.keys() - {SEGMENTS_KEY, ANSWERS_KEY, VALUE_KEY, group}
    for key in sorted(others):
        tally.drop(f"spans of the group {key!r}", where, len(doc.spans[key]))
    if group:
        tally.drop("entities beside a span group", where, len(doc.ents))
        if group not in doc.spans:
            return None
        if "overlaps" not in holds:
            raise data_error(
                where,
                found=f"spans of the group {group!r}",
                expected="entities, which don't overlap: this format holds nothing else",
                fix="choose a format with spans (--to jsonl, label-studio, doccano, prodigy or brat)",
            )
        return _entities(list(doc.spans[group]))
    if not doc.has_annotation("ENT_IOB"):
        return None
    if "entities" not in holds:
        tally.drop("entities", where, len(doc.ents))
        return None
    if "missing" not in holds:
        tally.drop("tokens without annotation, which then read as O", where, sum(not token.ent_iob for token in doc))
    return _entities(doc.ents)


def _entities(spans: Iterable[Span]) -> tuple[Entity, ...]:
    found = (Entity(span.start_char, span.end_char, span.label_) for span in spans)
    return tuple(sorted(found, key=lambda entity: (entity.start, entity.end)))


def _tokens(doc: Doc) -> tuple[Token, ...]:
    return tuple(
        Token(
            token.text,
            token.idx,
            token.idx + len(token),
            bool(token.whitespace_),
            f"{token.ent_iob_}-{token.ent_type_}" if token.ent_type_ else "O",
        )
        for token in doc
    )
