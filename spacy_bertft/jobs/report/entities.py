"""Heads of spans: named entities in doc.ents, and spans that may overlap in doc.spans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from spacy.tokens import Doc
from spacy.training import Example

from spacy_bertft.components.spans import scored_spans
from spacy_bertft.jobs.report.heads import Calibration, Decisions, Judged, Mark, Mistake, Threshold, Unjudged
from spacy_bertft.jobs.report.measures import MACRO_F, MICRO_F, MICRO_P, MICRO_R
from spacy_bertft.jobs.report.span_matches import Found, Match, match, on_gold_tokens
from spacy_bertft.jobs.report.statistics import Floats
from spacy_bertft.types import Ints

_Pairs = Callable[[Example], tuple[list[Found], list[Found]] | None]


@dataclass(frozen=True, slots=True)
class SpanHead:
    """A component, or several, whose spans are scored together."""

    name: str
    factory: str
    labels: tuple[str, ...]
    key: str | None = None  # of doc.spans; None: doc.ents
    threshold: float | None = None


def judge_spans(head: SpanHead, examples: Sequence[Example]) -> Judged | Unjudged:
    """Compare the spans of a head with the gold ones, on examples whose predicted Docs the pipeline has annotated."""
    pairs = [_entities(eg) if head.key is None else _spans(eg, head.key) for eg in examples]
    texts = np.array([number for number, pair in enumerate(pairs) if pair is not None], dtype=np.int64)
    if not len(texts):
        where = "entities" if head.key is None else f"spans in doc.spans[{head.key!r}]"
        return Unjudged(head.name, head.factory, f"The data have no gold {where}, so there is nothing to measure.")
    matches = [match(*pair) for pair in pairs if pair is not None]
    used = {span.label for of_text in matches for one in of_text for span in (one.gold, one.predicted) if span}
    labels = tuple(sorted({*head.labels, *used}))
    predicted = [one for of_text in matches for one in of_text if one.predicted is not None]
    n_gold = sum(one.gold is not None for of_text in matches for one in of_text)
    return Judged(
        name=head.name,
        factory=head.factory,
        unit="entities" if head.key is None else "spans",
        texts=texts,
        sums=_counts(matches, labels),
        scores=(MICRO_F, MICRO_P, MICRO_R, MACRO_F),
        labels=labels,
        confusion=_confusion(matches, labels),
        calibration=_calibration(predicted),
        threshold=_threshold(predicted, n_gold, head.threshold),
        mistakes=_mistakes(matches, texts, examples),
        matches=matches,
        notes=_notes(predicted, n_gold),
    )


def _entities(eg: Example) -> tuple[list[Found], list[Found]] | None:
    """Gold and predicted entities, without those on tokens that have no gold annotation; None if the Doc has none."""
    if not eg.reference.has_annotation("ENT_IOB"):
        return None
    gold = [Found(ent.start, ent.end, ent.label_) for ent in eg.reference.ents]
    found = on_gold_tokens(eg, eg.predicted.ents, _scores(eg.predicted))
    iob = eg.reference.to_array("ENT_IOB")
    return gold, [span for span in found if (iob[span.start : span.end] != 0).all()]


def _spans(eg: Example, key: str) -> tuple[list[Found], list[Found]] | None:
    if key not in eg.reference.spans:
        return None
    gold = [Found(span.start, span.end, span.label_) for span in eg.reference.spans[key]]
    group = eg.predicted.spans.get(key, [])
    return list(dict.fromkeys(gold)), on_gold_tokens(eg, group, _scores(eg.predicted))


def _scores(doc: Doc) -> dict[tuple[int, int, str], float]:
    return {(span.start, span.end, span.label_): score for span, score in scored_spans(doc)}


def _counts(matches: Sequence[Sequence[Match]], labels: Sequence[str]) -> Floats:
    """True positives, false positives and false negatives of each text and label. (B, 3 L)."""
    place = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(matches), len(labels), 3))
    for row, of_text in zip(counts, matches, strict=True):
        for one in of_text:
            if one.kind == "exact" and one.gold is not None:
                row[place[one.gold.label], 0] += 1
                continue
            if one.predicted is not None:
                row[place[one.predicted.label], 1] += 1
            if one.gold is not None:
                row[place[one.gold.label], 2] += 1
    return counts.reshape(len(matches), -1)


def _confusion(matches: Sequence[Sequence[Match]], labels: Sequence[str]) -> Ints:
    """Gold against predicted labels of matched spans, whatever their boundaries. (L + 1, L + 1), none last."""
    place = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(labels) + 1, len(labels) + 1), dtype=np.int64)
    for of_text in matches:
        for one in of_text:
            gold = place[one.gold.label] if one.gold else -1
            counts[gold, place[one.predicted.label] if one.predicted else -1] += 1
    return counts


def _decisions(predicted: Sequence[Match]) -> Decisions | None:
    scores = [one.predicted.score for one in predicted if one.predicted is not None]
    if not scores or None in scores:
        return None
    return Decisions(np.array(scores, dtype=np.float64), np.array([one.kind == "exact" for one in predicted]))


def _calibration(predicted: Sequence[Match]) -> Calibration | None:
    decisions = _decisions(predicted)
    note = "Each predicted span counts once; it is right if boundaries and label are. There is no temperature to fit."
    return None if decisions is None else Calibration(decisions, note=note)


def _threshold(predicted: Sequence[Match], n_gold: int, used: float | None) -> Threshold | None:
    decisions = _decisions(predicted)
    note = (
        "The curve ends where the pipeline does: what it did not predict has no confidence."
        if used is None
        else "Spans below the pipeline's threshold are not in its output, so the curve ends there."
    )
    return None if decisions is None or not n_gold else Threshold(decisions, n_gold, used, note)


def _notes(predicted: Sequence[Match], n_gold: int) -> tuple[str, ...]:
    notes = []
    if not predicted:
        notes.append("Nothing was predicted. Train longer, or see the training curves.")
    elif _decisions(predicted) is None:
        notes.append("This component gives no confidence, so there is no reliability diagram and no threshold.")
    if not n_gold:
        notes.append("The gold texts hold no span at all, so recall is not defined.")
    return tuple(notes)


def _mistakes(matches: Sequence[Sequence[Match]], texts: Ints, examples: Sequence[Example]) -> list[Mistake]:
    """Texts with errors, those with the most confident wrong predictions first."""
    found = []
    for number, of_text in zip(texts.tolist(), matches, strict=True):
        wrong = [one for one in of_text if one.kind != "exact"]
        if wrong:
            doc = examples[number].reference
            scores = [one.predicted.score for one in wrong if one.predicted and one.predicted.score is not None]
            kinds = [f"{sum(one.kind == kind for one in wrong)} {kind}" for kind in _kinds(wrong)]
            gold = tuple(_mark(doc, one.gold, one.kind) for one in of_text if one.gold)
            predicted = tuple(_mark(doc, one.predicted, one.kind) for one in of_text if one.predicted)
            found.append(Mistake(number, max(scores, default=None), ", ".join(kinds), gold, predicted))
    return sorted(found, key=lambda one: -1.0 if one.confidence is None else one.confidence, reverse=True)


def _kinds(wrong: Sequence[Match]) -> list[str]:
    return list(dict.fromkeys(one.kind for one in wrong))


def _mark(doc: Doc, span: Found, kind: str) -> Mark:
    part = doc[span.start : span.end]
    label = span.label if span.score is None else f"{span.label} {span.score:.2f}"
    return Mark(part.start_char, part.end_char, label, "right" if kind == "exact" else kind)
