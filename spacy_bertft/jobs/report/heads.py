"""What the report knows of a head: how it did on each annotated text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spacy_bertft.jobs.report.measures import Score
from spacy_bertft.jobs.report.span_matches import Match
from spacy_bertft.jobs.report.statistics import Floats
from spacy_bertft.types import Ints

NONE = "none"  # the title of "no label" in tables
Unit = Literal["entities", "spans", "categories", "labels", "answers", "numbers"]


@dataclass(frozen=True, slots=True)
class Mark:
    """A part of a text that an error is about."""

    start: int  # character
    end: int
    label: str
    kind: str  # how it is drawn: "right", or what is wrong, as in span_matches.KINDS


@dataclass(frozen=True, slots=True)
class Mistake:
    """A text with errors, to show: gold above predicted."""

    text: int  # its number in the data
    confidence: float | None  # in the wrong prediction that the head trusts most; None: it gives no confidence
    says: str  # what is wrong
    gold: tuple[Mark, ...] = ()
    predicted: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Decisions:
    """N predictions with a confidence in each, whatever text they are of."""

    confidence: Floats  # (N,) in [0, 1]
    right: NDArray[np.bool_]  # (N,)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Decisions with the saved settings, and with others to compare."""

    saved: Decisions
    other: Decisions | None = None
    saved_title: str = "as saved"
    other_title: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Threshold:
    """Predictions to draw precision against recall from."""

    decisions: Decisions
    n_gold: int
    used: float | None  # the threshold that the pipeline uses; None: it gives every prediction
    note: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """How a head did on B annotated texts. Its sums over texts give all its scores; see measures.py."""

    name: str
    factory: str
    unit: Unit
    texts: Ints  # (B,) their numbers in the data
    sums: Floats  # (B, K); with labels, K = 3 L
    scores: tuple[Score, ...]  # the main one first
    labels: tuple[str, ...] = ()
    confusion: Ints | None = None  # (L + 1, L + 1) gold label, predicted label; the last of both is none
    calibration: Calibration | None = None
    threshold: Threshold | None = None
    mistakes: Sequence[Mistake] = ()
    matches: Sequence[Sequence[Match]] = ()  # of B texts, for heads of spans
    numbers: Floats | None = None  # (B, 2) gold and predicted, for heads of numbers
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def of_labels(self) -> Floats:
        """True positives, false positives and false negatives. (B, L, 3)."""
        return self.sums.reshape(len(self.sums), -1, 3)


@dataclass(frozen=True, slots=True)
class Unjudged:
    """A head without anything to measure it by, and why."""

    name: str
    factory: str
    why: str
