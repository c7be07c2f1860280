"""A learning rate that follows the length of the run, given as steps or epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal

from spacy_bertft.errors import ConfigError

WARMUP_DECAY = "spacy-bertft.warmup_decay.v1"
_Decay = Literal["linear", "cosine", "constant"]


def warmup_decay(
    initial_rate: float,
    warmup: float = 0.1,
    decay: _Decay = "linear",
    max_steps: int = 0,
    max_epochs: int = 0,
    steps_per_epoch: int | None = None,
) -> Iterable[float]:
    """Linear warm-up from 0 over the first part of the run, then a decay to 0 at its end. Yields a rate per step.

    initial_rate: the highest rate, reached after the warm-up.
    warmup: the fraction of the run that the warm-up takes.
    decay: "linear", "cosine" (Loshchilov & Hutter, 2017, SGDR, without restarts), or "constant" for none.
    max_steps, max_epochs: 0 for no limit; the run ends at the limit that comes first.
    steps_per_epoch: batches in an epoch.

    `spacy train` sets the last three: from [training], and by counting the batches.
    """
    if not 0 <= warmup < 1:
        raise ConfigError(
            f"The warm-up of the learning rate is {warmup:g}. Expected a fraction of the run, from 0 to below 1. Set "
            "warmup = 0.1 in [training.optimizer.learn_rate]."
        )
    return _rates(initial_rate, warmup, decay, max_steps, max_epochs, steps_per_epoch)


def _rates(
    highest: float, warmup: float, decay: _Decay, max_steps: int, max_epochs: int, steps_per_epoch: int | None
) -> Iterator[float]:
    # The first rate is read when the optimizer is made, before the steps of an epoch can be counted.
    yield 0.0 if warmup else highest
    total = _run_length(max_steps, max_epochs, steps_per_epoch)
    if total is None and not (decay == "constant" and not warmup):
        raise ConfigError(
            f"The learning rate does not know how long the run is: found max_steps = {max_steps}, max_epochs = "
            f"{max_epochs}, steps_per_epoch = {steps_per_epoch}. Expected a positive max_steps, or a positive "
            "max_epochs with the number of batches in an epoch. Set max_steps or max_epochs in [training]; `spacy "
            "train` copies them when it initialises a component of this package. In your own loop, or if all these "
            "components are sourced, set all three in [training.optimizer.learn_rate]."
        )
    step = 1
    while True:
        yield highest * _factor(step, total or 1, warmup, decay)
        step += 1


def _run_length(max_steps: int, max_epochs: int, steps_per_epoch: int | None) -> int | None:
    """The number of steps of a run; None if there is no limit, or if it is in epochs of unknown length."""
    by_epochs = max_epochs * steps_per_epoch if max_epochs > 0 and steps_per_epoch else None
    by_steps = max_steps if max_steps > 0 else None
    if max_epochs > 0 and by_epochs is None:
        return None
    return min((steps for steps in (by_steps, by_epochs) if steps is not None), default=None)


def _factor(step: int, total: int, warmup: float, decay: _Decay) -> float:
    """The rate at a step, from 0 to 1."""
    n_warmup = math.ceil(warmup * total)
    if step < n_warmup:
        return step / n_warmup
    if decay == "constant":
        return 1.0
    done = min(1.0, (step - n_warmup) / max(1, total - n_warmup))
    return 1.0 - done if decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
