"""One trial as the search sees it: a process that trains, reports its scores, and may be stopped early."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from spacy_bertft.files import is_gone
from spacy_bertft.jobs.tune.curve import Curve, Evaluation
from spacy_bertft.jobs.tune.worker import Job

CONFIG, LOG = "config.cfg", "log.txt"
_OUTPUT = "output"
_MARK = "running.json"
_BEAT = 10.0  # seconds between signs of life
_SILENT = 120.0  # seconds without one after which a trial counts as dead: clocks of machines differ

State = Literal["done", "pruned", "failed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended."""

    state: State
    best: Evaluation | None
    reason: str = ""  # why it failed
    n_evaluations: int = 0


def run_trial(
    folder: Path, *, code: Path | None, gpu: int, save: bool, report: Callable[[Evaluation, Curve], bool]
) -> Outcome:
    """Train the config in a trial's folder in a process of its own, which never outlives the block.

    save: keep the pipeline in `model_of(folder)`.
    report: gets each evaluation and the curve so far; returns whether to stop.
    """
    job = Job(str(folder / CONFIG), str(folder / _OUTPUT) if save else None, None if code is None else str(code), gpu)
    curve = Curve()
    with (folder / LOG).open("w", encoding="utf-8") as log, _process(job, log) as process, _alive(folder):
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            if "error" in message:
                return Outcome("failed", curve.best, message["error"])
            evaluation = Evaluation(**message)
            if not math.isfinite(evaluation.score):
                return Outcome("failed", curve.best, f"a dev score of {evaluation.score} at step {evaluation.step}")
            if report(evaluation, curve):
                return Outcome("pruned", curve.best)
        code_of_end = process.wait()
    if code_of_end != 0:
        return Outcome("failed", curve.best, _died(code_of_end))
    if curve.best is None:
        return Outcome("failed", None, "the run ended before its first evaluation on the development set")
    return Outcome("done", curve.best, n_evaluations=len(curve.evaluations))


def model_of(folder: Path) -> Path:
    """Where a trial's best pipeline is, if it was saved."""
    return folder / _OUTPUT / "model-best"


def outputs_of(folder: Path) -> Path:
    """The part of a trial's folder that is deleted after it: its pipelines."""
    return folder / _OUTPUT


@contextmanager
def _process(job: Job, log: IO[str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "spacy_bertft.jobs.tune.worker", json.dumps(asdict(job))]
    # A group of its own: Ctrl-C reaches the search alone, which then ends the trial.
    options: dict[str, Any] = (
        {"start_new_session": True} if os.name == "posix" else {"creationflags": 0x200}  # CREATE_NEW_PROCESS_GROUP
    )
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, encoding="utf-8", **options
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _died(code: int) -> str:
    if code >= 0:
        return f"its process ended with code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        return f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"its process was killed by signal {-code}"


# --- signs of life: optuna's journal has none


@contextmanager
def _alive(folder: Path) -> Iterator[None]:
    """Mark a trial as running, for other processes that share the search."""
    mark, over = folder / _MARK, threading.Event()

    def beat() -> None:
        while not over.wait(_BEAT):
            with suppress(OSError):
                os.utime(mark)  # unlike touch, never makes the mark anew after the end

    try:  # from here on: Ctrl-C may come while the thread starts
        mark.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}), encoding="utf-8")
        threading.Thread(target=beat, daemon=True).start()
        yield
    finally:
        over.set()
        mark.unlink(missing_ok=True)


def is_alive(folder: Path, *, started: float) -> bool:
    """Whether the process that runs a trial is there. started: when the trial began, in seconds since 1970."""
    try:
        text = (folder / _MARK).read_text(encoding="utf-8")
        seen = (folder / _MARK).stat().st_mtime
        by = json.loads(text)
    except (OSError, ValueError):  # the mark is not written yet
        return time.time() - started < _SILENT
    if os.name == "posix" and by["host"] == socket.gethostname() and is_gone(int(by["pid"])):
        return False
    return time.time() - seen < _SILENT
