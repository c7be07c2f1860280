"""Fitting how sure heads are: temperatures and thresholds, on texts that they did not learn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy


def fit_temperature(logits: np.ndarray[Any, Any], gold: np.ndarray[Any, Any]) -> float:
    """What logits (B, L) are divided by for the highest likelihood of the gold numbers (B,).

    The gold is smoothed as in Platt, 1999, Probabilistic outputs for support vector machines, so that a few texts that
    are all right make nothing certain.
    """
    smoothing = 1 / (len(gold) + 2)

    def loss(log_temperature: float) -> float:
        scaled = torch.from_numpy(logits) / math.exp(log_temperature)
        return float(cross_entropy(scaled, torch.from_numpy(gold), label_smoothing=smoothing))

    # In 1/T the loss is convex, so it has one minimum in log T too.
    low, high = math.log(0.05), math.log(20.0)
    for _ in range(40):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return round(math.exp((low + high) / 2), 4)


def fit_threshold(right: np.ndarray[Any, Any], unknown: np.ndarray[Any, Any], *, n_known: int) -> float:
    """The border between the scores of texts that are `right` and of `unknown` ones with the best mean of two shares.

    Those of the `n_known` texts of known categories that are right and above it, and of the unknown ones below it.
    """
    values = np.unique(np.concatenate([right, unknown]))  # in order
    borders = np.concatenate([values[:1] - 1, (values[1:] + values[:-1]) / 2, values[-1:] + 1])
    kept = 1 - np.searchsorted(np.sort(right), borders) / max(1, len(right))
    found = np.searchsorted(np.sort(unknown), borders) / len(unknown)
    return float(borders[np.argmax(kept * len(right) / n_known + found)])


def fit_answer_threshold(evidence: Sequence[tuple[float, float, float]]) -> float:
    """The margin from which answering gives the best F1 over all questions.

    evidence: for each question the margin of its best answer over none, that answer's F1, and the F1 of no answer.
    """
    margins, answered, silent = np.array(sorted(evidence, reverse=True)).T
    # The F1 if the first 0, 1, … questions are answered.
    totals = np.append(0.0, np.cumsum(answered)) + silent.sum() - np.append(0.0, np.cumsum(silent))
    ends = np.append(margins[:-1] != margins[1:], True)  # between equal margins there is no border
    totals[1:][~ends] = -np.inf
    best = int(totals.argmax())
    borders = np.concatenate([margins[:1] + 1, (margins[1:] + margins[:-1]) / 2, margins[-1:] - 1])
    return float(borders[best])
