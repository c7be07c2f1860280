"""The dev scores of a run, read at fixed parts of it, so that runs of different lengths can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PARTS = 10  # of a run
_DIGITS = 6  # of a score, so that equal curves stay equal in spite of rounding


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a training reports each time it is evaluated on the development set."""

    step: int
    epoch: int
    score: float  # the weighted score that spaCy maximises
    position: float | None  # the fraction of the run that is done; None: the run has no known length


class Curve:
    """The best score so far at each tenth of a run, interpolated between the evaluations around it.

    Runs differ in length and in how often they are evaluated. Reading all of them at the same places compares like
    with like. A run of unknown length is read at each evaluation instead.
    """

    def __init__(self) -> None:
        self.evaluations: list[Evaluation] = []
        self.best: Evaluation | None = None
        self._last = (0.0, 0.0)  # position, best score so far

    def add(self, evaluation: Evaluation) -> Iterator[tuple[int, float]]:
        """Yield the places that the run has reached since the last evaluation, from 1, and its scores there."""
        first = self.best is None
        self.evaluations.append(evaluation)
        if self.best is None or evaluation.score > self.best.score:
            self.best = evaluation
        score = self.best.score
        if evaluation.position is None:
            yield len(self.evaluations), score
            return
        before, left = (evaluation.position, score) if first else self._last
        self._last = (evaluation.position, score)
        start = 0 if first else _parts(before)
        for part in range(start + 1, _parts(evaluation.position) + 1):
            width = evaluation.position - before
            done = 1.0 if width <= 0 else (part / PARTS - before) / width
            yield part, round(left + (score - left) * done, _DIGITS)


def _parts(position: float) -> int:
    return int(position * PARTS + 1e-9)
