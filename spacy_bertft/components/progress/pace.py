"""How many steps a run has, and how long the rest of it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from spacy_bertft.learning.schedules import WARMUP_DECAY

_MEMORY = 0.97  # weight of all steps before, in the mean seconds of a step


class Pace:
    """The length of a run by [training], and the time left by the steps so far: training, evaluating and saving."""

    def __init__(self, training: Mapping[str, Any]) -> None:
        self.max_steps = training.get("max_steps") or 0
        self.max_epochs = max(0, training.get("max_epochs") or 0)
        self.eval_frequency = max(1, training.get("eval_frequency") or 1)
        rate: Any = (training.get("optimizer") or {}).get("learn_rate")
        planned = isinstance(rate, dict) and rate.get("@schedules") == WARMUP_DECAY
        self.steps_per_epoch: int | None = rate.get("steps_per_epoch") if planned else None
        self._step = self._steps_weight = 0.0
        self._pause, self._pauses = 0.0, 0

    def add(self, seconds: float, pause: float | None) -> None:
        """Count a step. pause: the seconds that its evaluation took; None: it had none."""
        self._step = _MEMORY * self._step + (1 - _MEMORY) * seconds
        self._steps_weight = _MEMORY * self._steps_weight + (1 - _MEMORY)
        if pause is not None:
            self._pause, self._pauses = self._pause + pause, self._pauses + 1

    def total(self, *, done: int, texts: int = 0, texts_per_epoch: int | None = None) -> int | None:
        """The number of steps of the whole run, if patience does not end it earlier; None if nothing limits it.

        done, texts: steps so far, and the texts in them.
        """
        limits = [self.max_steps + 1] if self.max_steps else []  # spaCy's steps are counted from 0 to max_steps
        if self.max_epochs and self.steps_per_epoch:
            limits.append(self.max_epochs * self.steps_per_epoch)
        elif self.max_epochs and texts_per_epoch and texts:
            limits.append(math.ceil(self.max_epochs * texts_per_epoch * done / texts))
        return max(done, min(limits)) if limits else None

    def left(self, *, done: int, total: int) -> float | None:
        """Seconds that the rest of the run takes; None before the first step."""
        if not self._steps_weight:
            return None
        evaluations = (total - 1) // self.eval_frequency - (done - 1) // self.eval_frequency
        pause = self._pause / self._pauses if self._pauses else 0.0
        return (total - done) * self._step / self._steps_weight + evaluations * pause

    def evaluates_next(self, *, done: int) -> bool:
        """Whether the next step is evaluated."""
        return done % self.eval_frequency == 0
