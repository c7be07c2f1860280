"""The process of one trial: `spacy train`, with each evaluation reported to the search.

It reads a job as its only argument, writes a line of JSON per evaluation to standard output, and logs to standard
error. It ends when its standard input does: the search that started it was stopped or killed.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from spacy.cli._util import setup_gpu
from spacy.language import Language
from spacy.training import Example
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import import_file, load_config, registry, resolve_dot_names

from spacy_bertft.jobs.tune.configs import one_line
from spacy_bertft.jobs.tune.curve import Evaluation

_LOGGER = "spacy-bertft.tune_reports.v1"  # registered in this process alone

_Report = Callable[[dict[str, Any] | None], None]
_Logger = Callable[[Language, IO[str], IO[str]], tuple[_Report, Callable[[], None]]]
_Send = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What a trial trains."""

    config: str  # path
    output: str | None  # folder for model-best and model-last; None: they are not saved
    code: str | None  # file that registers functions
    gpu: int  # as in spaCy's --gpu-id


def run(job: Job, send: _Send) -> None:
    """Train as `spacy train` does, and send each evaluation."""
    if job.code is not None:
        import_file("python_code", Path(job.code))
    setup_gpu(job.gpu, silent=True)
    config = load_config(job.config, interpolate=False)
    own = config["training"].get("logger")
    registry.loggers(_LOGGER, func=lambda logger: _reporting(logger, own, send))
    config["training"]["logger"] = {"@loggers": _LOGGER, "logger": own}
    nlp = init_nlp(config, use_gpu=job.gpu)
    output = None if job.output is None else Path(job.output)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    train(nlp, output, use_gpu=job.gpu)


def _reporting(logger: _Logger, own: dict[str, Any], send: _Send) -> _Logger:
    """The config's own logger, with a report of each evaluation. own: its block of the config."""

    def setup(nlp: Language, stdout: IO[str], stderr: IO[str]) -> tuple[_Report, Callable[[], None]]:
        nlp.config["training"]["logger"] = own  # before the config is saved with the model, or shown by the logger
        log_step, finish = logger(nlp, stdout, stderr)
        length = _run_length(nlp)

        def report(info: dict[str, Any] | None) -> None:
            log_step(info)
            if info is not None:
                position = None if length is None else min(1.0, (info["step"] + 1) / length)
                send(asdict(Evaluation(info["step"], info["epoch"], float(info["score"]), position)))

        return report, finish

    return setup


def _run_length(nlp: Language) -> int | None:
    """The number of steps of the run; None if only `patience` ends it."""
    config = nlp.config.interpolate()
    training = config["training"]
    steps, epochs = training["max_steps"] or 0, training["max_epochs"] or 0
    limits = [steps] if steps > 0 else []
    if epochs > 0:
        rate = training["optimizer"]["learn_rate"]
        counted = rate.get("steps_per_epoch") if isinstance(rate, dict) else None
        limits.append(epochs * (counted or _steps_per_epoch(nlp, config)))
    return min(limits, default=None)


def _steps_per_epoch(nlp: Language, config: dict[str, Any]) -> int:
    """Count the batches of an epoch, and leave the random numbers of the training as they were."""
    states = random.getstate(), np.random.get_state()
    (corpus,) = resolve_dot_names(config, [config["training"]["train_corpus"]])  # type: ignore[arg-type]
    batcher = registry.resolve({"batcher": config["training"]["batcher"]})["batcher"]
    examples: Iterable[Example] = corpus(nlp)
    count = sum(1 for _ in batcher(list(examples)))
    random.setstate(states[0])
    np.random.set_state(states[1])
    return count


def _main() -> None:
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what anything else prints goes to the log
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")

    try:
        run(Job(**json.loads(sys.argv[1])), send)
    except BaseException as error:  # whatever a combination of settings leads to
        traceback.print_exc()
        send({"error": f"{type(error).__name__}: {one_line(error)}"})
        sys.exit(1)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    _main()
