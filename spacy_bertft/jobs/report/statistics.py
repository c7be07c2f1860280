"""Statistics of the report: bootstrap intervals, paired comparison, calibration, precision and recall. Numpy alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacy_bertft.components.head_inference import softmax

Floats = NDArray[np.float64]
Measure = Callable[[Floats], Floats]  # sums over texts (…, K) -> values (…)
RESAMPLES = 2000
_LEVEL = 95.0  # percent of an interval
_DRAWS_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, and the ends of its 95 % interval; NaN where the data don't define it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A measure of two pipelines on the same texts."""

    one: float
    other: float
    difference: Interval  # one minus other
    p_value: float  # two-sided: how often texts drawn at random would show no difference, or the opposite one


@dataclass(frozen=True, slots=True)
class Reliability:
    """Predictions by confidence, in bins of equal width; those of empty bins are NaN."""

    counts: NDArray[np.int64]  # (M,)
    confidence: Floats  # (M,) mean of the predictions in the bin
    accuracy: Floats  # (M,) fraction of them that is right
    error: float  # expected calibration error, in [0, 1]


@dataclass(frozen=True, slots=True)
class Curve:
    """Precision and recall if only predictions of at least a confidence count; one point for each confidence."""

    thresholds: Floats  # (P,) falling
    precision: Floats  # (P,)
    recall: Floats  # (P,)

    def at(self, threshold: float) -> tuple[float, float] | None:
        """Precision and recall at a threshold; None if no prediction reaches it."""
        n_reached = int((self.thresholds >= threshold).sum())
        return (float(self.precision[n_reached - 1]), float(self.recall[n_reached - 1])) if n_reached else None

    def best(self) -> tuple[float, float, float]:
        """The threshold with the highest F1, and precision and recall there."""
        total = self.precision + self.recall
        best = int(np.argmax(ratio(2 * self.precision * self.recall, total, empty=0.0)))
        return float(self.thresholds[best]), float(self.precision[best]), float(self.recall[best])


def ratio(numerator: Any, denominator: Any, *, empty: float = np.nan) -> Floats:
    """A quotient; `empty` where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    shape = np.broadcast(numerator, denominator).shape
    quotient: Floats = np.divide(numerator, denominator, out=np.full(shape, empty), where=denominator != 0)
    return quotient


def resampled_sums(values: Floats, *, times: int = RESAMPLES, seed: int = 0) -> Floats:
    """Sums over texts drawn with replacement. values: (B, K) -> (times, K).

    A text is not scored again: a sample is the number of times that each text was drawn, so its sums are one matrix
    product. With equal B and seed the texts drawn are the same, which makes comparisons paired.
    """
    n_texts = len(values)
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // n_texts)
    sums = []
    for first in range(0, times, at_once):
        n_rows = min(at_once, times - first)
        drawn = generator.integers(n_texts, size=(n_rows, n_texts)) + n_texts * np.arange(n_rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=n_rows * n_texts).reshape(n_rows, n_texts)
        sums.append(weights.astype(np.float64) @ values)
    return np.concatenate(sums)


def percentiles(samples: Floats) -> tuple[Floats, Floats]:
    """The ends of the interval over the first axis. Samples that are NaN (undefined) don't count."""
    tail = (100.0 - _LEVEL) / 2
    defined = ~np.isnan(samples).all(axis=0)
    filled = np.where(defined, samples, 0.0)
    low, high = np.nanpercentile(filled, [tail, 100.0 - tail], axis=0)
    return np.where(defined, low, np.nan), np.where(defined, high, np.nan)


def interval(values: Floats, measure: Measure, *, seed: int = 0) -> Interval:
    """Bootstrap percentile interval of a measure (Efron & Tibshirani, 1993, An introduction to the bootstrap, ch. 13).

    values: (B, K) what each text adds to the sums that the measure is computed from.
    """
    low, high = percentiles(measure(resampled_sums(values, seed=seed)))
    return Interval(float(measure(values.sum(axis=0))), float(low), float(high))


def paired_difference(one: Floats, other: Floats, measure: Measure, *, seed: int = 0) -> Difference:
    """Paired bootstrap of two pipelines on the same texts (Koehn, 2004, Statistical significance tests for MT).

    one, other: (B, K). Both are resampled alike. The p-value doubles the smaller tail of the differences (Efron &
    Tibshirani, 1993, ch. 15).
    """
    samples = measure(resampled_sums(one, seed=seed)) - measure(resampled_sums(other, seed=seed))
    samples = samples[~np.isnan(samples)]
    found, compared = float(measure(one.sum(axis=0))), float(measure(other.sum(axis=0)))
    if not len(samples):
        return Difference(found, compared, Interval(found - compared, np.nan, np.nan), np.nan)
    low, high = percentiles(samples)
    tails = [int((samples <= 0).sum()), int((samples >= 0).sum())]
    p_value = min(1.0, 2 * (1 + min(tails)) / (1 + len(samples)))
    return Difference(found, compared, Interval(found - compared, float(low), float(high)), p_value)


def reliability(confidence: Floats, right: NDArray[np.bool_], *, bins: int = 10) -> Reliability:
    """Reliability diagram and expected calibration error (Guo et al., 2017, On calibration of modern neural networks).

    confidence: (N,) in [0, 1]. Bin m of M holds the confidences in ((m - 1) / M, m / M]. The error is the mean distance
    between confidence and accuracy of the bins, weighted by their predictions.
    """
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    means = ratio(np.bincount(place, confidence, bins), counts)
    accuracy = ratio(np.bincount(place, right.astype(np.float64), bins), counts)
    gaps = np.where(counts > 0, np.abs(means - accuracy), 0.0)
    error = float(ratio(counts @ gaps, counts.sum()))
    return Reliability(counts.astype(np.int64), means, accuracy, error)


def precision_recall(confidence: Floats, right: NDArray[np.bool_], n_gold: int) -> Curve:
    """The curve of N predictions, of which n_gold could be right. confidence: (N,)."""
    order = np.argsort(-confidence, kind="stable")
    thresholds, found = confidence[order], np.cumsum(right[order])
    last = np.append(thresholds[1:] != thresholds[:-1], True) if len(order) else np.zeros(0, dtype=bool)
    n_given = np.arange(1, len(order) + 1)
    return Curve(thresholds[last], ratio(found, n_given)[last], ratio(found, n_gold)[last])


def at_temperature(probabilities: Floats, *, old: float, new: float) -> Floats:
    """The softmax at another temperature: (B, L) -> (B, L). It needs no logits: log p is a logit up to a constant."""
    return softmax(np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)) * (old / new))
