"""`adapt`: the training loop of a masked language model."""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spacy_bertft import compat
from spacy_bertft.encoder.checkpoint import CONFIG
from spacy_bertft.encoder.masked_lm import Batch, MaskedModel, load_masked
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.files import replace_file
from spacy_bertft.jobs.pretraining import resume as checkpoints
from spacy_bertft.jobs.pretraining.cache import Cache, find_or_build
from spacy_bertft.jobs.pretraining.config import Settings, TrainingSettings
from spacy_bertft.jobs.pretraining.masking import Corrupted, Corruption, corrupt, vocabulary_of
from spacy_bertft.jobs.pretraining.sampling import (
    Stretches,
    batches,
    neighbour_windows,
    pair_stretch,
    plain_windows,
    stretch,
)
from spacy_bertft.jobs.pretraining.scratch import learn_vocabulary, new_model, tokenizer_files
from spacy_bertft.jobs.pretraining.texts import read_documents
from spacy_bertft.learning.optimizer import ModuleOptimizer, StepSettings
from spacy_bertft.text.batches import bucket, pack, window_lengths
from spacy_bertft.types import Ints, Packed

CURVE = "curve.csv"
EVALUATION_SEED = 2**31 - 1
EVALUATED = 2048  # windows, at most
# Subwords in one forward, at least: each adds a gradient as large as the embeddings, so that on a CPU more pay than do
# for prediction.
BUDGET = 2048


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well held-out windows are guessed."""

    held_out_loss: float  # cross-entropy of a chosen subword, in nats; with next sentences, theirs added
    perplexity: float  # of the chosen subwords
    accuracy: float  # share of the chosen subwords that are guessed


@dataclass(frozen=True, slots=True)
class Result:
    """What a run did."""

    before: Evaluation
    after: Evaluation
    state: checkpoints.State  # steps, subwords, seconds, and the curve
    folder: Path


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run tells its caller after each step."""

    step: int
    steps: int
    subwords: int  # in this step
    loss: float


class Run:
    """One run: corpus, model, and the loop."""

    def __init__(self, settings: Settings, output: Path, *, note: Callable[[str], None] = lambda line: None) -> None:
        self.settings = settings
        self.output = output
        self.training = settings.training
        self.world, self.rank = _processes()
        precision = self.training.precision
        if precision == "auto":
            precision = "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
        how = EncoderSettings(
            device=self.training.device,
            precision=precision,
            window=self.training.window,
            overlap=0,
            batch_subwords=self.training.batch_subwords,
        )
        torch.manual_seed(self.training.seed)
        self.model = _model(settings, how, note)
        note(f"reading {', '.join(map(str, settings.corpus.paths))}")
        self.cache = self._cache()
        self.train, self.held_out = self._split()
        self.vocabulary = vocabulary_of(self.model.encoder)
        self.counts: Ints = np.asarray(self.cache.counts)
        objective = settings.objective
        self.corruption = Corruption(
            objective.rate, objective.masked, objective.random, objective.whole_words, objective.draw
        )
        if self.training.gradient_checkpointing:
            compat.checkpoint_activations(self.model.encoder.model)
        self.optimizer = ModuleOptimizer(self.model)

    @property
    def pairs(self) -> bool:
        """Whether windows are of two segments."""
        return self.settings.objective.next_sentence

    # --- the corpus

    def _cache(self) -> Cache:
        corpus = self.settings.corpus
        folder = corpus.cache or self.output / "cache"
        if self.world > 1 and self.rank > 0:
            torch.distributed.barrier()  # the first process builds it
        cache = find_or_build(corpus.files(), self.model.encoder.tokenizer, folder, text_key=corpus.text_key)
        if self.world > 1 and self.rank == 0:
            torch.distributed.barrier()
        return cache

    def _split(self) -> tuple[Stretches, Stretches]:
        """Windows to learn on, and windows to measure on, drawn from all of them."""
        encoder = self.model.encoder
        size = encoder.pair_size if self.pairs else encoder.window - encoder.n_special
        cut = pair_stretch if self.pairs else stretch
        every = cut(np.asarray(self.cache.text_ends), np.asarray(self.cache.document_ends), size=size)
        n_held_out = min(EVALUATED, max(1, round(self.settings.corpus.held_out * len(every))))
        if len(every) < 2 * n_held_out:
            raise DataError(
                f"The corpus gives {len(every)} windows of up to {self.training.window} subwords. Expected enough to "
                "learn on some and measure on others. Add texts."
            )
        generator = np.random.default_rng([self.training.seed, EVALUATION_SEED])
        held_out = np.sort(generator.choice(len(every), n_held_out, replace=False))
        train = np.delete(np.arange(len(every)), held_out)
        return _take(every, train), _take(every, held_out)

    def _batches(self, stretches: Stretches, chosen: Ints, generator: np.random.Generator) -> list[Batch]:
        """One step's windows, corrupted, in parts of like length under the budget."""
        is_next: Ints | None = None
        if self.pairs:
            encoder = self.model.encoder
            windows, is_next = neighbour_windows(
                stretches, chosen, np.asarray(self.cache.text_ends), size=encoder.pair_size, generator=generator
            )
        else:
            windows = plain_windows(stretches, chosen)
        # Corrupted as a whole, so that it does not matter in which parts it is computed.
        specials = self.model.encoder.specials
        engine = self.model.encoder.engine()
        budget = self.training.batch_subwords or max(engine.budget, BUDGET)
        groups = bucket(window_lengths(windows, specials), budget=budget, padded=engine.padded)
        packed = pack(self.cache.ids, windows, np.concatenate(groups), specials)
        corrupted = corrupt(packed.ids, self.corruption, self.vocabulary, self.counts, generator)
        packed = replace(packed, ids=corrupted.ids)
        return _parts(packed, corrupted, groups, is_next)

    # --- the loop

    def evaluate(self) -> Evaluation:
        """Held-out windows, corrupted in the same way each time."""
        self.model.eval()
        masked = following = 0.0
        n_targets = right = 0
        parts = np.array_split(np.arange(len(self.held_out)), -(-len(self.held_out) // 64))
        with torch.no_grad():
            for number, chosen in enumerate(parts):
                generator = np.random.default_rng([EVALUATION_SEED, number])
                for batch in self._batches(self.held_out, chosen, generator):
                    losses = self.model(batch)
                    masked += float(losses.masked)
                    following += float(losses.next_sentence)
                    n_targets += len(batch.targets)
                    right += losses.right
        mean = masked / max(1, n_targets)
        loss = mean + following / len(self.held_out)
        return Evaluation(loss, math.exp(min(mean, 700.0)), right / max(1, n_targets))

    def train_on(self, *, resume: bool, progress: Callable[[Progress], None] = lambda done: None) -> Result:
        """Train to the end, from the newest checkpoint if `resume`."""
        training = self.training
        state = self._resume() if resume else checkpoints.State(self._identity())
        if not state.curve:
            state.curve.append(_row(state, 0.0, self.evaluate()))
        order = batches(len(self.train), training.batch_size, seed=training.seed, skip=state.step)
        clock = time.perf_counter()
        while state.step < training.steps:
            step = state.step + 1
            n_subwords, loss, next_loss, rate = self._step(step, next(order))
            sums = state.losses
            state.step, state.subwords = step, state.subwords + n_subwords
            state.losses = (sums[0] + loss, sums[1] + next_loss, sums[2] + 1)
            progress(Progress(step, training.steps, n_subwords, loss))
            last = step == training.steps
            if last or step % training.evaluate_every == 0:
                evaluation = self.evaluate()
                state.seconds, clock = state.seconds + time.perf_counter() - clock, time.perf_counter()
                state.curve.append(_row(state, rate, evaluation))
                state.losses = (0.0, 0.0, 0)
                if self.rank == 0:
                    _write_curve(self.output / CURVE, state.curve)
            if self.rank == 0 and not last and step % training.save_every == 0:
                state.seconds, clock = state.seconds + time.perf_counter() - clock, time.perf_counter()
                checkpoints.save(self.output, state, self.model, self.optimizer.adamw)
        if self.rank == 0:
            self.model.save(self.output)
            checkpoints.delete(self.output)
        return Result(_evaluation(state.curve[0]), _evaluation(state.curve[-1]), state, self.output)

    def _step(self, step: int, chosen: Ints) -> tuple[int, float, float, float]:
        """Learn on one batch: how many subwords, the loss, that of next sentences, the rate."""
        self.model.train()
        generator = np.random.default_rng([self.training.seed, step])
        parts = self._batches(self.train, chosen, generator)
        # Every process corrupts the whole batch alike and learns on its share, so that their number changes nothing.
        n_targets = max(1, sum(len(part.targets) for part in parts))
        n_subwords = sum(len(part.packed.ids) for part in parts)
        sums = torch.zeros(2, dtype=torch.float64)
        for part in parts[self.rank :: self.world]:
            losses = self.model(part)
            both = torch.stack([losses.masked / n_targets, losses.next_sentence / len(chosen)])
            both.sum().backward()  # type: ignore[no-untyped-call]
            sums += both.detach().cpu()  # sync
        self._sum_over_processes(sums)
        loss, next_loss = sums.tolist()
        if not math.isfinite(loss + next_loss):
            raise DataError(
                f"The loss at step {step} is {loss + next_loss}: training has diverged. Expected a finite number. "
                "Lower learn_rate, or raise warmup_steps."
            )
        rate = learn_rate(step, self.training)
        training = self.training
        betas = (training.beta1, training.beta2)
        self.optimizer.step(StepSettings(rate, training.weight_decay, betas, training.eps, training.grad_clip))
        return n_subwords, loss, next_loss, rate

    def _sum_over_processes(self, sums: Tensor) -> None:
        if self.world == 1:
            return
        torch.distributed.all_reduce(sums)
        for parameter in self.model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)

    # --- going on

    def _identity(self) -> dict[str, Any]:
        """The settings that a run must have to go on from a checkpoint; how long and how fast may change."""
        settings = json.loads(self.settings.model_dump_json())
        for name in ("steps", "evaluate_every", "save_every", "device", "batch_subwords", "gradient_checkpointing"):
            settings["training"].pop(name)
        settings["corpus"].pop("cache")
        identity: dict[str, Any] = settings
        return identity

    def _resume(self) -> checkpoints.State:
        found = checkpoints.found(self.output)
        if not found:
            return checkpoints.State(self._identity())
        state = checkpoints.load(found[max(found)], self.model, self.optimizer.adamw)
        if state.settings != self._identity():
            changed = _differences(state.settings, self._identity())
            raise ConfigError(
                f"The checkpoint {found[max(found)]} is of a run with other settings ({', '.join(changed)}). Expected "
                "the same. Set them back, or start anew with --overwrite."
            )
        return state


def adapt(
    settings: Settings,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    note: Callable[[str], None] = lambda line: None,
    progress: Callable[[Progress], None] = lambda done: None,
) -> Result:
    """Train a masked language model and write it to the folder `output`, as Hugging Face has them.

    resume: go on from the newest checkpoint there, if there is one.
    overwrite: replace a model or a run there.
    note: is told what is being done; progress: what each step did.

    Started by torchrun, the processes share each batch; the steps are those of one process.
    """
    _check_output(output, resume=resume, overwrite=overwrite)
    try:
        output.mkdir(parents=True, exist_ok=True)
        return Run(settings, output, note=note).train_on(resume=resume, progress=progress)
    except OSError as error:
        raise DataError(
            f"The output {output} could not be written: {error}. Expected a folder to write to, with room for the "
            "model and its checkpoints. Check the path, its permissions and the free space."
        ) from error


def learn_rate(step: int, training: TrainingSettings) -> float:
    """Warm-up from 0 to the highest rate, then a straight line to 0 behind the last step. step: from 1."""
    if step <= training.warmup_steps:
        return training.learn_rate * step / training.warmup_steps
    left = training.steps + 1 - step
    return training.learn_rate * left / max(1, training.steps + 1 - training.warmup_steps)


def _check_output(output: Path, *, resume: bool, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output}: found a file; expected a folder to write to; fix: name another output")
    there = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    is_run = any(name == CONFIG or name.startswith(checkpoints.PREFIX) for name in there)
    if is_run and not (resume or overwrite):
        raise ConfigError(
            f"{output}: found a model or an unfinished run there; expected a new folder; fix: go on with --resume, "
            "replace it with --overwrite, or name another output"
        )
    if resume and CONFIG in there and not checkpoints.found(output):
        raise ConfigError(
            f"{output}: found a finished model and no checkpoint to go on from; expected an unfinished run; fix: train "
            "anew with --overwrite, or name another output"
        )
    if overwrite and _processes()[1] == 0:
        checkpoints.delete(output)


def _model(settings: Settings, how: EncoderSettings, note: Callable[[str], None]) -> MaskedModel:
    wanted = settings.encoder
    pairs = settings.objective.next_sentence
    dropout = settings.training.dropout
    if wanted.name is not None:
        model = load_masked(wanted.name, how, revision=wanted.revision, next_sentence=pairs, dropout=dropout)
        if model.missing:
            names = ", ".join(model.missing[:4])
            note(f"{wanted.name} lacks {len(model.missing)} weights, which start at random: {names}")
        return model
    note(f"learning a vocabulary of {wanted.vocabulary:,} subwords")
    documents = read_documents(settings.corpus.files(), text_key=settings.corpus.text_key)
    texts = (text for document in documents for text in document)
    vocabulary = learn_vocabulary(texts, wanted.vocabulary, lowercase=wanted.lowercase)
    files = tokenizer_files(vocabulary, lowercase=wanted.lowercase, positions=wanted.positions)
    plain, config = new_model(
        wanted.size,
        vocabulary_size=len(vocabulary),
        positions=wanted.positions,
        seed=settings.training.seed,
        next_sentence=pairs,
        dropout=dropout,
    )
    return MaskedModel(plain, {**files, **config}, how)


def _parts(packed: Packed, corrupted: Corrupted, groups: Sequence[Ints], is_next: Ints | None) -> list[Batch]:
    """A batch in parts: `groups` of windows, which lie in it one after the other. is_next: (W,) before the packing."""
    found = []
    window = row = 0
    for group in groups:
        lengths = packed.lengths[window : window + len(group)]
        rows = slice(row, row + int(lengths.sum()))
        chosen = slice(*np.searchsorted(corrupted.rows, [rows.start, rows.stop]))
        found.append(
            Batch(
                Packed(
                    packed.ids[rows],
                    packed.positions[rows],
                    lengths,
                    None if packed.segments is None else packed.segments[rows],
                ),
                corrupted.rows[chosen] - row,
                corrupted.targets[chosen],
                None if is_next is None else is_next[group],
            )
        )
        window, row = window + len(group), rows.stop
    return found


def _processes() -> tuple[int, int]:
    """How many processes torchrun has started, and which one this is."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return world, int(os.environ.get("RANK", "0"))


def _take(stretches: Stretches, chosen: Ints) -> Stretches:
    return Stretches(stretches.starts[chosen], stretches.ends[chosen], stretches.documents[chosen])


def _row(state: checkpoints.State, rate: float, evaluation: Evaluation) -> dict[str, Any]:
    loss, next_loss, steps = state.losses
    return {
        "step": state.step,
        "subwords": state.subwords,
        "seconds": round(state.seconds, 1),
        "learn_rate": rate,
        "loss": loss / steps if steps else None,
        "next_loss": next_loss / steps if steps else None,
        **asdict(evaluation),
    }


def _evaluation(row: Mapping[str, Any]) -> Evaluation:
    return Evaluation(*(row[one.name] for one in fields(Evaluation)))


def _write_curve(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    replace_file(path, write)


def _differences(old: Any, new: Any, inside: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line for key in sorted({*old, *new}) for line in _differences(old.get(key), new.get(key), f"{inside}.{key}")
        ]
    return [] if old == new else [f"{inside.lstrip('.')}: {old!r}, now {new!r}"]
