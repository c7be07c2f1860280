"""How fast masked-LM training is on a CPU, beside the recipe of transformers' run_mlm: subwords a second, in turns.

    python benchmarks/pretraining/compare.py FILE... --encoder ENCODER --size mini --output speed.json

Both start from the same weights and see the same texts, as many windows a step. What is made before the first step
(tokenising, caches, loading) is not timed. Padding is not counted, special subwords are.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    get_linear_schedule_with_warmup,
)

from spacy_bertft.encoder.loading import find_folder
from spacy_bertft.jobs.pretraining.adapt import Run
from spacy_bertft.jobs.pretraining.config import Settings
from spacy_bertft.jobs.pretraining.from_scratch import SIZES, new_model
from spacy_bertft.jobs.pretraining.sampling import batches
from spacy_bertft.jobs.pretraining.texts import read_documents

OURS, FILLED, LINES, BLOCKS = "ours", "ours, filled", "run_mlm, lines", "run_mlm, blocks"
SCHEDULE, WARM_UP, RATE, DECAY, BETAS, EPS, CLIP = 100_000, 100, 1e-4, 0.01, (0.9, 0.98), 1e-6, 1.0
MASKED = 0.15
SEED = 0
MAP_BATCH = 1000  # texts that run_mlm concatenates at once; what is left over at their end is dropped


@dataclass
class Work:
    """What some steps did."""

    steps: int = 0
    windows: int = 0
    subwords: int = 0  # special ones included, padding not
    cells: int = 0  # padding included
    masked: int = 0  # to be guessed
    losses: list[float] = field(default_factory=list)

    def add(self, *, windows: int, subwords: int, cells: int, masked: int, loss: float) -> None:
        self.steps += 1
        self.windows += windows
        self.subwords += subwords
        self.cells += cells
        self.masked += masked
        self.losses.append(loss)


@dataclass(frozen=True)
class Turn:
    """One subject's steps in one round."""

    steps: int
    subwords: int
    seconds: float
    cpu_seconds: float


class Ours:
    """`bertft adapt`'s own step."""

    def __init__(self, run: Run, batch_size: int) -> None:
        self.run = run
        self.order = batches(len(run.train), batch_size, seed=SEED)
        self.number = 0
        self.work = Work()

    def step(self) -> None:
        self.number += 1
        parts: list[Any] = []
        make = type(self.run)._batches

        def counted(*args: Any) -> Any:
            parts.extend(make(self.run, *args))
            return parts

        self.run._batches = counted  # type: ignore[method-assign]
        n_subwords, loss, _, _ = self.run._step(self.number, next(self.order))
        self.work.add(
            windows=sum(len(part.packed.lengths) for part in parts),
            subwords=n_subwords,
            cells=n_subwords,
            masked=sum(len(part.targets) for part in parts),
            loss=loss,
        )


class RunMLM:
    """run_mlm's recipe, without the Trainer's own bookkeeping."""

    def __init__(self, folder: Path, windows: list[dict[str, Any]], batch_size: int) -> None:
        self.model: Any = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32)
        self.model.train()
        collator = DataCollatorForLanguageModeling(AutoTokenizer.from_pretrained(folder), mlm_probability=MASKED)
        self.loader = DataLoader(windows, batch_size, shuffle=True, collate_fn=collator, drop_last=True)
        self.order = self._forever()
        parameters = list(self.model.parameters())
        groups = [
            {"params": [one for one in parameters if one.ndim >= 2], "weight_decay": DECAY},
            {"params": [one for one in parameters if one.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=EPS, fused=True)
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, WARM_UP, SCHEDULE)
        self.work = Work()

    def _forever(self) -> Iterator[Any]:
        while True:
            yield from self.loader

    def step(self) -> None:
        batch = next(self.order)
        loss = self.model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.schedule.step()
        self.model.zero_grad()
        self.work.add(
            windows=len(batch["input_ids"]),
            subwords=int(batch["attention_mask"].sum()),
            cells=batch["input_ids"].numel(),
            masked=int((batch["labels"] != -100).sum()),
            loss=loss.item(),
        )


def main(
    corpus: Annotated[list[Path], typer.Argument(help="Files or folders of text.")],
    encoder: Annotated[str, typer.Option(help="Whose tokenizer and, without --size, weights both start from.")],
    size: Annotated[str | None, typer.Option(help=f"A BERT of random weights: {', '.join(SIZES)}.")] = None,
    batch_size: Annotated[int, typer.Option(help="Windows in a step.")] = 32,
    window: Annotated[int, typer.Option(help="Subwords in a window, special ones included.")] = 128,
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 9,
    steps: Annotated[int, typer.Option(help="Steps in a turn, at least.")] = 2,
    seconds: Annotated[float, typer.Option(help="And seconds in a turn, at least.")] = 2.0,
    warm_up: Annotated[int, typer.Option(help="Steps of each before the first round.")] = 3,
    threads: Annotated[int | None, typer.Option(help="Of PyTorch; all cores by default.")] = None,
    blocks: Annotated[bool, typer.Option(help="Also run_mlm's default, texts joined and cut into blocks.")] = True,
    output: Annotated[Path | None, typer.Option(help="File for all numbers, as JSON.")] = None,
) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        model = Path(name, "model")
        save_start(encoder, size, model)
        subjects = make_subjects(corpus, model, Path(name, "ours"), batch_size, window, blocks=blocks)
        for subject in subjects.values():
            for _ in range(warm_up):
                subject.step()
        turns = measure(subjects, rounds, steps, seconds)
    report = {
        "corpus": [path.name for path in corpus],
        "encoder": size or Path(encoder).name,
        "batch_size": batch_size,
        "window": window,
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "subjects": {one: describe(subject.work, turns[one]) for one, subject in subjects.items()},
        "ratios": {f"{a} / {b}": ratio(turns[a], turns[b]) for a, b in pairs(list(subjects))},
    }
    show(report)
    if output is not None:
        output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def save_start(encoder: str, size: str | None, folder: Path) -> None:
    """A folder with the weights, heads included, that all start from."""
    source = str(find_folder(encoder) or encoder)
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    torch.manual_seed(SEED)
    if size is None:
        model: Any = AutoModelForMaskedLM.from_pretrained(source, dtype=torch.float32)
    else:
        if size not in SIZES:
            raise typer.BadParameter(f"found size {size!r}; expected one of {', '.join(SIZES)}")
        model, _ = new_model(*SIZES[size], vocabulary_size=len(tokenizer), positions=512, seed=SEED)
    model.save_pretrained(folder)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)


def make_subjects(
    corpus: list[Path], model: Path, output: Path, batch_size: int, window: int, *, blocks: bool
) -> dict[str, Ours | RunMLM]:
    run = Run(
        Settings.model_validate(
            {
                "corpus": {"paths": corpus},
                "encoder": {"name": str(model)},
                "objective": {"rate": MASKED},
                "training": {
                    "steps": SCHEDULE,
                    "batch_size": batch_size,
                    "window": window,
                    "learn_rate": RATE,
                    "warmup_steps": WARM_UP,
                    "weight_decay": DECAY,
                    "beta1": BETAS[0],
                    "beta2": BETAS[1],
                    "eps": EPS,
                    "grad_clip": CLIP,
                    "seed": SEED,
                    "device": "cpu",
                    "precision": "float32",
                },
            }
        ),
        output,
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    texts = list(chain.from_iterable(read_documents(corpus)))
    print(f"{len(texts):,} texts", flush=True)
    subjects: dict[str, Ours | RunMLM] = {
        OURS: Ours(run, batch_size),
        LINES: RunMLM(model, by_lines(tokenizer, texts, window), batch_size),
    }
    if blocks:
        mean = float((run.train.ends - run.train.starts).mean()) + run.model.encoder.n_special
        filled = round(batch_size * window / mean)  # windows with as many subwords as that many full ones
        subjects[FILLED] = Ours(run, filled)
        subjects[BLOCKS] = RunMLM(model, by_blocks(tokenizer, texts, window), batch_size)
    return subjects


def by_lines(tokenizer: Any, texts: list[str], window: int) -> list[dict[str, Any]]:
    """run_mlm --line_by_line: a text a window, the end of a long one cut off."""
    features = tokenizer(texts, truncation=True, max_length=window, return_special_tokens_mask=True)
    return [dict(zip(features, one, strict=True)) for one in zip(*features.values(), strict=True)]


def by_blocks(tokenizer: Any, texts: list[str], window: int) -> list[dict[str, Any]]:
    """run_mlm's default: texts, each with its special subwords, are joined and cut."""
    found = []
    for begin in range(0, len(texts), MAP_BATCH):
        features = tokenizer(texts[begin : begin + MAP_BATCH], return_special_tokens_mask=True, verbose=False)
        joined = {name: list(chain.from_iterable(values)) for name, values in features.items()}
        whole = len(joined["input_ids"]) // window * window
        found += [
            {name: values[start : start + window] for name, values in joined.items()}
            for start in range(0, whole, window)
        ]
    return found


def measure(subjects: dict[str, Ours | RunMLM], rounds: int, steps: int, seconds: float) -> dict[str, list[Turn]]:
    """Turns of each, one after the other in every round, beginning with another one each time."""
    names = list(subjects)
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            turns[name].append(take_turn(subjects[name].step, subjects[name].work, steps, seconds))
        speeds = ", ".join(f"{name} {speed(turns[name][-1]):,.0f}" for name in names)
        print(f"round {number + 1}: {speeds}", flush=True)
    return turns


def take_turn(step: Callable[[], None], work: Work, steps: int, seconds: float) -> Turn:
    before, done = work.subwords, 0
    wall, cpu = time.perf_counter(), time.process_time()
    while done < steps or time.perf_counter() - wall < seconds:
        step()
        done += 1
    return Turn(done, work.subwords - before, time.perf_counter() - wall, time.process_time() - cpu)


def speed(turn: Turn) -> float:
    return turn.subwords / turn.seconds


def speed_of_cpu(turn: Turn) -> float:
    return turn.subwords / turn.cpu_seconds


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def describe(work: Work, turns: list[Turn]) -> dict[str, Any]:
    return {
        "subwords_per_second": spread(list(map(speed, turns))),
        "subwords_per_cpu_second": spread(list(map(speed_of_cpu, turns))),
        "steps": work.steps,
        "windows_in_a_step": work.windows / work.steps,
        "mean_length": work.subwords / work.windows,
        "masked_share": work.masked / work.subwords,
        "padding_share": 1 - work.subwords / work.cells,
        "first_loss": work.losses[0],
        "last_loss": statistics.mean(work.losses[-max(1, len(work.losses) // 10) :]),
        "turns": [asdict(turn) for turn in turns],
    }


def pairs(names: list[str]) -> list[tuple[str, str]]:
    return [pair for pair in ((OURS, LINES), (OURS, BLOCKS), (FILLED, BLOCKS)) if set(pair) <= set(names)]


def ratio(turns: list[Turn], others: list[Turn]) -> dict[str, Any]:
    """Of speeds in the same round."""
    both = list(zip(turns, others, strict=True))
    return {
        "of_seconds": spread([speed(a) / speed(b) for a, b in both]),
        "of_cpu_seconds": spread([speed_of_cpu(a) / speed_of_cpu(b) for a, b in both]),
    }


def show(report: dict[str, Any]) -> None:
    def three(values: dict[str, float], digits: int) -> str:
        median, low, high = (f"{values[name]:,.{digits}f}" for name in ("median", "lowest", "highest"))
        return f"{median} ({low} to {high})"

    print(
        f"\n{', '.join(report['corpus'])}; {report['encoder']}; {report['batch_size']} windows of at most "
        f"{report['window']}; threads: {report['threads']}\n"
    )
    print(f"{'':17}{'subwords/s':>26}{'a CPU-second':>26}  windows  length  masked  padding   loss")
    for name, one in report["subjects"].items():
        assert math.isfinite(one["last_loss"])
        print(
            f"{name:17}{three(one['subwords_per_second'], 0):>26}{three(one['subwords_per_cpu_second'], 0):>26}"
            f"{one['windows_in_a_step']:>9.0f}{one['mean_length']:>8.1f}{one['masked_share']:>8.1%}"
            f"{one['padding_share']:>9.1%}   {one['first_loss']:.2f}, {one['last_loss']:.2f}"
        )
    print()
    for name, one in report["ratios"].items():
        seconds, cpu_seconds = three(one["of_seconds"], 2), three(one["of_cpu_seconds"], 2)
        print(f"{name:34}{seconds}; of CPU-seconds {cpu_seconds}")


if __name__ == "__main__":
    typer.run(main)
