"""`spacy-bertft.ConsoleLogger.v1`: a table of evaluations, a live line between them, and a CSV of all steps."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from spacy.language import Language
from spacy.util import registry

from spacy_bertft.components.metric_kinds import POINTS, kind_of
from spacy_bertft.components.progress.figures import Info, RunMeter, StepFigures
from spacy_bertft.components.progress.log_file import LOG_FILE, LogFile, output_folder
from spacy_bertft.components.progress.pace import Pace
from spacy_bertft.components.progress.table import Table, columns_of, duration, loss, main_score, number

# Called after each step with spaCy's info or None; called at the end.
LoggerCalls = tuple[Callable[[Info | None], None], Callable[[], None]]
Logger = Callable[[Language, IO[str], IO[str]], LoggerCalls]
_MIN_BAR = 10  # characters
_INTERVAL = 0.1  # seconds between two changes of the live line


@registry.loggers("spacy-bertft.ConsoleLogger.v1")
def create_console_logger(progress_bar: bool = True, output_file: str | None = None) -> Logger:
    """A logger for [training.logger], described in docs/progress.md.

    progress_bar: show a live line between evaluations, if there is a terminal.
    output_file: CSV for all steps; None: training_log.csv in the folder given by --output.
    """

    def set_up(nlp: Language, stdout: IO[str] = sys.stdout, stderr: IO[str] = sys.stderr) -> LoggerCalls:
        console = _Console(nlp, stdout, stderr, progress_bar=progress_bar, output_file=output_file)
        return console.step, console.close

    return set_up


class _Console:
    """Shows one run."""

    def __init__(
        self, nlp: Language, stdout: IO[str], stderr: IO[str], *, progress_bar: bool, output_file: str | None
    ) -> None:
        training = nlp.config.interpolate()["training"]
        self.meter = meter = RunMeter(nlp)
        self.pace = Pace(training)
        self.stdout = stdout
        folder = output_folder()
        path = Path(output_file) if output_file else folder / LOG_FILE if folder else None
        self.log = LogFile(path, [*meter.heads, *meter.others], first=meter.began.steps) if path else None
        import torch

        columns = columns_of(meter.heads, meter.others, training["score_weights"], gpu=torch.cuda.is_available())
        self.table = Table(columns, shutil.get_terminal_size().columns if _is_terminal(stdout) else None)
        self.mixed = any(weight and kind_of(name) is not POINTS for name, weight in training["score_weights"].items())
        self.live = _LiveLine(stderr) if progress_bar and _is_terminal(stderr) else None
        self.best = self.last = None  # type: StepFigures | None
        self._introduce(training["score_weights"])

    def _introduce(self, score_weights: Mapping[str, Any]) -> None:
        """Say what the columns are."""
        heads, others = ", ".join(self.meter.heads), ", ".join(self.meter.others)
        errors = [name for name, weight in score_weights.items() if weight is not None and kind_of(name) is not POINTS]
        if heads:
            self._write(f"Losses of {heads}: mean per target since the last evaluation")
        if others:
            self._write(f"Losses of {others}: mean per step since the last evaluation")
        self._write("Scores: points from 0 to 100; * marks the best so far, whose pipeline is kept")
        if errors:
            self._write(f"Except {', '.join(errors)}: errors in the unit of the data, lower is better")
        if self.log:
            self._write(f"All steps: {self.log.path}")
        else:
            self._write("No CSV of the steps: there is no --output folder, and no output_file in [training.logger]")
        self._write("\n" + self.table.header())

    def step(self, info: Info | None) -> None:
        """Take the figures of a step, keep them, and show them."""
        self.last = figures = self.meter(info)
        done, found = figures.step + 1, figures.evaluation
        self.pace.add(figures.stretch.seconds, figures.pause if found else None)
        if self.log:
            self.log.add(figures)
        if found and info is not None:
            info.update(_for_other_loggers(figures))
            self.best = figures if found.best else self.best
            with self.live.hidden() if self.live else ExitStack():
                self._write(self.table.row(figures))
        if self.live:
            total = self.pace.total(done=done, texts=self.meter.texts, texts_per_epoch=self.meter.texts_per_epoch)
            urgent = self.pace.evaluates_next(done=done)
            self.live.show(figures, self._parts(figures, total), total, urgent=urgent)

    def _parts(self, figures: StepFigures, total: int | None) -> list[str]:
        """What the live line says, the most important first."""
        done, stretch = figures.step + 1, figures.stretch
        left = None if total is None else self.pace.left(done=done, total=total)
        losses = [loss(value) for value in stretch.losses.values()]
        best = self.best.evaluation if self.best else None
        return [
            f"{done:,}/{total:,}" if total else f"step {figures.step:,}",
            f"{duration(left)} left" if left is not None else duration(figures.seconds),
            *(["evaluating"] if self.pace.evaluates_next(done=done) and done != total else []),
            *([f"best {main_score(best, mixed=self.mixed)}"] if best else []),
            *([f"rate {figures.learn_rate:.1e}"] if figures.learn_rate is not None else []),
            *([f"loss {' '.join(losses)}"] if losses else []),
            *([f"gradient {number(stretch.norm, '.2g')}"] if stretch.norm is not None else []),
            *([f"{stretch.subwords_per_second:,.0f} subwords/s"] if stretch.subwords_per_second else []),
            f"{figures.memory:,.0f} MiB",
        ]

    def close(self) -> None:
        """End the live line and the CSV; say which step was the best."""
        if self.live:
            self.live.close()
        if self.log:
            self.log.close()
        best = self.best.evaluation if self.best else None
        if self.best and self.last and best:
            score, took = main_score(best, 4, self.mixed), duration(self.last.seconds)
            self._write(f"Best score: {score} at step {self.best.step:,}; {self.last.step + 1:,} steps in {took}")

    def _write(self, text: str) -> None:
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=self.stdout, flush=True)


def _for_other_loggers(figures: StepFigures) -> dict[str, float]:
    """Figures under names that log_custom_stats = ["^bertft"] of spaCy's other loggers matches."""
    found = figures.evaluation
    assert found is not None
    named = {
        "learn_rate": figures.learn_rate,
        "grad_norm": found.stretch.norm,
        "subwords_per_second": found.stretch.subwords_per_second,
        "memory_mib": figures.memory,
        "gpu_memory_mib": figures.gpu_memory,
        **{f"loss_{name}": value for name, value in found.stretch.losses.items()},
    }
    return {f"bertft.{name}": value for name, value in named.items() if value is not None}


class _LiveLine:
    """A line at the bottom of the terminal that changes with every step."""

    def __init__(self, stream: IO[str]) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]
        from tqdm.contrib.logging import logging_redirect_tqdm  # type: ignore[import-untyped]

        self.stream = stream
        self._make, self._redirect = tqdm, logging_redirect_tqdm
        self._bar: Any = None
        self._shown = 0.0
        self._open = ExitStack()

    def show(self, figures: StepFigures, parts: list[str], total: int | None, *, urgent: bool) -> None:
        """Show the state after a step. parts: as many of them as there is room for. urgent: the next may take long."""
        now = time.monotonic()
        if now - self._shown < _INTERVAL and not urgent:
            return
        self._shown = now
        if self._bar is None:
            self._bar = self._make(file=self.stream, leave=False, dynamic_ncols=True, bar_format="{desc}")
            self._open.enter_context(self._redirect([logging.getLogger("spacy")]))
        bar = self._bar
        bar.total, bar.n = total, figures.step + 1
        room = shutil.get_terminal_size().columns - 1
        percent = f"{100 * bar.n // total:3d}% " if total else ""
        text = _fitting(parts, room - len(percent) - (_MIN_BAR + 3 if total else 0))
        bar.bar_format = f"{percent}|{{bar}}| {{desc}}" if total else "{desc}"
        bar.set_description_str(text, refresh=True)

    def hidden(self) -> Any:
        """Take the line away inside the block."""
        stack = ExitStack()
        if self._bar is not None:
            self._bar.clear()
            stack.callback(self._bar.refresh)
        return stack

    def close(self) -> None:
        """Remove the line."""
        if self._bar is not None:
            self._bar.close()
        self._open.close()


def _fitting(parts: list[str], room: int) -> str:
    """As many parts as fit, at least one."""
    chosen = parts[:1]
    for part in parts[1:]:
        if len(", ".join([*chosen, part])) <= room:
            chosen.append(part)
    return ", ".join(chosen)


def _is_terminal(stream: Any) -> bool:
    return bool(getattr(stream, "isatty", lambda: False)())
