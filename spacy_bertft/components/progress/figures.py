"""The figures of each step of a run, taken from the components and from what spaCy's training loop passes on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from spacy.language import Language
from thinc.api import Model

from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.components.head_pipe import HeadPipe
from spacy_bertft.learning.shim import TorchShim

_MIB = 2**20
Info = dict[str, Any]  # what spaCy's loop passes on after an evaluation; None after other steps


@dataclass(frozen=True, slots=True)
class Began:
    """How far a run had come when this process took it up; nothing unless it was resumed."""

    steps: int = 0
    texts: int = 0
    seconds: float = 0.0


BEGAN: ContextVar[Began] = ContextVar("BEGAN", default=Began())  # noqa: B039  # it can't be changed


@dataclass(frozen=True, slots=True)
class Stretch:
    """One step, or all steps since the last evaluation."""

    losses: Mapping[str, float]  # by component: means, see `RunMeter`
    subwords: int
    seconds: float  # without evaluating and saving
    norm: float | None  # of the gradients, before clipping; of several steps, the mean

    @property
    def subwords_per_second(self) -> float | None:
        """None if no component of this package was trained."""
        return self.subwords / self.seconds if self.subwords and self.seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of an evaluation, as in spaCy's scores: most are from 0 to 1."""

    score: float  # the weighted sum by [training.score_weights]
    scores: Mapping[str, float]  # those that are numbers
    best: bool  # whether the pipeline was saved as model-best
    stretch: Stretch  # since the last evaluation


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What one step was like."""

    step: int
    epoch: int
    seconds: float  # since training started
    pause: float  # seconds that evaluating and saving took after the step
    learn_rate: float | None  # None if no component of this package was trained
    stretch: Stretch
    memory: float  # MiB of this process
    gpu_memory: float | None  # MiB: the most that PyTorch had allocated so far; None without a CUDA GPU
    evaluation: Evaluation | None


@dataclass(slots=True)
class _Sums:
    """Sums over all steps so far."""

    losses: dict[str, tuple[float, int]]  # by component: the sum over texts, and their number
    subwords: int = 0
    texts: int = 0
    steps: int = 0
    seconds: float = 0.0
    norms: float = 0.0
    normed: int = 0  # steps with a norm


class RunMeter:
    """Takes the figures of every step. Make one when training starts, and call it once a step, as spaCy does a logger.

    heads: the trained heads of this package. Their losses are means over targets (tokens, texts, …), whatever the
        number of parts that accumulate_gradient makes of a batch.
    others: the other trained components. All that is known of their losses is spaCy's sum since the last evaluation;
        it is divided by the number of steps.
    """

    def __init__(self, nlp: Language) -> None:
        # A logger is made while frozen components are disabled, so the pipeline has the trained ones alone.
        trained = {name: pipe for name, pipe in nlp.pipeline if getattr(pipe, "is_trainable", False)}
        self._shims = {name: list(_shims_of(getattr(pipe, "model", None))) for name, pipe in trained.items()}
        self.heads = tuple(name for name, pipe in trained.items() if isinstance(pipe, HeadPipe))
        others = (name for name, pipe in trained.items() if not isinstance(pipe, HeadPipe | EncoderPipe))
        self.others = tuple(others)
        self.is_stream = nlp.config["training"].get("max_epochs") == -1
        self.began = began = BEGAN.get()
        self._step, self._epoch = began.steps - 1, 0
        self._steps_of = {shim.id: shim.tally.steps for shim in self._all()}
        self._now = time.perf_counter()
        self._start = self._now - began.seconds
        self._first = self._last = self._evaluated = self._sums()

    @property
    def texts(self) -> int:
        """The number of texts of all steps; 0 if no component of this package is trained."""
        return self.began.texts + self._last.texts - self._first.texts

    @property
    def texts_per_epoch(self) -> int | None:
        """The number of training texts, if a head of this package was initialised with all of them."""
        if self.is_stream:
            return None
        return next((shim.examples_per_epoch for shim in self._all() if shim.examples_per_epoch), None)

    def __call__(self, info: Info | None) -> StepFigures:
        """The figures of the step that has just been taken. info: if it was evaluated."""
        now = time.perf_counter()
        stepped = [shim.tally for shim in self._all() if shim.tally.steps > self._steps_of[shim.id]]
        ended = max((tally.stepped_at for tally in stepped), default=now)
        before, sums = self._last, self._sums()
        norm = math.sqrt(sum(tally.norm**2 for tally in stepped))
        sums.steps, sums.normed = before.steps + 1, before.normed + bool(stepped)
        sums.seconds, sums.norms = before.seconds + max(0.0, ended - self._now), before.norms + norm
        self._last, self._steps_of = sums, {shim.id: shim.tally.steps for shim in self._all()}
        self._step = self._step + 1 if info is None else info["step"]
        self._epoch = self._epoch_now() if info is None else info["epoch"]
        figures = StepFigures(
            step=self._step,
            epoch=self._epoch,
            seconds=now - self._start,
            pause=max(0.0, now - ended),
            learn_rate=stepped[0].learn_rate if stepped else None,
            stretch=_between(before, sums),
            memory=_memory(),
            gpu_memory=_gpu_memory(),
            evaluation=None if info is None else self._evaluation(info, sums),
        )
        self._now = time.perf_counter()
        return figures

    def _evaluation(self, info: Info, sums: _Sums) -> Evaluation:
        summed = {name: info["losses"][name] for name in self.others if name in info["losses"]}
        stretch, self._evaluated = _between(self._evaluated, sums, summed), sums
        scores = {name: float(value) for name, value in info["other_scores"].items() if isinstance(value, int | float)}
        scores.pop("speed", None)
        best = info.get("is_best", info["score"] == max(score for score, _ in info["checkpoints"]))
        return Evaluation(float(info["score"]), scores, best, stretch)

    def _epoch_now(self) -> int:
        """The epoch of the last text; where the number of training texts is not known, that of the last evaluation."""
        every = self.texts_per_epoch
        return max(self._epoch, (self.texts - 1) // every) if every and self.texts else self._epoch

    def _all(self) -> Iterator[TorchShim]:
        return (shim for shims in self._shims.values() for shim in shims)

    def _sums(self) -> _Sums:
        tallies = {name: shim.tally for name in self.heads for shim in self._shims[name]}
        losses = {name: (tally.loss, tally.texts) for name, tally in tallies.items()}
        # All see the same texts, but a frozen encoder and the components of spaCy don't count them.
        subwords = max((shim.tally.subwords for shim in self._all()), default=0)
        texts = max((shim.tally.texts for shim in self._all()), default=0)
        return _Sums(losses, subwords, texts)


def _between(before: _Sums, after: _Sums, summed: Mapping[str, float] = MappingProxyType({})) -> Stretch:
    """What happened between two states. summed: losses that are sums over the steps."""
    steps, normed = after.steps - before.steps, after.normed - before.normed
    losses = {name: float(value) / steps for name, value in summed.items()}
    for name, (total, texts) in after.losses.items():
        total_before, texts_before = before.losses[name]
        if texts > texts_before:
            losses[name] = (total - total_before) / (texts - texts_before)
    norm = (after.norms - before.norms) / normed if normed else None
    return Stretch(losses, after.subwords - before.subwords, after.seconds - before.seconds, norm)


def _memory() -> float:
    import psutil

    rss: int = psutil.Process().memory_info().rss
    return rss / _MIB


def _gpu_memory() -> float | None:
    import torch

    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.cuda.max_memory_allocated() / _MIB if started else None


def _shims_of(model: Any) -> Iterator[TorchShim]:
    """The shims of this package in a component's model: its own, or that of an encoder inside."""
    if isinstance(model, Model):
        yield from (shim for node in model.walk() for shim in node.shims if isinstance(shim, TorchShim))
