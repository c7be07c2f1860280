"""training_log.csv: the figures of every step, beside the saved pipelines."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from spacy_bertft import compat
from spacy_bertft.components.progress.figures import StepFigures
from spacy_bertft.errors import ConfigError
from spacy_bertft.files import replace_file

_logger = logging.getLogger("spacy")
LOG_FILE = "training_log.csv"
_FIRST = ("step", "epoch", "seconds", "learn_rate", "grad_norm", "subwords_per_second", "memory_mib", "best", "score")


def output_folder() -> Path | None:
    """The folder that the running `spacy train` or `bertft train` saves to; None if there is none."""
    found = compat.command_options().get("output_path")
    return Path(found) if isinstance(found, str | Path) else None


class LogFile:
    """Appends a row for each step, which is on disk when `add` returns. Replaces the file of an earlier run.

    first: the first step that is added. In a run that was resumed, the rows before it stay.

    The columns are those of _FIRST, then loss_<component>, then every score by its name in spaCy. A score that first
    appears later in the run makes it write the file again, with one column more.
    """

    def __init__(self, path: Path, components: Sequence[str], *, first: int = 0) -> None:
        self.path = path
        self.columns = [*_FIRST, *(f"loss_{name}" for name in components)]
        self._file: TextIO | None = None
        self._begun = False  # whether it has a header
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = _rows_before(first, path)
            if kept:
                self.columns += [name for name in kept[0] if name not in self.columns]
            self._file = path.open("w", newline="", encoding="utf-8")
            if kept:
                self._file.write(_lines(self.columns, [dict(zip(self.columns, self.columns, strict=True)), *kept]))
                self._begun = True
        except OSError as error:
            raise ConfigError(
                f"The log {str(path)!r} could not be written: {error.strerror or error}. Expected a file that nothing "
                "else has open, in a folder to write to. Close it, or set output_file in [training.logger]."
            ) from error

    def add(self, figures: StepFigures) -> None:
        """Append a step. If the disk doesn't take it, say so once and leave the rest of the run out."""
        if self._file is None:
            return
        row = _row(figures)
        new = [name for name in row if name not in self.columns]
        try:
            if new or not self._begun:
                self._begin(new)
            self._file.write(_lines(self.columns, [row]))
            self._file.flush()
        except OSError as error:
            _logger.warning("%s ends before step %s: %s", self.path, figures.step, error.strerror or error)
            self.close()

    def _begin(self, new: Sequence[str]) -> None:
        """Write the header, and again all rows so far, with more columns than before."""
        assert self._file is not None
        self._file.close()
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.columns += new
        text = _lines(self.columns, [dict(zip(self.columns, self.columns, strict=True)), *rows])
        replace_file(self.path, lambda part: part.write_bytes(text.encode()))
        self._file, self._begun = self.path.open("a", newline="", encoding="utf-8"), True

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _rows_before(first: int, path: Path) -> list[dict[str, str]]:
    if not first or not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row.get("step", "").isdigit() and int(row["step"]) < first]


def _lines(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue()


def _row(figures: StepFigures) -> dict[str, Any]:
    stretch, found = figures.stretch, figures.evaluation
    losses = {**(found.stretch.losses if found else {}), **stretch.losses}
    return {
        "step": figures.step,
        "epoch": figures.epoch,
        "seconds": f"{figures.seconds:.2f}",
        "learn_rate": _number(figures.learn_rate),
        "grad_norm": _number(stretch.norm),
        "subwords_per_second": _number(stretch.subwords_per_second),
        "memory_mib": f"{figures.memory:.1f}",
        "best": int(found.best) if found else 0,
        "score": _number(found.score) if found else "",
        **{f"loss_{name}": _number(value) for name, value in losses.items()},
        **({name: _number(value) for name, value in found.scores.items()} if found else {}),
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
