"""What a module has been trained on so far, for the loggers of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Counts of one module's training. They only grow, so any number of loggers can take differences of them."""

    texts: int = 0
    subwords: int = 0  # of those texts, special ones not counted
    loss: float = 0.0  # summed over those texts
    steps: int = 0
    norm: float = 0.0  # of the last step's gradients together, before clipping
    learn_rate: float = 0.0  # of the last step: the optimizer's, without the module's own factor
    stepped_at: float = 0.0  # seconds, by time.perf_counter
    _shared: tuple[int, int, float] = (0, 0, 0.0)  # texts, subwords and loss when they were last those of all processes

    def stepped(self, norm: float, learn_rate: float) -> None:
        """Count a step."""
        self.steps += 1
        self.norm, self.learn_rate, self.stepped_at = norm, learn_rate, time.perf_counter()

    def share(self, sum_of: Callable[[Sequence[float]], Sequence[float]]) -> None:
        """Count what the other processes of a run have counted since the last call. sum_of: sums over all of them."""
        new = (now - before for now, before in zip((self.texts, self.subwords, self.loss), self._shared, strict=True))
        texts, subwords, loss = (before + one for before, one in zip(self._shared, sum_of([*new]), strict=True))
        self.texts, self.subwords, self.loss = self._shared = int(texts), int(subwords), loss
