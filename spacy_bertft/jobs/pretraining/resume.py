"""Checkpoints of a run: all that resuming needs, written completely or not at all. No pickle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from spacy_bertft.errors import DataError
from spacy_bertft.learning.optimizer import ModuleOptimizer
from spacy_bertft.learning.state import load_module_state, load_random_state, module_state, random_state

PREFIX = "checkpoint-"
_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass
class RunState:
    """The progress of a run."""

    settings: Mapping[str, Any]
    step: int = 0  # steps taken
    subwords: int = 0  # in these steps, including special tokens
    seconds: float = 0.0
    losses: tuple[float, float, int] = (0.0, 0.0, 0)  # sums since the last row of the curve, and over how many steps
    curve: list[dict[str, Any]] = field(default_factory=list)  # rows of the CSV so far


def save_checkpoint(folder: Path, state: RunState, module: nn.Module, optimizer: ModuleOptimizer) -> Path:
    """Write checkpoint-<step>, then delete older ones."""
    target = folder / f"{PREFIX}{state.step}"
    part = folder / f".{target.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        save_file({**module_state(module, optimizer), **random_state()}, part / _TENSORS)
        (part / _STATE).write_text(json.dumps(vars(state)), encoding="utf-8")
        for name in (_TENSORS, _STATE):
            _sync(part / name)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise DataError(
            f"The checkpoint {target} could not be written: {error}. Expected room for it on the disk. Free some and "
            "start again with --resume: the previous checkpoint is intact."
        ) from error
    for step, old in find_checkpoints(folder).items():
        if step < state.step:
            shutil.rmtree(old, ignore_errors=True)
    return target


def find_checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder, by step."""
    paths = folder.glob(f"{PREFIX}*") if folder.is_dir() else ()
    return {int(path.name.removeprefix(PREFIX)): path for path in paths if path.name.removeprefix(PREFIX).isdigit()}


def delete_checkpoints(folder: Path) -> None:
    """Delete all checkpoints in a folder."""
    for path in find_checkpoints(folder).values():
        shutil.rmtree(path, ignore_errors=True)


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


def _sync(path: Path) -> None:
    """Wait until the file is on disk, so that a power cut leaves no partial checkpoint under the final name."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
