"""Spans with scores: `doc.spans[key]` with the scores in its attrs, which `span._.score` reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from spacy.tokens import Doc, Span, SpanGroup

from spacy_bertft.components.extensions import register


def set_scored_spans(doc: Doc, key: str, spans: Sequence[Span], scores: Sequence[float], **attrs: Any) -> None:
    """Set doc.spans[key]. scores: one per span, in [0, 1]; attrs: further attrs of the group."""
    attrs["scores"] = np.array(scores, dtype=np.float32)
    doc.spans[key] = SpanGroup(doc, name=key, attrs=attrs, spans=list(spans))


def scored_spans(doc: Doc) -> Iterator[tuple[Span, float]]:
    """The spans of doc.spans that have a score, with their scores."""
    for group, scores in _groups(doc):
        yield from zip(group, map(float, scores), strict=True)


@dataclass(frozen=True, slots=True)
class _Index:
    """The scores of a Doc's spans. A long text has thousands, too many to search for every lookup."""

    held: list[tuple[SpanGroup, Any]]  # the groups and their scores, kept so that no ids are reused
    state: list[tuple[int, int, int]]  # ids of both, and number of spans
    scores: dict[tuple[int, int, int], float]  # start, end, label -> score

    @classmethod
    def of(cls, doc: Doc) -> _Index:
        scores: dict[tuple[int, int, int], float] = {}
        for span, score in scored_spans(doc):
            scores.setdefault((span.start, span.end, span.label), score)
        held = _groups(doc)
        return cls(held, _state(held), scores)


_indexes: WeakKeyDictionary[Doc, _Index] = WeakKeyDictionary()


def _groups(doc: Doc) -> list[tuple[SpanGroup, Any]]:
    groups = ((group, group.attrs.get("scores")) for group in doc.spans.values())
    return [(group, scores) for group, scores in groups if scores is not None]


def _state(groups: list[tuple[SpanGroup, Any]]) -> list[tuple[int, int, int]]:
    return [(id(group), id(scores), len(group)) for group, scores in groups]


def _span_score(span: Span) -> float | None:
    """The score of an entity or an answer, in [0, 1]; None if no component set one. Same as `span._.score`."""
    index = _indexes.get(span.doc)
    if index is None or index.state != _state(_groups(span.doc)):
        index = _indexes[span.doc] = _Index.of(span.doc)
    return index.scores.get((span.start, span.end, span.label))


register(Span, "score", _span_score)
