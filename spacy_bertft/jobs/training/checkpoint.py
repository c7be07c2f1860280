"""Checkpoints of a training run: all that it needs to continue, bit for bit on the same machine. No pickle."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from spacy_bertft.errors import DataError
from spacy_bertft.files import sync
from spacy_bertft.jobs.checkpoints import PREFIX, delete_checkpoints, find_checkpoints, write_checkpoint
from spacy_bertft.jobs.processes import Processes
from spacy_bertft.jobs.training.identity import check_same_run
from spacy_bertft.jobs.training.loop import Loop, Progress
from spacy_bertft.jobs.training.pipeline_state import load_pipeline_state, pipeline_state
from spacy_bertft.jobs.writing import writing
from spacy_bertft.learning.state import TensorsByName, load_random_state, random_state

_TENSORS, _STATE, _FINISHED = "tensors.safetensors", "state.json", "finished.json"
_KEPT = 2
_GLOBAL = "global/"  # prefix of the global random generators; the batches have their own


@dataclass
class Checkpoints:
    """Writes and reads the checkpoints of a run.

    folder          where they are
    identity        of the run
    every_minutes   one is due so long after the last one; None: never
    every_steps     one is due after so many steps; None: never
    """

    folder: Path
    identity: Mapping[str, Any]
    every_minutes: float | None = 5.0
    every_steps: int | None = None
    _written: float = field(default_factory=time.monotonic)

    def due(self, updates: int) -> bool:
        """Whether a checkpoint should be written after so many updates."""
        by_time = self.every_minutes is not None and time.monotonic() - self._written >= 60 * self.every_minutes
        return by_time or (self.every_steps is not None and updates % self.every_steps == 0)

    def write(self, loop: Loop, progress: Progress) -> Path:
        """Write one, and keep the one before it. Raises a DataError if the disk is full; the one before is intact."""
        frozen = loop.settings["frozen_components"]
        tensors = {
            **pipeline_state(loop.nlp, loop.optimizer, frozen),
            **loop.batches.state(),
        }
        for rank, state in enumerate(loop.processes.gather(random_state())):
            tensors.update({f"{_GLOBAL}{rank}/{name}": tensor for name, tensor in state.items()})
        path = self.folder / f"{PREFIX}{progress.updates}"
        self._written = time.monotonic()
        if not loop.processes.is_first:
            return path

        def write(part: Path) -> None:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part / _TENSORS)
            content = {"identity": self.identity, "progress": asdict(progress)}
            (part / _STATE).write_text(json.dumps(content, default=float), encoding="utf-8")

        write_checkpoint(self.folder, progress.updates, write, keep=_KEPT)
        return path

    def newest(self) -> Path | None:
        """The newest checkpoint; None if there is none."""
        found = find_checkpoints(self.folder)
        return found[max(found)] if found else None

    def load(self, path: Path, loop: Loop) -> tuple[Progress, list[str]]:
        """Put a pipeline that was initialised in the same way into the state of a checkpoint.

        Returns how far the run had come, and what makes its rest differ in the last bits: other versions, another
        machine. Raises a ConfigError or DataError for the checkpoint of another run, and for one that can't be read.
        """
        tensors, content = _read(path)
        differences = check_same_run(content["identity"], self.identity, str(path))
        progress = Progress(**content["progress"])
        progress.results = [(score, step) for score, step in progress.results]
        loop.encode_again(progress)
        load_pipeline_state(tensors, loop.nlp, loop.optimizer, loop.settings["frozen_components"])
        loop.batches.load_state(tensors)
        _load_generators(tensors, loop.processes, progress.updates)
        return progress, differences

    def finish(self) -> None:
        """Delete the checkpoints, and note that the run is finished."""
        path = self.folder / _FINISHED
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.identity), encoding="utf-8")
            for written in (path, self.folder):
                sync(written)
        delete_checkpoints(self.folder)

    def is_finished(self) -> bool:
        """Whether this very run was finished in this folder."""
        path = self.folder / _FINISHED
        if not path.is_file():
            return False
        try:
            check_same_run(json.loads(path.read_text(encoding="utf-8")), self.identity, str(path))
        except (ValueError, KeyError):  # ours are ValueErrors too
            return False
        return True


def clear_checkpoints(folder: Path) -> None:
    """Delete what an earlier run left."""
    delete_checkpoints(folder)
    (folder / _FINISHED).unlink(missing_ok=True)


def _load_generators(tensors: TensorsByName, processes: Processes, updates: int) -> None:
    """Restore this process's random generators; of a run with another number of processes, new ones."""
    of_rank = {
        rank: {
            name.split("/", 2)[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{_GLOBAL}{rank}/")
        }
        for rank in (0, processes.rank, processes.count)
    }
    load_random_state(of_rank[processes.rank] or of_rank[0])
    if of_rank[processes.count] or not of_rank[processes.rank]:
        torch.manual_seed(updates * processes.count + processes.rank)


def _read(path: Path) -> tuple[TensorsByName, dict[str, Any]]:
    try:
        tensors: dict[str, Tensor] = load_file(path / _TENSORS)
        content: dict[str, Any] = json.loads((path / _STATE).read_text(encoding="utf-8"))
        Progress(**content["progress"])
        content["identity"]  # raises if it is not there
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"The checkpoint {path} could not be read: {error}. Expected one that this run has written. Delete this "
            "folder and resume from the checkpoint before it, or start anew without --resume."
        ) from error
    return tensors, content
