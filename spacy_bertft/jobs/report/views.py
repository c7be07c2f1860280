"""What the page shows of a head: tables with intervals, charts, texts with errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spacy_bertft.jobs.report import charts
from spacy_bertft.jobs.report.data import Training
from spacy_bertft.jobs.report.error_texts import ErrorText
from spacy_bertft.jobs.report.findings import findings_of
from spacy_bertft.jobs.report.heads import NONE, Judged
from spacy_bertft.jobs.report.measures import Score, f_score, precision, recall
from spacy_bertft.jobs.report.slices import Slices
from spacy_bertft.jobs.report.span_matches import KINDS
from spacy_bertft.jobs.report.statistics import Interval, interval, percentiles, reliability, resampled_sums

_LABELS_IN_MATRIX = 20
_SPREAD = 2  # factor between label frequencies from which they are worth a chart
_PAIRS = 12  # most frequent confusions that are listed
_LABELS_AT_ONCE = 64  # labels whose samples are held in memory


@dataclass(frozen=True, slots=True)
class LabelRow:
    """The scores of one label."""

    label: str
    n_gold: int
    n_training: int | None  # None: unknown
    precision: Interval
    recall: Interval
    f_score: Interval


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the confusion table."""

    count: int
    share: float  # of its row, in [0, 1]
    right: bool


@dataclass(frozen=True, slots=True)
class Confusion:
    """Gold labels (rows) against predicted ones (columns)."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    n_left_out: int  # labels with few errors, for which there is no room
    pairs: tuple[tuple[str, str, int], ...]  # gold, predicted, count: the most frequent


@dataclass(frozen=True, slots=True)
class HeadView:
    """All that is shown of a head."""

    id: str
    head: Judged
    scores: tuple[tuple[Score, Interval], ...]
    ece: float | None  # in [0, 1]
    labels: tuple[LabelRow, ...]
    confusion: Confusion | None
    kinds: tuple[tuple[str, tuple[int, ...]], ...]  # label -> counts of span_matches.KINDS
    charts: dict[str, str]  # reliability, threshold, frequency, numbers -> SVG
    slices: tuple[Slices, ...]
    errors: tuple[ErrorText, ...]
    findings: tuple[str, ...]


def view_of(
    head: Judged, id: str, *, slices: Sequence[Slices], errors: Sequence[ErrorText], training: Training | str, seed: int
) -> HeadView:
    """Compute what is shown. id: of its section in the page."""
    calibration = head.calibration
    saved = None if calibration is None else calibration.saved
    return HeadView(
        id=id,
        head=head,
        scores=tuple((score, interval(head.sums, score.of, seed=seed)) for score in head.scores),
        ece=None if saved is None else reliability(saved.confidence, saved.right).error,
        labels=_label_rows(head, training, seed),
        confusion=_confusion(head),
        kinds=_kinds(head),
        charts=_charts(head, id, training),
        slices=tuple(slices),
        errors=tuple(errors),
        findings=tuple(findings_of(head, slices)),
    )


def _label_rows(head: Judged, training: Training | str, seed: int) -> tuple[LabelRow, ...]:
    """The scores of the labels, the weakest first, those without gold instances last."""
    rows: list[LabelRow] = []
    for first in range(0, len(head.labels), _LABELS_AT_ONCE):
        counts = head.of_labels[:, first : first + _LABELS_AT_ONCE]  # (B, l, 3)
        sums = counts.sum(axis=0)
        samples = resampled_sums(counts.reshape(len(counts), -1), seed=seed).reshape(-1, *sums.shape)
        columns = []
        for measure in (precision, recall, f_score):
            ends = percentiles(measure(samples))
            columns.append([Interval(*map(float, of)) for of in zip(measure(sums), *ends, strict=True)])
        for number, label in enumerate(head.labels[first : first + _LABELS_AT_ONCE]):
            n_gold = int(sums[number, 0] + sums[number, 2])
            n_training = None if isinstance(training, str) else training.labels[label]
            rows.append(LabelRow(label, n_gold, n_training, *(column[number] for column in columns)))
    return tuple(sorted(rows, key=lambda row: (row.n_gold == 0, np.nan_to_num(row.f_score.value), row.label)))


def _confusion(head: Judged) -> Confusion | None:
    if head.confusion is None:
        return None
    counts = head.confusion
    shown = np.arange(len(counts) - 1)
    if len(shown) > _LABELS_IN_MATRIX:
        wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
        shown = np.sort(np.argsort(-wrong[:-1], kind="stable")[:_LABELS_IN_MATRIX])
    # Exclusive categories have a gold and a predicted one in each text, so none is empty.
    with_none = [len(counts) - 1] if counts[-1].any() or counts[:, -1].any() else []
    places = [*shown.tolist(), *with_none]
    names = [*head.labels, NONE]
    totals = counts.sum(axis=1)
    rows = tuple(
        (
            names[row],
            tuple(Cell(int(counts[row, at]), counts[row, at] / max(1, totals[row]), row == at) for at in places),
        )
        for row in places
    )
    off = [(int(counts[row, at]), row, at) for row, at in np.argwhere(counts[:-1, :-1]) if row != at]
    pairs = tuple((names[row], names[at], count) for count, row, at in sorted(off, key=lambda one: -one[0])[:_PAIRS])
    return Confusion(tuple(names[place] for place in places), rows, len(counts) - 1 - len(shown), pairs)


def _kinds(head: Judged) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """How the spans of each label were found: by gold label, invented ones by predicted label."""
    counts = {label: dict.fromkeys(KINDS, 0) for label in head.labels}
    for of_text in head.matches:
        for one in of_text:
            span = one.gold or one.predicted
            if span is not None:
                counts[span.label][one.kind] += 1
    return (
        tuple((label, tuple(of.values())) for label, of in counts.items() if any(of.values())) if head.matches else ()
    )


def _charts(head: Judged, id: str, training: Training | str) -> dict[str, str]:
    found = {}
    if head.calibration is not None:
        found["reliability"] = charts.reliability_chart(head.calibration, f"{id}-reliability")
    if head.threshold is not None and len(head.threshold.decisions.confidence):
        found["threshold"] = charts.precision_recall_chart(head.threshold, f"{id}-threshold")
    if head.numbers is not None:
        found["numbers"] = charts.numbers_chart(head.numbers, f"{id}-numbers")
    scores = f_score(head.of_labels.sum(axis=0)) if head.labels else np.zeros(0)
    known = ~np.isnan(scores)
    if not isinstance(training, str) and known.any():
        labels = [label for label, there in zip(head.labels, known, strict=True) if there]
        counts = np.array([training.labels[label] for label in labels])
        if counts.max() >= _SPREAD * max(1, counts.min()):
            found["frequency"] = charts.frequency_chart(labels, counts, scores[known], f"{id}-frequency")
    return found
