"""Fit the temperatures and thresholds of heads, on texts that they were not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def fit_temperature(logits: np.ndarray[Any, Any], gold: np.ndarray[Any, Any]) -> float:
    """The divisor of the logits (B, L) that maximises the likelihood of the gold classes (B,).

    The gold classes are smoothed as in Platt, 1999, Probabilistic outputs for support vector machines, so that a few
    texts, all predicted correctly, do not lead to certainty.
    """
    smoothing = 1 / (len(gold) + 2)
    centred = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    # Of each row, the mean of the logits under its smoothed target.
    wanted = (1 - smoothing) * centred[np.arange(len(gold)), gold] + smoothing * centred.mean(axis=1)

    def loss(log_temperature: float) -> float:
        factor = math.exp(-log_temperature)
        return float((np.log(np.exp(centred * factor).sum(axis=1)) - wanted * factor).mean())  # cross-entropy

    # The loss is convex in 1/T, so it has one minimum in log T too.
    low, high = math.log(0.05), math.log(20.0)
    for _ in range(40):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return round(math.exp((low + high) / 2), 4)


def fit_threshold(right: np.ndarray[Any, Any], unknown: np.ndarray[Any, Any], *, n_known: int) -> float:
    """The threshold between the scores of `right` and of `unknown` texts with the best mean of two rates.

    These are the accuracy on the `n_known` texts of known categories (right, and above the threshold), and the recall
    of unknown texts (below it).
    """
    values = np.unique(np.concatenate([right, unknown]))  # sorted
    borders = np.concatenate([values[:1] - 1, (values[1:] + values[:-1]) / 2, values[-1:] + 1])
    kept = 1 - np.searchsorted(np.sort(right), borders) / max(1, len(right))
    found = np.searchsorted(np.sort(unknown), borders) / len(unknown)
    return float(borders[np.argmax(kept * len(right) / n_known + found)])


def fit_answer_threshold(evidence: Sequence[tuple[float, float, float]]) -> float:
    """The threshold of the margin for answering that gives the best F1 over all questions.

    evidence: per question, the margin of its best answer over no answer, that answer's F1, and the F1 of no answer.
    """
    margins, answered, silent = np.array(sorted(evidence, reverse=True)).T
    # The total F1 if the first 0, 1, … questions are answered.
    totals = np.append(0.0, np.cumsum(answered)) + silent.sum() - np.append(0.0, np.cumsum(silent))
    ends = np.append(margins[:-1] != margins[1:], True)  # no threshold lies between equal margins
    totals[1:][~ends] = -np.inf
    best = int(totals.argmax())
    borders = np.concatenate([margins[:1] + 1, (margins[1:] + margins[:-1]) / 2, margins[-1:] - 1])
    return float(borders[best])
