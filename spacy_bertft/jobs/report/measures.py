"""What the report measures: scores as functions of sums over texts, so that they can be resampled. Numpy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spacy_bertft.components.metric_kinds import ERROR, POINTS, ScoreKind
from spacy_bertft.jobs.report.statistics import Floats, Measure, ratio


@dataclass(frozen=True, slots=True)
class Score:
    """A score of a head, computed from sums over texts (…, K)."""

    title: str
    of: Measure
    kind: ScoreKind = POINTS


# The sums of heads with labels are (…, L * 3): true positives, false positives and false negatives of each label.


def precision(sums: Floats) -> Floats:
    """tp / (tp + fp) over the last axis of (…, 3)."""
    return ratio(sums[..., 0], sums[..., 0] + sums[..., 1])


def recall(sums: Floats) -> Floats:
    """tp / (tp + fn) over the last axis of (…, 3)."""
    return ratio(sums[..., 0], sums[..., 0] + sums[..., 2])


def f_score(sums: Floats) -> Floats:
    """F1 over the last axis of (…, 3); NaN where there is neither a gold nor a predicted one."""
    return ratio(2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 2])


def _by_label(sums: Floats) -> Floats:
    return sums.reshape(*sums.shape[:-1], -1, 3)


def _pooled(sums: Floats) -> Floats:
    pooled: Floats = _by_label(sums).sum(axis=-2)
    return pooled


def macro_f(sums: Floats) -> Floats:
    """The mean F1 of the labels that occur."""
    scores = f_score(_by_label(sums))
    return ratio(np.nansum(scores, axis=-1), (~np.isnan(scores)).sum(axis=-1))


def label_f(number: int) -> Measure:
    """F1 of one label."""
    return lambda sums: f_score(_by_label(sums)[..., number, :])


MICRO_F = Score("F-score", lambda sums: f_score(_pooled(sums)))
MICRO_P = Score("Precision", lambda sums: precision(_pooled(sums)))
MICRO_R = Score("Recall", lambda sums: recall(_pooled(sums)))
MACRO_F = Score("Macro F", macro_f)
# With one category per text, each error is a false positive of one label and a false negative of another.
ACCURACY = Score("Accuracy", lambda sums: recall(_pooled(sums)))

# Answers: (…, 7): questions, exact matches, F1, of those with an answer the number and F1, the same for those without.
ANSWERS = (
    Score("F-score", lambda sums: ratio(sums[..., 2], sums[..., 0])),
    Score("Exact match", lambda sums: ratio(sums[..., 1], sums[..., 0])),
    Score("F-score with an answer", lambda sums: ratio(sums[..., 4], sums[..., 3])),
    Score("Accuracy without an answer", lambda sums: ratio(sums[..., 6], sums[..., 5])),
)


def _pearson(sums: Floats) -> Floats:
    n, x, y, xx, yy, xy = np.moveaxis(sums[..., :6], -1, 0)
    # Rounding can leave a tiny variance where all numbers are equal.
    of_x, of_y = (np.maximum(square - ratio(one * one, n), 0) for one, square in ((x, xx), (y, yy)))
    return ratio(xy - ratio(x * y, n), np.sqrt(of_x * of_y), empty=0.0)


# Numbers: (…, 8): texts, gold, predicted, gold², predicted², gold · predicted, |error|, error²; see number_sums.
NUMBERS = (
    Score("Mean absolute error", lambda sums: ratio(sums[..., 6], sums[..., 0]), ERROR),
    Score("Root mean squared error", lambda sums: np.sqrt(ratio(sums[..., 7], sums[..., 0])), ERROR),
    Score("Pearson correlation", _pearson),
)


def number_sums(gold: Floats, found: Floats) -> Floats:
    """What each text adds to the sums for NUMBERS: (B,), (B,) -> (B, 8).

    The correlation does not change if a constant is subtracted; without their means, squares don't lose digits.
    """
    x, y, error = gold - gold.mean(), found - found.mean(), np.abs(gold - found)
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y, error, error * error], axis=1)
