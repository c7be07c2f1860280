"""A space to search when none is given: what matters most in fine-tuning, around the values of the config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.tune.space import Choices, Range, Setting, Space
from spacy_bertft.learning.schedules import WARMUP_DECAY

_RATE = "training.optimizer.learn_rate"


def default_space(settings: Mapping[str, Any]) -> Space:
    """The learning rate, the length of the run, dropout, layer decay and the batch size.

    settings: of the config, by dotted names. Those that the config does not have in a usual form are left out.
    """
    found = (*_rate(settings), *_length(settings), *_dropout(settings), *_layer_decay(settings), *_batch(settings))
    if not found:
        raise ConfigError(
            "The config has none of the settings that are searched by default: a learning rate, max_epochs, dropout, "
            "layer_decay, the batch size. Expected a file that says what to search. Give it with --space."
        )
    return found


def _rate(settings: Mapping[str, Any]) -> Iterator[Setting]:
    for name in (f"{_RATE}.initial_rate", _RATE):
        rate = settings.get(name)
        if isinstance(rate, float) and rate > 0:
            yield Range(name, _short(rate / 4), _short(rate * 4), whole=False, log=True)
            return


def _length(settings: Mapping[str, Any]) -> Iterator[Setting]:
    # Under another schedule a longer run might only add steps at a rate of 0.
    if settings.get(f"{_RATE}.@schedules") != WARMUP_DECAY:
        return
    epochs, steps = settings["training.max_epochs"], settings["training.max_steps"]
    if epochs > 0 and steps == 0:
        yield Range("training.max_epochs", max(1, epochs // 2), 2 * epochs, whole=True)
    elif steps > 1 and epochs == 0:
        yield Choices("training.max_steps", (steps // 2, steps, 2 * steps))


def _dropout(settings: Mapping[str, Any]) -> Iterator[Setting]:
    dropout = settings["training.dropout"]
    if isinstance(dropout, float):
        yield _grid("training.dropout", dropout, 0.0, 0.3)


def _layer_decay(settings: Mapping[str, Any]) -> Iterator[Setting]:
    for name, value in settings.items():
        if name.endswith(".tuning.layer_decay"):
            yield _grid(name, value, 0.7, 1.0)


def _batch(settings: Mapping[str, Any]) -> Iterator[Setting]:
    size = settings.get("training.batcher.size")
    if isinstance(size, int) and size > 1:
        yield Choices("training.batcher.size", (size // 2, size, 2 * size))


def _grid(name: str, current: float, low: float, high: float) -> Range:
    """Steps of 0.05 if the config's value is one of them; else any number, with that value inside."""
    grid = Range(name, low, high, whole=False, step=0.05)
    return grid if grid.place(current) is not None else Range(name, min(low, current), max(high, current), whole=False)


def _short(number: float) -> float:
    return float(f"{number:.3g}")
