"""Scores of categories, the same for all systems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from spacy.tokens import Doc

THRESHOLD = 0.5  # of the probability of a category that excludes no others


def exclusive(docs: Sequence[Doc]) -> bool:
    """Whether each text has exactly one category."""
    return all(sum(doc.cats.values()) == 1 for doc in docs)


def of_categories(gold: Sequence[Doc], predicted: Sequence[Doc]) -> dict[str, float]:
    """F1 over all categories together ("micro_f") and as the mean of each one's ("macro_f").

    Of exclusive categories the best one counts as predicted, and the micro F1 is the accuracy; of others, those with a
    probability of THRESHOLD or more. A category that is neither in the gold texts nor predicted is left out.
    """
    names = sorted({name for doc in (*gold, *predicted) for name in doc.cats})
    true, found = (
        np.array([[doc.cats.get(name, -np.inf) for name in names] for doc in docs]) for docs in (gold, predicted)
    )
    if exclusive(gold):
        true, found = (np.arange(len(names)) == values.argmax(axis=1)[:, None] for values in (true, found))
    else:
        true, found = true >= THRESHOLD, found >= THRESHOLD
    right, all_true, all_found = (table.sum(axis=0) for table in (true & found, true, found))
    seen = all_true + all_found > 0
    return {
        "micro_f": _f(right.sum(), all_true.sum(), all_found.sum()),
        "macro_f": float(
            np.mean([_f(*of_one) for of_one in zip(right[seen], all_true[seen], all_found[seen], strict=True)])
        ),
    }


def _f(right: Any, true: Any, found: Any) -> float:
    return float(2 * right / max(1, true + found))
