"""`train`: a whole run, from a config to model-best and model-last."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError
from spacy.language import Language
from spacy.schemas import ConfigSchemaTraining
from spacy.training.initialize import init_nlp
from spacy.training.loop import (
    DIR_MODEL_BEST,
    DIR_MODEL_LAST,
    clean_output_dir,
    create_before_to_disk_callback,
    create_evaluation_callback,
    update_meta,
)
from spacy.util import registry, resolve_dot_names
from thinc.api import Config, fix_random_seed, set_gpu_allocator

from spacy_bertft.components.progress.figures import BEGAN, Began
from spacy_bertft.errors import ConfigError
from spacy_bertft.files import staged_folder
from spacy_bertft.jobs.processes import Processes, join_processes
from spacy_bertft.jobs.training.batches import Batcher, Batches
from spacy_bertft.jobs.training.checkpoint import Checkpoints, clear_checkpoints
from spacy_bertft.jobs.training.identity import identity
from spacy_bertft.jobs.training.loop import Loop, Progress, Step
from spacy_bertft.jobs.training.pipeline_state import shims_of, trained_components

CHECKPOINTS = "checkpoints"  # in the output folder
Note = Callable[[str], None]


class Stopped(Exception):  # noqa: N818  # no error
    """The user has stopped the run; a checkpoint has its state."""


def train(
    config: Config,
    output: Path | None = None,
    *,
    use_gpu: int = -1,
    resume: bool = False,
    checkpoint_minutes: float | None = 5.0,
    checkpoint_steps: int | None = None,
    note: Note = lambda line: None,
    stdout: IO[str] | None = None,
    stderr: IO[str] | None = None,
) -> Language:
    """Train a pipeline, as `spacy train` does, and write checkpoints while it runs.

    config              not interpolated
    output              folder for model-best and model-last; None: nothing is written
    resume              continue from the newest checkpoint in `output`, or start if there is none
    checkpoint_minutes  write a checkpoint so long after the last one; None: none by time
    checkpoint_steps    write a checkpoint after so many steps; None: none by steps
    note                gets lines that a user should see
    stdout, stderr      for the logger

    Raises Stopped after the checkpoint if the user stops the run (Ctrl-C, SIGTERM).
    """
    processes = join_processes()
    nlp = init_nlp(config, use_gpu=use_gpu)
    run = _Run(nlp, output, processes, use_gpu=use_gpu, note=note if processes.is_first else lambda line: None)
    if output is not None and (checkpoint_minutes is not None or checkpoint_steps is not None):
        run.checkpoints = Checkpoints(
            output / CHECKPOINTS,
            identity(nlp, run.loop.batches.fingerprint(), processes=processes.count),
            checkpoint_minutes,
            checkpoint_steps,
        )
    if resume and run.checkpoints is None:
        raise ConfigError(
            "resume: found no output folder, or checkpoints switched off; expected the folder of the run to continue; "
            "fix: give its --output"
        )
    progress = run.prepare(resume=resume)
    if progress is not None:
        run.train(progress, stdout or sys.stdout, stderr or sys.stderr)
    return nlp


class _Run:
    """The parts of a run, and what is done around its steps."""

    def __init__(self, nlp: Language, output: Path | None, processes: Processes, *, use_gpu: int, note: Note) -> None:
        self.nlp, self.note, self.processes = nlp, note, processes
        self.output = output if processes.is_first else None  # the others write nothing
        config = nlp.config.interpolate()
        if config["training"]["seed"] is not None:
            fix_random_seed(config["training"]["seed"])
        if use_gpu >= 0 and config["training"]["gpu_allocator"]:
            set_gpu_allocator(config["training"]["gpu_allocator"])
        self.settings: dict[str, Any] = registry.resolve(config["training"], schema=ConfigSchemaTraining)
        train, dev = resolve_dot_names(config, [self.settings["train_corpus"], self.settings["dev_corpus"]])
        self.before_to_disk = create_before_to_disk_callback(self.settings["before_to_disk"])
        self.checkpoints: Checkpoints | None = None
        self.loop = Loop(
            nlp,
            self.settings["optimizer"],
            Batches(nlp, train, partial(_batcher, config), max_epochs=self.settings["max_epochs"]),
            create_evaluation_callback(nlp, dev, self.settings["score_weights"]),
            self.settings,
            processes,
        )
        if processes.count > 1:
            self._begin_together(config["training"]["seed"])

    def _begin_together(self, seed: int | None) -> None:
        """Give all processes the same weights and batches, and each a dropout of its own."""
        if seed is None:
            raise ConfigError(
                "The seed of the run is null, so that each of its processes would draw other weights and batches. "
                "Expected a number: set --system.seed."
            )
        for pipe in trained_components(self.nlp, self.settings["frozen_components"]).values():
            for _, shim in shims_of(pipe.model):
                if shim.optimizer is not None:
                    shim.optimizer.groups  # noqa: B018  # a tuning may add weights now, which are random
        if not self.processes.is_first:
            torch.manual_seed(torch.initial_seed() + self.processes.rank)

    def prepare(self, *, resume: bool) -> Progress | None:
        """Restore a checkpoint, or remove what an earlier run left. None: the run is finished already."""
        if self.checkpoints is not None:
            trained_components(self.nlp, self.settings["frozen_components"])  # raises if one can't be saved
        if resume and self.checkpoints is not None:
            path = self.processes.share(self.checkpoints.newest())
            if path is not None:
                progress, differences = self.checkpoints.load(path, self.loop)
                self.note(f"Resumed after {progress.updates:,} steps, from {path}")
                if differences:
                    self.note(
                        "The rest of the run is not the same in the last bits as it would have been: "
                        + "; ".join(differences)
                    )
                return progress
            finished = self.output is not None and (self.output / DIR_MODEL_LAST).is_dir()
            if self.processes.share(finished and self.checkpoints.is_finished()):
                self.note(f"The run in {self.output} is finished: there is nothing to resume")
                return None
            self.note("There is no checkpoint: the run starts at the beginning")
        if self.output is not None:
            clear_checkpoints(self.output / CHECKPOINTS)
        clean_output_dir(self.output)
        return Progress()

    def train(self, progress: Progress, stdout: IO[str], stderr: IO[str]) -> None:
        """Take all steps, and write the pipelines."""
        BEGAN.set(Began(progress.updates, progress.texts, progress.seconds))
        log_step, finalize = self._logger(stdout, stderr)
        try:
            with _stopping() as stopped:
                for step in self.loop.run(progress):
                    self._after(step)
                    log_step(step.info)
                    if not step.last:
                        self._stop_or_save(progress, stopped())
        finally:
            finalize()
        self._save(DIR_MODEL_LAST)
        if self.checkpoints is not None and self.processes.is_first:
            self.checkpoints.finish()

    def _logger(
        self, stdout: IO[str], stderr: IO[str]
    ) -> tuple[Callable[[dict[str, Any] | None], None], Callable[[], None]]:
        if not self.processes.is_first:
            return (lambda info: None), (lambda: None)
        with self.nlp.select_pipes(disable=self.settings["frozen_components"]):
            log_step, finalize = self.settings["logger"](self.nlp, stdout, stderr)
        return log_step, finalize

    def _stop_or_save(self, progress: Progress, asked: bool) -> None:
        """Write a checkpoint if one is due. asked: whether the user wants to stop."""
        due = self.checkpoints is not None and self.checkpoints.due(progress.updates)
        # The clocks of several processes differ, and a signal may reach some of them before others.
        asked, due = map(bool, self.processes.sum_of([asked, due]))
        if self.checkpoints is not None and (asked or due):
            path = self.checkpoints.write(self.loop, progress)
            if asked:
                self.note(f"Stopped after {progress.updates:,} steps; continue with --resume (from {path})")
        if asked:
            raise Stopped

    def _after(self, step: Step) -> None:
        """Save the best pipeline."""
        if step.info is None:
            return
        if not self.processes.is_first:
            return
        with self.nlp.select_pipes(disable=self.settings["frozen_components"]):
            update_meta(self.settings, self.nlp, step.info)
        if step.best:
            self._save(DIR_MODEL_BEST)
        if self.output is not None:
            step.info["output_path"] = str(self.output / DIR_MODEL_BEST)

    def _save(self, name: str) -> None:
        """Write a pipeline, completely or not at all."""
        if self.output is None:
            return
        unwritable = partial(_unwritable, self.output / name)
        try:
            with (
                staged_folder(self.output / name, unwritable) as folder,
                self.nlp.use_params(self.loop.optimizer.averages),
            ):
                self.before_to_disk(self.nlp).to_disk(folder)
        except (OSError, ConfigError) as error:  # spaCy's, and those of our components, which know nothing of --resume
            cause = error.__cause__ if isinstance(error, ConfigError) else error
            raise unwritable(cause) if isinstance(cause, OSError | SafetensorError) else error from error


def _batcher(config: Config) -> Batcher:
    """A new batcher, at the start of its sizes."""
    batcher: Batcher = registry.resolve({"batcher": config["training"]["batcher"]})["batcher"]
    return batcher


def _unwritable(folder: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"The pipeline {str(folder)!r} can't be written: {error} Expected a folder to write to, with enough space. "
        "Free some, and continue with --resume."
    )


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether the user wants to stop (Ctrl-C, or SIGTERM); asking twice stops at once."""
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():  # only it can handle signals
        yield lambda: False
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
