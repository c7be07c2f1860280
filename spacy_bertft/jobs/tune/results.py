"""What a search leaves on disk as it goes: all trials as a table, the best config and its pipeline."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinc.api import Config

from spacy_bertft.files import replace_file
from spacy_bertft.jobs.tune.configs import with_values
from spacy_bertft.jobs.tune.space import Space
from spacy_bertft.jobs.tune.study import FAILED, values_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

BEST_CONFIG, BEST_MODEL, TRIALS = "best.cfg", "best-model", "trials.csv"


@dataclass(frozen=True, slots=True)
class Row:
    """A trial that is over."""

    number: int
    state: str  # "done", "pruned" or "failed"
    score: float | None  # the best of its evaluations; None if it failed before the first
    step: int | None  # of that evaluation
    epoch: int | None
    seconds: float
    values: dict[str, Any]  # dotted name of a setting -> value
    reason: str  # why it failed


def row_of(trial: FrozenTrial, space: Space) -> Row:
    """The row of a trial that is over."""
    from optuna.trial import TrialState

    notes = trial.user_attrs
    state = "done" if trial.state == TrialState.COMPLETE else "failed" if FAILED in notes else "pruned"
    seconds = 0.0 if trial.duration is None else trial.duration.total_seconds()
    values, reason = values_of(trial.params, space), notes.get(FAILED, "")
    return Row(trial.number, state, notes.get("score"), notes.get("step"), notes.get("epoch"), seconds, values, reason)


def best_of(rows: Sequence[Row]) -> Row | None:
    """The trial with the highest score of those that ran to their end; the earliest of equal ones."""
    done = [row for row in rows if row.state == "done"]
    return max(done, key=lambda row: (_points(row), -row.number), default=None)


def _points(row: Row) -> float:
    return -math.inf if row.score is None else row.score


def write_best(folder: Path, config: Config, best: Row) -> None:
    """Write the complete config of the best trial."""
    text = with_values(config, best.values).to_str()
    said = (
        f"# The best trial of a search (number {best.number}): dev score {best.score:.4f} at step {best.step}.\n"
        f"# To train with it: python -m spacy train {BEST_CONFIG} --output training\n\n"
    )
    replace_file(folder / BEST_CONFIG, lambda part: part.write_text(said + text, encoding="utf-8"))


def keep_model(model: Path, folder: Path) -> None:
    """Move the pipeline of the best trial so far to its place."""
    target, old = folder / BEST_MODEL, folder / f"{BEST_MODEL}.old"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(model, target)
    shutil.rmtree(old, ignore_errors=True)


def write_trials(folder: Path, rows: Sequence[Row], space: Space) -> None:
    """Write a table of all trials that are over."""
    names = [setting.name for setting in space]

    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["trial", "state", "score", "step", "epoch", "seconds", *names, "reason"])
            for row in rows:
                values = [_cell(row.values.get(name)) for name in names]
                notes = ["" if note is None else note for note in (row.score, row.step, row.epoch)]
                writer.writerow([row.number, row.state, *notes, f"{row.seconds:.1f}", *values, row.reason])

    replace_file(folder / TRIALS, write)


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list | bool) or value is None else value
