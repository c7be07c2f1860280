"""Spans with a score each: `doc.spans[key]` with their scores in its attrs, which reads as `span._.score`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from spacy.tokens import Doc, Span, SpanGroup


def set_scored_spans(doc: Doc, key: str, spans: Sequence[Span], scores: Sequence[float], **attrs: Any) -> None:
    """Set doc.spans[key]. scores: one a span, in [0, 1]; attrs: more to say of the whole group."""
    attrs["scores"] = np.array(scores, dtype=np.float32)
    doc.spans[key] = SpanGroup(doc, name=key, attrs=attrs, spans=list(spans))


def scored_spans(doc: Doc) -> Iterator[tuple[Span, float]]:
    """The spans of doc.spans that carry a score, with it."""
    for group in doc.spans.values():
        scores = group.attrs.get("scores")
        if scores is not None:
            yield from zip(group, map(float, scores), strict=True)


def _span_score(span: Span) -> float | None:
    """The score of an entity or an answer, in [0, 1]; None if no component gave one. Reads as `span._.score`."""
    wanted = (span.start, span.end, span.label)
    return next((score for it, score in scored_spans(span.doc) if (it.start, it.end, it.label) == wanted), None)


if not Span.has_extension("score"):
    Span.set_extension("score", getter=_span_score)
