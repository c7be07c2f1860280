"""`spacy-bertft.TensorBoardLogger.v1`: the figures of every step for TensorBoard."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from spacy.language import Language
from spacy.util import registry

from spacy_bertft.components.progress.console_logger import Logger, LoggerCalls
from spacy_bertft.components.progress.figures import Info, RunMeter, StepFigures
from spacy_bertft.components.progress.log_file import output_folder
from spacy_bertft.errors import ConfigError, how_to_install


@registry.loggers("spacy-bertft.TensorBoardLogger.v1")
def create_tensorboard_logger(log_dir: str | None = None) -> Logger:
    """A logger for [training.logger], best together with another by spacy.ChainLogger.v1; see docs/progress.md.

    log_dir: folder for the run's events; None: tensorboard in the folder given by --output.
    """

    def set_up(nlp: Language, stdout: IO[str] = sys.stdout, stderr: IO[str] = sys.stderr) -> LoggerCalls:
        folder = output_folder()
        if log_dir is None and folder is None:
            raise ConfigError(
                "spacy-bertft.TensorBoardLogger.v1 found neither a log_dir nor an --output folder. Expected one of "
                "them: give --output, or set log_dir in the logger's block."
            )
        writer = _writer(Path(log_dir) if log_dir else folder / "tensorboard")  # type: ignore[operator]
        writer.add_text("config", f"```ini\n{nlp.config.to_str()}\n```")
        meter = RunMeter(nlp)

        def step(info: Info | None) -> None:
            figures = meter(info)
            for name, value in _scalars(figures, info):
                writer.add_scalar(name, value, figures.step)

        return step, writer.close

    return set_up


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "spacy-bertft.TensorBoardLogger.v1 needs the library tensorboard, which was not found. Expected the extra "
            f"to be installed: {how_to_install('tensorboard')}."
        ) from error
    return SummaryWriter(str(folder))


def _scalars(figures: StepFigures, info: Info | None) -> Iterator[tuple[str, float]]:
    """Names, grouped by what stands before the slash, and values."""
    stretch, found = figures.stretch, figures.evaluation
    losses = {**(found.stretch.losses if found else {}), **stretch.losses}
    named = {
        "training/epoch": figures.epoch,
        "training/learn_rate": figures.learn_rate,
        "training/grad_norm": stretch.norm,
        "speed/subwords_per_second": stretch.subwords_per_second,
        "memory/process_mib": figures.memory,
        "memory/gpu_peak_mib": figures.gpu_memory,
        **{f"loss/{name}": value for name, value in losses.items()},
        "score/score": found.score if found else None,
    }
    yield from ((name, value) for name, value in named.items() if value is not None)
    for name, value in ({} if info is None else info["other_scores"]).items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{label}", score) for label, score in _flat(value))
        elif isinstance(value, int | float) and name != "speed":
            yield f"score/{name}", value


def _flat(scores: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in scores.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inside}", score) for inside, score in _flat(value))
        elif isinstance(value, int | float):
            yield name, value
