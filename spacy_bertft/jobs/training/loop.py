"""The training loop: updates, evaluations, early stopping. It knows neither files nor the terminal.

It takes the same steps as spaCy's, with three differences: the last update is always evaluated, of equal scores the
earlier one is the best, and patience is looked at when a score is there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import torch
from spacy.language import Language
from spacy.training import Example
from spacy.training.loop import subdivide_batch
from thinc.api import Optimizer

from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.errors import ConfigError, DataError, diverged
from spacy_bertft.jobs.processes import Processes
from spacy_bertft.jobs.training.batches import Batches
from spacy_bertft.jobs.training.gradients import add_up_gradients
from spacy_bertft.learning.shim import shim_of

Evaluate = Callable[[], tuple[float, dict[str, Any]]]
_ALONE = Processes(1, 0)
_SHOWN_TEXTS, _SHOWN_CHARACTERS = 3, 60
_SPACYS_NAN = ("[E910]", "[E940]")  # errors of its components: a loss, or scores, are NaN


@dataclass
class Progress:
    """How far a run has come."""

    updates: int = 0
    words: int = 0  # seen in training
    texts: int = 0  # the same
    seconds: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)  # sums since the last evaluation, by component
    results: list[tuple[float, int]] = field(default_factory=list)  # score and step of each evaluation

    @property
    def best_step(self) -> int:
        """The step of the best score; of equal ones, the earliest."""
        return min(self.results, key=lambda result: (-result[0], result[1]))[1]


@dataclass(frozen=True, slots=True)
class Step:
    """What is known after an update. info: what spaCy's loggers get; None between evaluations."""

    number: int  # from 0, as spaCy counts
    info: dict[str, Any] | None
    best: bool  # whether its score is the best so far
    last: bool  # whether the run ends with it


@dataclass(frozen=True)
class Loop:
    """What a run does, from [training]."""

    nlp: Language
    optimizer: Optimizer
    batches: Batches
    evaluate: Evaluate
    settings: Mapping[str, Any]  # [training], resolved
    processes: Processes = _ALONE  # which share each batch

    def run(self, progress: Progress) -> Iterator[Step]:
        """Take one step after another, and keep account in `progress`."""
        settings, started = self.settings, time.perf_counter() - progress.seconds
        fixed = isinstance(settings["dropout"], float)
        dropouts: Iterator[float] = repeat(settings["dropout"]) if fixed else iter(settings["dropout"])
        for _ in range(progress.updates):  # of a run that is resumed
            next(dropouts)
            self.optimizer.step_schedules()  # type: ignore[no-untyped-call]
        for epoch, batch in self.batches:
            number = progress.updates
            if settings["before_update"]:
                settings["before_update"](self.nlp, {"step": number, "epoch": epoch})
            self._update(batch, next(dropouts), progress.losses)
            progress.updates += 1
            progress.words += sum(map(len, batch))
            progress.texts += len(batch)
            last = self.batches.last or bool(settings["max_steps"] and number >= settings["max_steps"])
            info, best = None, False
            if last or number % settings["eval_frequency"] == 0:
                score, scores = self._evaluate()
                progress.results.append((score, number))
                best = progress.best_step == number
                last = last or bool(settings["patience"] and number - progress.best_step >= settings["patience"])
                info = {
                    "epoch": epoch,
                    "step": number,
                    "score": score,
                    "other_scores": scores,
                    "losses": progress.losses,
                    "checkpoints": progress.results,
                    "is_best": best,
                    "seconds": int(time.perf_counter() - started),
                    "words": progress.words,
                }
            progress.seconds = time.perf_counter() - started
            if info is not None:
                progress.losses = {}
            yield Step(number, info, best, last)
            if last:
                return

    def encode_again(self, progress: Progress) -> None:
        """Fill the caches of frozen encoders as in the first epoch of a run that is resumed: in the same order.

        In other batches, the same texts would get slightly different features. The batches must be at the start.
        """
        frozen = self.settings["frozen_components"]
        encoders = [
            pipe
            for name, pipe in self.nlp.pipeline
            if isinstance(pipe, EncoderPipe) and (name in frozen or not shim_of(pipe.model).tuning.learns)
        ]
        if not encoders:
            return
        for number, (epoch, batch) in enumerate(self.batches):
            if epoch > 0 or number == progress.updates:
                return
            for part in self._parts(batch):
                for pipe in encoders:
                    pipe.keep_outputs()
                    pipe.predict([eg.predicted for eg in part])
            if number == 0:
                self._evaluate()

    def _parts(self, batch: list[Example]) -> Iterable[list[Example]]:
        """The parts of this process's share of a batch."""
        own = batch[self.processes.rank :: self.processes.count]
        parts: Iterable[list[Example]] = subdivide_batch(own, self.settings["accumulate_gradient"])  # type: ignore[no-untyped-call]
        return parts

    def _update(self, batch: list[Example], dropout: float, losses: dict[str, float]) -> None:
        settings, frozen = self.settings, self.settings["frozen_components"]
        found: dict[str, float] = {}
        with _telling(batch):
            for part in self._parts(batch):
                self.nlp.update(
                    part,
                    drop=dropout,
                    sgd=False,  # type: ignore[arg-type]  # the step follows
                    losses=found,
                    exclude=frozen,
                    annotates=settings["annotating_components"],
                )
            if self.processes.count > 1:
                add_up_gradients(self.nlp, frozen, self.processes)
            self._add_losses(found, losses, len(batch))
            for name, pipe in self.nlp.pipeline:
                has_model = getattr(pipe, "model", None) not in (True, False, None)
                if name not in frozen and getattr(pipe, "is_trainable", False) and has_model:
                    pipe.finish_update(self.optimizer)  # type: ignore[attr-defined]
        self.optimizer.step_schedules()  # type: ignore[no-untyped-call]

    def _add_losses(self, found: dict[str, float], losses: dict[str, float], n_texts: int) -> None:
        """Add the losses of a batch: of several processes, their mean over texts."""
        names = [name for name, _ in self.nlp.pipeline]
        own = len(range(self.processes.rank, n_texts, self.processes.count)) / n_texts
        shares = [own * float(found.get(name, 0.0)) for name in names]
        for name, value in zip(names, self.processes.sum_of(shares), strict=True):
            if not math.isfinite(value):
                raise diverged(f"The loss of {name!r} is {value}")
            if name in found or value:
                losses[name] = losses.get(name, 0.0) + value

    def _evaluate(self) -> tuple[float, dict[str, Any]]:
        """Score the development texts, in the first process."""
        if not self.processes.is_first:
            return self.processes.share((0.0, {}))
        with self.nlp.use_params(self.optimizer.averages) if self.optimizer.averages else nullcontext():
            return self.processes.share(self.evaluate())


@contextmanager
def _telling(batch: list[Example]) -> Iterator[None]:
    """Name the texts of the batch in an error of the data, and the settings to change if a GPU is too small."""
    try:
        yield
    except ValueError as error:  # a DataError is one too
        if not (isinstance(error, DataError) or str(error).startswith(_SPACYS_NAN)):
            raise
        found = error if isinstance(error, DataError) else diverged(str(error).rstrip("."))
        texts = [repr(eg.reference.text[:_SHOWN_CHARACTERS]) for eg in batch[:_SHOWN_TEXTS]]
        more = f" and {len(batch) - _SHOWN_TEXTS} more texts" if len(batch) > _SHOWN_TEXTS else ""
        raise DataError(f"{found} It happened in the batch of {', '.join(texts)}{more}.") from error
    except torch.cuda.OutOfMemoryError as error:
        longest = max(len(eg.reference) for eg in batch)
        raise ConfigError(
            f"The GPU ran out of memory in a batch of {len(batch)} texts, the longest of {longest} tokens. Expected "
            "room for it. Start a new run with a higher accumulate_gradient in [training], which leaves the result as "
            "it is; or with gradient_checkpointing = true in [components.encoder.model], or smaller batches or windows."
        ) from error
