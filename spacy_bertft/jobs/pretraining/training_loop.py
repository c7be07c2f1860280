"""The training loop of a masked language model."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spacy_bertft.encoder.masked_lm import Batch
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.checkpoints import delete_checkpoints, find_checkpoints
from spacy_bertft.jobs.pretraining.cache import Cache, find_or_build
from spacy_bertft.jobs.pretraining.config import Settings, TrainingSettings
from spacy_bertft.jobs.pretraining.corpus_windows import BatchMaker, split_windows
from spacy_bertft.jobs.pretraining.curve import Evaluation, curve_row, evaluate, evaluation_in, write_curve
from spacy_bertft.jobs.pretraining.resume import NO_LOSSES, RunState, load_checkpoint, save_checkpoint
from spacy_bertft.jobs.pretraining.sampling import Stretches, batches
from spacy_bertft.jobs.pretraining.starting_model import load_teacher, starting_model
from spacy_bertft.jobs.pretraining.teacher import Teacher
from spacy_bertft.jobs.processes import join_processes
from spacy_bertft.learning.optimizer import ModuleOptimizer
from spacy_bertft.learning.step_settings import StepSettings
from spacy_bertft.types import Ints


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run."""

    before: Evaluation
    after: Evaluation
    state: RunState  # steps, subwords, seconds, and the curve
    folder: Path


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a run reports after each step."""

    step: int
    steps: int
    subwords: int  # in this step
    loss: float


class _Clock:
    """Seconds from one lap to the next."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def lap(self) -> float:
        """The seconds since the last lap, or since the clock was made."""
        before, self._started = self._started, time.perf_counter()
        return self._started - before


class Run:
    """One run: corpus, model, and the loop."""

    def __init__(self, settings: Settings, output: Path, *, note: Callable[[str], None] = lambda line: None) -> None:
        self.settings = settings
        self.output = output
        self.training = settings.training
        self.processes = join_processes()
        torch.manual_seed(self.training.seed)
        teacher = load_teacher(settings)
        self.model = starting_model(settings, note, teacher)
        self.teacher = None if teacher is None else Teacher(teacher, self.model, settings.teacher)
        note(f"reading {', '.join(map(str, settings.corpus.paths))}")
        self.cache = self._cache()
        self.train, self.held_out = split_windows(self.cache, self.model.encoder, settings)
        self.batch_maker = BatchMaker(
            self.cache, self.model.encoder, settings.objective, batch_subwords=self.training.batch_subwords
        )
        self.optimizer = ModuleOptimizer(self.model)

    def _cache(self) -> Cache:
        corpus = self.settings.corpus
        folder = corpus.cache or self.output / "cache"
        with self.processes.first_alone():  # the others find the cache that it built
            return find_or_build(corpus.files(), self.model.encoder.tokenizer, folder, text_key=corpus.text_key)

    def _batches(self, stretches: Stretches, chosen: Ints, generator: np.random.Generator) -> list[Batch]:
        return self.batch_maker.make(stretches, chosen, generator)

    def evaluate(self) -> Evaluation:
        """Evaluate the model on held-out windows."""
        return evaluate(
            self.model,
            len(self.held_out),
            lambda chosen, generator: self._batches(self.held_out, chosen, generator),
        )

    def train_on(self, *, resume: bool, progress: Callable[[StepReport], None] = lambda done: None) -> Result:
        """Train to the end, from the newest checkpoint if `resume`."""
        training = self.training
        state = self._resume() if resume else RunState(self._identity())
        if not state.curve:
            if self.teacher is not None and self.settings.encoder.name is None:
                self.teacher.teach_embeddings(training.seed)
            state.curve.append(curve_row(state, 0.0, self.evaluate()))
        made = self._made(state.step)
        clock = _Clock()
        while state.step < training.steps:
            n_subwords, losses, rate = self._step(state.step + 1, next(made))
            state.step, state.subwords = state.step + 1, state.subwords + n_subwords
            state.add(losses)
            progress(StepReport(state.step, training.steps, n_subwords, sum(losses)))
            last = state.step == training.steps
            if last or state.step % training.evaluate_every == 0:
                self._add_to_curve(state, rate, clock)
            if self.processes.is_first and not last and state.step % training.save_every == 0:
                state.seconds += clock.lap()
                save_checkpoint(self.output, state, self.model, self.optimizer)
        if self.processes.is_first:
            self.model.save(self.output)
            delete_checkpoints(self.output)
        return Result(evaluation_in(state.curve[0]), evaluation_in(state.curve[-1]), state, self.output)

    def _add_to_curve(self, state: RunState, rate: float, clock: _Clock) -> None:
        evaluation = self.evaluate()
        state.seconds += clock.lap()
        state.curve.append(curve_row(state, rate, evaluation))
        state.losses = NO_LOSSES
        if self.processes.is_first:
            write_curve(self.output, state.curve)

    def _made(self, done: int) -> Iterator[list[Batch]]:
        """The batch of each step after the first `done`, in parts. A GPU computes while the next one is made."""
        training = self.training
        order = batches(len(self.train), training.batch_size, seed=training.seed, skip=done)

        def make(step: int) -> list[Batch]:
            return self._batches(self.train, next(order), np.random.default_rng([training.seed, step]))

        if self.model.encoder.device.type == "cpu":
            yield from map(make, count(done + 1))
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(make, done + 1)
            for step in count(done + 2):
                parts, ahead = ahead.result(), pool.submit(make, step)
                yield parts

    def _step(self, step: int, parts: Sequence[Batch]) -> tuple[int, list[float], float]:
        """Train on one batch. Returns the number of subwords, the losses (masked, next sentence, teacher), the rate."""
        self.model.train()
        # Every process corrupts the whole batch alike and trains on its part, so their number changes nothing.
        n_targets = max(1, sum(len(part.targets) for part in parts))
        n_subwords = sum(len(part.packed.ids) for part in parts)
        n_windows = sum(len(part.packed.lengths) for part in parts)
        sums = torch.zeros(3, dtype=torch.float64)
        for part in parts[self.processes.rank :: self.processes.count]:
            layers = self._layers(part)
            losses = self.model.losses(part, layers[-1])
            taught = losses.masked.new_zeros(()) if self.teacher is None else self.teacher.loss(part, layers)
            every = torch.stack([losses.masked / n_targets, losses.next_sentence / n_windows, taught / n_subwords])
            every.sum().backward()  # type: ignore[no-untyped-call]
            sums += every.detach().cpu()  # sync
        self.optimizer.collect()
        self.processes.add_up_gradients(list(self.model.parameters()))
        found = self.processes.sum_of(sums.tolist())
        if not math.isfinite(sum(found)):
            raise DataError(
                f"The loss at step {step} is {sum(found)}: training has diverged. Expected a finite number. "
                "Lower learn_rate, or raise warmup_steps."
            )
        rate = learn_rate(step, self.training)
        training = self.training
        betas = (training.beta1, training.beta2)
        self.optimizer.step(StepSettings(rate, training.weight_decay, betas, training.eps, training.grad_clip))
        return n_subwords, found, rate

    def _layers(self, batch: Batch) -> list[Tensor]:
        """What the lowest layer reads and the rows of all layers, (N, D) each; without a teacher, the highest alone."""
        engine = self.model.encoder.engine()
        return [engine(batch.packed)] if self.teacher is None else engine.layer_rows(batch.packed)

    def _identity(self) -> dict[str, Any]:
        """The settings and the tokenizer that must match to resume from a checkpoint; duration and speed may change."""
        settings = json.loads(self.settings.model_dump_json())
        for name in ("steps", "evaluate_every", "save_every", "device", "batch_subwords", "gradient_checkpointing"):
            settings["training"].pop(name)
        settings["corpus"].pop("cache")
        # A folder with another encoder or teacher may have the same name.
        return {**settings, "tokenizer": self.cache.tokenizer_hash}

    def _resume(self) -> RunState:
        found = find_checkpoints(self.output)
        if not found:
            return RunState(self._identity())
        state = load_checkpoint(found[max(found)], self.model, self.optimizer)
        if state.settings != self._identity():
            changed = _differences(state.settings, self._identity())
            raise ConfigError(
                f"The checkpoint {found[max(found)]} is from a run with other settings ({', '.join(changed)}). "
                "Expected the same. Restore them, or start again with --overwrite."
            )
        return state


def learn_rate(step: int, training: TrainingSettings) -> float:
    """Linear warm-up from 0 to the highest rate, then linear decay to 0 just after the last step. step: from 1."""
    if step <= training.warmup_steps:
        return training.learn_rate * step / training.warmup_steps
    left = training.steps + 1 - step
    return training.learn_rate * left / max(1, training.steps + 1 - training.warmup_steps)


def _differences(old: Any, new: Any, inside: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line for key in sorted({*old, *new}) for line in _differences(old.get(key), new.get(key), f"{inside}.{key}")
        ]
    return [] if old == new else [f"{inside.lstrip('.')}: {old!r}, now {new!r}"]
