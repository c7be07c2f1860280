"""Heads of categories: exactly one for each text, or any number of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from spacy.training import Example

from spacy_bertft.components.head_inference import softmax
from spacy_bertft.jobs.report.heads import Calibration, Decisions, Judged, Mistake, Threshold, Unjudged
from spacy_bertft.jobs.report.measures import ACCURACY, MACRO_F, MICRO_F, MICRO_P, MICRO_R, Score, label_f
from spacy_bertft.jobs.report.statistics import Floats, at_temperature, reliability
from spacy_bertft.tasks.calibration import fit_temperature
from spacy_bertft.types import Ints

_Flags = NDArray[np.bool_]
_FEW = 20  # texts below which a temperature is not fitted


@dataclass(frozen=True, slots=True)
class CategoryHead:
    """A component that sets doc.cats."""

    name: str
    factory: str
    labels: tuple[str, ...]  # with the unknown one, if there is one, last
    exclusive: bool
    threshold: float = 0.5  # from which a label counts, if they are not exclusive
    temperature: float | None = None  # None: it has none
    unknown_threshold: float | None = None  # None: there is no unknown label
    positive_label: str | None = None


def judge_categories(head: CategoryHead, examples: Sequence[Example]) -> Judged | Unjudged:
    """Compare the categories of a head with the gold ones, on examples that the pipeline has annotated."""
    gold = _values(head, [eg.reference.cats for eg in examples])
    found = np.nan_to_num(_values(head, [eg.predicted.cats for eg in examples]))
    annotated = (np.nan_to_num(gold) > 0.5).any(axis=1) if head.exclusive else ~np.isnan(gold).all(axis=1)
    texts = np.flatnonzero(annotated)
    if not len(texts):
        why = "The data have no gold category that this head knows, so there is nothing to measure."
        return Unjudged(head.name, head.factory, why)
    judge = _judge_exclusive if head.exclusive else _judge_independent
    return judge(head, texts, gold[texts], found[texts])


def _values(head: CategoryHead, cats: Sequence[dict[str, float]]) -> Floats:
    """The values of the head's labels, NaN where there is none. (B, L)."""
    rows = [[of_text.get(label, np.nan) for label in head.labels] for of_text in cats]
    return np.array(rows, dtype=np.float64).reshape(len(cats), len(head.labels))


def _judge_exclusive(head: CategoryHead, texts: Ints, gold_values: Floats, found: Floats) -> Judged:
    n_labels = len(head.labels)
    gold, predicted = np.nan_to_num(gold_values).argmax(axis=1), found.argmax(axis=1)
    right, confidence = gold == predicted, found.max(axis=1)
    given, wanted = np.eye(n_labels, dtype=bool)[predicted], np.eye(n_labels, dtype=bool)[gold]
    confusion = np.zeros((n_labels + 1, n_labels + 1), dtype=np.int64)
    np.add.at(confusion, (gold, predicted), 1)
    mistakes = [
        Mistake(
            int(texts[row]),
            float(confidence[row]),
            f"{head.labels[predicted[row]]} {confidence[row]:.2f} instead of {head.labels[gold[row]]} "
            f"{found[row, gold[row]]:.2f}",
        )
        for row in np.argsort(-confidence, kind="stable")
        if not right[row]
    ]
    decisions = Decisions(confidence, right)
    note = "A text counts as answered if its best category has at least this probability."
    return Judged(
        name=head.name,
        factory=head.factory,
        unit="categories",
        texts=texts,
        sums=_counts(given, wanted, np.ones_like(given)),
        scores=(ACCURACY, MACRO_F, *_positive(head)),
        labels=head.labels,
        confusion=confusion,
        calibration=_calibration(head, decisions, gold, found),
        threshold=Threshold(decisions, len(gold), None, note),
        mistakes=mistakes,
        notes=_notes_of(gold, predicted, head.labels),
    )


def _positive(head: CategoryHead) -> list[Score]:
    label = head.positive_label
    return [] if label is None else [Score(f"F-score of {label}", label_f(head.labels.index(label)))]


def _notes_of(gold: Ints, predicted: Ints, labels: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if len(np.unique(gold)) == 1:
        notes.append(
            f"All texts are of one category, {labels[gold[0]]}: an accuracy here says nothing of the others. "
            "Evaluate on texts of all categories."
        )
    elif len(np.unique(predicted)) == 1:
        notes.append(f"Every text was given one category, {labels[predicted[0]]}. The head may not have learned yet.")
    return tuple(notes)


def _counts(given: _Flags, wanted: _Flags, annotated: _Flags) -> Floats:
    """True positives, false positives and false negatives of each text and label. (B, 3 L)."""
    flags = [given & wanted, given & ~wanted & annotated, wanted & ~given]
    return np.stack(flags, axis=2).astype(np.float64).reshape(len(given), -1)


def _calibration(head: CategoryHead, saved: Decisions, gold: Ints, found: Floats) -> Calibration | None:
    if head.temperature is None:
        return Calibration(saved)
    if head.temperature != 1.0 or head.unknown_threshold:
        before = _decide(_uncalibrated(head, found), gold)
        return Calibration(saved, before, f"temperature {head.temperature:g}, as saved", "temperature 1, before")
    if head.unknown_threshold is not None or len(gold) < _FEW:
        return Calibration(saved, note="The pipeline is not calibrated. `bertft calibrate` fits its temperature.")
    temperature, fitted = _cross_fitted(found, gold)
    gain = 100 * (reliability(saved.confidence, saved.right).error - reliability(fitted.confidence, fitted.right).error)
    note = (
        f"The pipeline is not calibrated. A temperature of about {temperature:.2f}, fitted on one half of these texts "
        f"and measured on the other, {'lowers' if gain > 0 else 'would not lower'} the calibration error"
        f"{f' by {gain:.1f} points: run `bertft calibrate` on held-out texts.' if gain > 0 else '.'}"
    )
    return Calibration(saved, fitted, "temperature 1, as saved", f"temperature {temperature:.2f}, if fitted", note)


def _decide(probabilities: Floats, gold: Ints) -> Decisions:
    return Decisions(probabilities.max(axis=1), probabilities.argmax(axis=1) == gold)


def _uncalibrated(head: CategoryHead, found: Floats) -> Floats:
    """The probabilities at temperature 1 and, for the unknown label, at its default threshold, 0. (B, L)."""
    temperature = head.temperature or 1.0
    if head.unknown_threshold is None:
        return at_temperature(found, old=temperature, new=1.0)
    logs = np.log(np.maximum(found, np.finfo(np.float32).tiny))
    # In the saved softmax, the logit of the unknown label is its threshold; that gives the logits of the others.
    logits = (logs[:, :-1] - logs[:, -1:] + head.unknown_threshold) * temperature
    logits = np.concatenate([logits, np.zeros_like(logits[:, :1])], axis=1)
    return softmax(logits)


def _cross_fitted(found: Floats, gold: Ints) -> tuple[float, Decisions]:
    """Each half of the texts at the temperature fitted on the other half, and the mean of both."""
    logits = np.log(np.maximum(found, np.finfo(np.float32).tiny))
    halves = [np.arange(start, len(gold), 2) for start in (0, 1)]
    temperatures = [fit_temperature(logits[half], gold[half]) for half in halves]
    scaled = np.empty_like(found)
    for half, temperature in zip(halves, reversed(temperatures), strict=True):
        scaled[half] = at_temperature(found[half], old=1.0, new=temperature)
    return float(np.mean(temperatures)), _decide(scaled, gold)


def _judge_independent(head: CategoryHead, texts: Ints, gold: Floats, found: Floats) -> Judged:
    annotated, wanted, given = ~np.isnan(gold), np.nan_to_num(gold) > 0, found >= head.threshold
    given &= annotated
    decisions = Decisions(found[annotated], wanted[annotated])
    n_gold = int(wanted.sum())
    note = "Each label of each text counts once: its probability, and whether the text has it."
    notes = [] if given.any() else ["No label reached the threshold in any text: nothing was predicted."]
    notes += [] if n_gold else ["No text has any label, so recall is not defined."]
    return Judged(
        name=head.name,
        factory=head.factory,
        unit="labels",
        texts=texts,
        sums=_counts(given, wanted, annotated),
        scores=(MICRO_F, MICRO_P, MICRO_R, MACRO_F),
        labels=head.labels,
        confusion=_confusion(given, wanted),
        calibration=Calibration(decisions, note=f"{note} There is no temperature to fit."),
        threshold=Threshold(decisions, n_gold, head.threshold) if n_gold else None,
        mistakes=_mistakes(head, texts, found, given, wanted),
        notes=tuple(notes),
    )


def _confusion(given: _Flags, wanted: _Flags) -> Ints:
    """Labels that were missed against labels wrongly given to the same text, none last. (L + 1, L + 1)."""
    missed, invented = (wanted & ~given).astype(np.int64), (given & ~wanted).astype(np.int64)
    counts = missed.T @ invented + np.diag((wanted & given).sum(axis=0))
    nothing_given = missed[~invented.any(axis=1)].sum(axis=0)
    nothing_missed = invented[~missed.any(axis=1)].sum(axis=0)
    return np.block([[counts, nothing_given[:, None]], [nothing_missed[None], np.zeros((1, 1), dtype=np.int64)]])


def _mistakes(head: CategoryHead, texts: Ints, found: Floats, given: _Flags, wanted: _Flags) -> list[Mistake]:
    """Texts with errors, those first where the head is surest: of a label that is wrong, or that one is absent."""
    trust = np.where(given & ~wanted, found, np.where(wanted & ~given, 1 - found, 0.0))  # (B, L)
    worst = trust.max(axis=1, initial=0.0)

    def listed(row: int, flags: _Flags) -> str:
        chosen = flags[row].nonzero()[0]
        return ", ".join(f"{head.labels[place]} {found[row, place]:.2f}" for place in chosen) or "no label"

    return [
        Mistake(int(texts[row]), float(worst[row]), f"{listed(row, given)} instead of {listed(row, wanted)}")
        for row in np.argsort(-worst, kind="stable")
        if (given[row] != wanted[row]).any()
    ]
