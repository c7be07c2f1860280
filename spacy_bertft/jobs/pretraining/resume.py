"""Checkpoints of a pretraining run: all that resuming needs. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from spacy_bertft.errors import DataError
from spacy_bertft.jobs.checkpoints import write_checkpoint
from spacy_bertft.learning.optimizer import ModuleOptimizer
from spacy_bertft.learning.state import load_module_state, load_random_state, module_state, random_state

NO_LOSSES = (0.0, 0.0, 0.0, 0)  # masked, next sentence, teacher; steps
_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass
class RunState:
    """The progress of a run."""

    settings: Mapping[str, Any]
    step: int = 0  # steps taken
    subwords: int = 0  # in these steps, including special tokens
    seconds: float = 0.0
    losses: Sequence[float] = NO_LOSSES  # sums since the last row of the curve, and over how many steps
    curve: list[dict[str, Any]] = field(default_factory=list)  # rows of the CSV so far

    def add(self, losses: Sequence[float]) -> None:
        """Add those of a step."""
        self.losses = [one + other for one, other in zip(self.losses, (*losses, 1), strict=True)]


def save_checkpoint(folder: Path, state: RunState, module: nn.Module, optimizer: ModuleOptimizer) -> Path:
    """Write checkpoint-<step>, then delete older ones."""

    def write(part: Path) -> None:
        save_file({**module_state(module, optimizer), **random_state()}, part / _TENSORS)
        (part / _STATE).write_text(json.dumps(vars(state)), encoding="utf-8")

    return write_checkpoint(folder, state.step, write)


def load_checkpoint(path: Path, module: nn.Module, optimizer: ModuleOptimizer) -> RunState:
    """Restore a checkpoint's weights, optimizer state and random state. Returns the run's state."""
    try:
        tensors = load_file(path / _TENSORS)
        state = RunState(**json.loads((path / _STATE).read_text(encoding="utf-8")))
        load_module_state(tensors, module, optimizer)
        load_random_state(tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"The checkpoint {path} could not be read: {error}. Expected one that this run has written. Start again "
            "with --overwrite."
        ) from error
    return state
