"""The curves of a training: training_log.csv, which lies beside the trained pipelines."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spacy_bertft.jobs.report.statistics import Floats

_NAME = "training_log.csv"
_KNOWN = ("step", "epoch", "seconds", "learn_rate", "grad_norm", "subwords_per_second", "memory_mib", "best", "score")
_LOSS = "loss_"


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """A run, step by step; a column has NaN where a row has no value."""

    path: Path
    columns: Mapping[str, Floats]  # (S,) each

    @property
    def steps(self) -> Floats:
        """(S,)."""
        return self.columns["step"]

    @property
    def losses(self) -> dict[str, Floats]:
        """The mean loss of each component."""
        return {name.removeprefix(_LOSS): of for name, of in self.columns.items() if name.startswith(_LOSS)}

    @property
    def scores(self) -> dict[str, Floats]:
        """The scores on the development texts that an evaluation has, by their keys; else the one that they make up."""
        found = {name: of for name, of in self.columns.items() if name not in _KNOWN and not name.startswith(_LOSS)}
        found = {name: of for name, of in found.items() if not np.isnan(of).all()}
        return found or {name: self.columns[name] for name in ("score",) if name in self.columns}

    @property
    def best_step(self) -> float | None:
        """The step whose pipeline is model-best; None if no step was evaluated."""
        best = self.steps[self.columns["best"] == 1] if "best" in self.columns else []
        return float(best[-1]) if len(best) else None

    @property
    def seconds(self) -> float | None:
        """Duration of the run."""
        seconds = self.columns.get("seconds", np.zeros(0))
        seconds = seconds[~np.isnan(seconds)]
        return float(seconds[-1]) if len(seconds) else None


def read_log(pipeline: Path) -> TrainingLog | str:
    """Read the log beside a pipeline. Returns why there are no curves if it is missing or can't be read."""
    path = pipeline.absolute().parent / _NAME
    if not path.is_file():
        return (
            f"The training left no curves: there is no {path.name} beside the pipeline, in {pipeline.parent}. Our "
            "logger writes it there."
        )
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        columns = _columns(rows)
    except (OSError, ValueError, csv.Error) as error:
        return f"The training's curves can't be read: {path}: {error}. Expected the CSV file that the logger wrote."
    return TrainingLog(path, columns)


def _columns(rows: Sequence[Sequence[str]]) -> dict[str, Floats]:
    header = rows[0] if rows else []
    if "step" not in header or len(rows) < 2:
        raise ValueError("found no rows of steps" if "step" in header else "found no column 'step'")
    values = np.full((len(rows) - 1, len(header)), np.nan)
    for number, row in enumerate(rows[1:]):
        for place, cell in enumerate(row[: len(header)]):
            if cell.strip():
                value = float(cell)
                values[number, place] = value if math.isfinite(value) else np.nan
    whole = ~np.isnan(values[:, header.index("step")])  # a run that was stopped may leave half a row
    return {name: values[whole, place] for place, name in enumerate(header)}
