"""Kill training runs at random moments, resume them, and compare what they end in with unbroken runs, bit for bit.

    python scripts/kill_runs.py --kills 100 --workers 4 --output kills.jsonl

A run is started, killed (SIGKILL), resumed, killed again, until it ends before its next moment. Then its weights must
be those of a run that nobody disturbed. A moment is a random time while a run starts, after a random step, or after a
checkpoint or pipeline has begun to be written, as seen in its folder; so load on the machine doesn't shift them. After
each kill, the pipelines and checkpoints that are there must be whole, and the next start must resume from the newest.

Each worker runs its own campaign, on one core. The output file gets a line of JSON for each kill and each ended run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import spacy
import typer
from safetensors import safe_open
from spacy.tokens import DocBin
from spacy.util import load_config

from spacy_bertft.cli.console import show
from spacy_bertft.convert import convert

ROOT = Path(__file__).parents[1]
TEXTS = 48  # for training and for development; 12 steps
COMMON = {
    "components.encoder.model.name": str(ROOT / "assets/encoder"),
    "training.optimizer.learn_rate.initial_rate": 1e-3,
    "training.max_epochs": 2,
    "training.eval_frequency": 3,
    "training.batcher.size": 8,
}
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
MOMENTS = {"start": 1, "step": 3, "checkpoint": 4, "pipeline": 2}  # and how often each is drawn
STEPS_AHEAD = 5  # at most, from the newest checkpoint to the next moment
WRITING = (".checkpoint-", ".bertft-")  # names of checkpoints and pipelines until they are whole


@dataclass(frozen=True)
class Pipeline:
    """A pipeline to train. data: texts for training and development; keys: in them; tuning: of its encoder."""

    config: str
    data: tuple[str, str]
    keys: Mapping[str, str] = field(default_factory=dict)
    tuning: str | None = None
    averages: bool = False


SUPPORT, CATEGORY = ("support/train.jsonl", "support/dev.jsonl"), {"label_key": "category"}
PIPELINES = {
    "entities and categories": Pipeline("ner_textcat", SUPPORT, CATEGORY),
    "pairs": Pipeline("pair", ("pairs/train.tsv", "pairs/dev.tsv")),
    "ratings": Pipeline("regression", ("ratings/train.jsonl", "ratings/dev.jsonl")),
    "questions": Pipeline("qa", ("questions/train.json", "questions/dev.json")),
    "several categories, averages": Pipeline("textcat_multilabel", SUPPORT, {"labels_key": "tags"}, averages=True),
    "spaCy's spancat": Pipeline("spancat", SUPPORT),
    "frozen encoder": Pipeline("ner_textcat", SUPPORT, CATEGORY, tuning="FrozenTuning.v1"),
}
if find_spec("peft"):
    PIPELINES["LoRA"] = Pipeline("ner_textcat", SUPPORT, CATEGORY, tuning="LoraTuning.v1")


class WrongRun(Exception):  # noqa: N818
    """A run failed, lost something, or ended in other weights."""


def main(
    kills: Annotated[int, typer.Option(help="Stop after so many kills.")] = 100,
    workers: Annotated[int, typer.Option(min=1, help="Campaigns side by side, each on one core.")] = 1,
    seconds: Annotated[float, typer.Option(help="After so many seconds, kill no run, and start none.")] = 1e9,
    output: Annotated[Path | None, typer.Option(help="File for a line of JSON per kill and run.")] = None,
    work: Annotated[Path, typer.Option(help="Folder for all runs.")] = Path("training/kills"),
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Exit with code 1 if a run does not end as its unbroken one."""
    shutil.rmtree(work, ignore_errors=True)
    campaign = Campaign(kills, time.monotonic() + seconds, work, output)
    with ThreadPoolExecutor(workers) as pool:
        for worker in [pool.submit(campaign.run, number, f"{seed}-{number}") for number in range(workers)]:
            worker.result()
    n_killed, inside, wrong = len(campaign.killed), sum(campaign.killed), campaign.wrong
    campaign.note({"event": "summary", "kills": n_killed, "while_writing": inside, "wrong": wrong})
    end = f"{wrong} runs did not end" if wrong else "all runs ended"
    show(f"{n_killed} kills, {inside} of them while files were written: {end} in the same weights")
    raise typer.Exit(1 if wrong or not n_killed else 0)


@dataclass
class Campaign:
    """Runs that are killed, by several workers. until: as time.monotonic() counts."""

    kills: int
    until: float
    work: Path
    output: Path | None
    killed: list[bool] = field(default_factory=list)  # for each kill, whether it left something half written
    wrong: int = 0
    _unbroken: dict[str, Unbroken] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def run(self, worker: int, seed: str) -> None:
        """Run one pipeline after another, until there were enough kills."""
        chance, number = random.Random(seed), worker
        while self._goes_on():
            name = list(PIPELINES)[number % len(PIPELINES)]
            folder, moments, error = self.work / f"{worker}-{number}", list[str](), ""
            about = {"worker": worker, "run": number, "pipeline": name}
            try:
                self._killed_run(self._unbroken_run(name), folder, moments, chance, about)
                shutil.rmtree(folder)
            except WrongRun as wrong:
                error = str(wrong)
                self.wrong += 1
            self.note({"event": "run", **about, "kills": moments, "equal": not error, "error": error})
            show(f"{'✘' if error else '✔'} {name}: killed {', '.join(moments) or 'never'} {error}")
            number += 1

    def _goes_on(self) -> bool:
        return len(self.killed) < self.kills and time.monotonic() < self.until

    def _unbroken_run(self, name: str) -> Unbroken:
        with self._lock:
            one = self._unbroken.setdefault(name, Unbroken(PIPELINES[name], self.work / "unbroken" / name))
        one.make()
        return one

    def _killed_run(
        self, unbroken: Unbroken, folder: Path, moments: list[str], chance: random.Random, about: Mapping[str, Any]
    ) -> None:
        """A run with its kills, whose moments are added. Raises WrongRun if it doesn't end as the unbroken one."""
        while True:
            kind = chance.choices(list(MOMENTS), list(MOMENTS.values()))[0] if self._goes_on() else None
            run = Run(unbroken.config, folder, chance, unbroken.pace)
            if not run.go(kind, run.newest + chance.randint(1, STEPS_AHEAD)):
                break
            moments.append(f"after {run.newest} steps ({kind})")
            half_written = run.check()
            self.killed.append(bool(half_written))
            self.note({"event": "kill", **about, "kind": kind, "steps": run.newest, "half_written": half_written})
        found = content(folder)
        differing = sorted(path for path in {*found, *unbroken.files} if found.get(path) != unbroken.files.get(path))
        if differing:
            raise WrongRun(f"these files differ in {folder}: {', '.join(differing)}")

    def note(self, record: Mapping[str, Any]) -> None:
        """Write a record to the output file."""
        if self.output is not None:
            with self._lock, self.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


class Unbroken:
    """The run of a pipeline that nobody disturbs, made once. files: what it ends in."""

    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        self._pipeline, self._folder, self._lock = pipeline, folder, Lock()
        self.config = folder / "run.cfg"
        # Seconds to the first step, from one to the next, and to write; later, those of the newest run.
        self.pace = {"start": 3.0, "step": 0.1, "checkpoint": 0.02, "pipeline": 0.1}
        self.files: dict[str, str] = {}

    def make(self) -> None:
        """Run it, if it has not been run yet."""
        with self._lock:
            if not self.files:
                write_config(self._pipeline, self._folder)
                Run(self.config, self._folder / "out", random.Random(0), self.pace).go(None, 0)
                self.files = content(self._folder / "out")


def write_config(pipeline: Pipeline, folder: Path) -> None:
    """Write run.cfg and its texts."""
    paths = [ROOT / "assets" / path for path in pipeline.data]
    convert(paths, folder, **pipeline.keys)
    made = [folder / path.with_suffix(".spacy").name for path in paths]
    vocab = spacy.blank("en").vocab
    for path in made:
        docs = [*DocBin().from_disk(path).get_docs(vocab)][:TEXTS]
        for doc in docs:
            doc.spans["sc"] = list(doc.ents)  # for spancat
        DocBin(docs=docs, store_user_data=True).to_disk(path)
    settings = {**COMMON, "paths.train": str(made[0]), "paths.dev": str(made[1])}
    config = load_config(ROOT / f"configs/{pipeline.config}.cfg", overrides=settings)
    config["training"]["optimizer"]["use_averages"] = pipeline.averages
    if pipeline.tuning is not None:
        config["components"]["encoder"]["tuning"] = {"@misc": f"spacy-bertft.{pipeline.tuning}"}
    config.to_disk(folder / "run.cfg")


class Run:
    """One process of a run, from its start to its end or its kill. newest: the newest checkpoint that was seen."""

    def __init__(self, config: Path, folder: Path, chance: random.Random, pace: dict[str, float]) -> None:
        self._config, self._folder, self._chance, self._pace = config, folder, chance, pace
        self._before = self.newest = look(folder)[0]

    def go(self, kind: str | None, step: int) -> bool:
        """Start or resume it. Returns whether it was killed. Raises WrongRun if it fails, or does not resume.

        kind: what its moment follows, once `step` steps are in a checkpoint or the next one; None: it isn't killed.
        """
        options = ["--output", str(self._folder), "--resume", "--checkpoint-steps", "1"]
        command = [sys.executable, "-m", "spacy_bertft", "train", str(self._config), *options]
        path = self._folder.with_name(f"{self._folder.name}.log")
        with path.open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **ENVIRONMENT})
            try:
                if kind == "start" or self._reaches(process, kind, step):
                    time.sleep(self._chance.uniform(0, self._pace[str(kind)]))
            finally:
                process.kill()  # has no effect on one that has ended
            code = process.wait()
        said = " ".join(path.read_text(encoding="utf-8", errors="replace").split())
        if code > 0:
            raise WrongRun(f"it ended with code {code}: {said[-2000:]}")
        self.newest = max(self.newest, look(self._folder)[0])
        if self.newest > self._before > 0 and f"Resumed after {self._before:,} steps" not in said:
            raise WrongRun(f"it did not resume after {self._before} steps: {said[-2000:]}")
        return code < 0

    def _reaches(self, process: subprocess.Popen[bytes], kind: str | None, step: int) -> bool:
        """Wait for what the moment follows; False if the process ends before. Measures the pace meanwhile."""
        left, since, changed = look(self._folder)[1], dict[str, float](), time.monotonic()
        while process.poll() is None:
            time.sleep(0.002)
            now, (newest, there) = time.monotonic(), look(self._folder)
            if newest > self.newest:
                self._pace["start" if self.newest == self._before else "step"] = now - changed
                self.newest, changed = newest, now
                if kind == "step" and newest >= step:
                    return True
            left &= there  # what an earlier process left counts again once it is gone
            for what, prefix in zip(("checkpoint", "pipeline"), WRITING, strict=True):
                if any(name.startswith(prefix) for name in there - left):
                    since.setdefault(what, now)
                    if kind == what and self.newest >= step - 1:
                        return True
                elif what in since:
                    self._pace[what] = now - since.pop(what)
        return False

    def check(self) -> list[str]:
        """Raise WrongRun if the run has lost something. Returns the names of what is half written."""
        checkpoints = self._folder / "checkpoints"
        newest, half_written = look(self._folder)
        if newest < self.newest and not (checkpoints / "finished.json").is_file():
            raise WrongRun(f"the checkpoint of step {self.newest} is gone")
        for folder in [*checkpoints.glob("checkpoint-*"), *self._folder.glob("model-*")]:
            try:
                json.loads((folder / ("meta.json" if folder.name.startswith("model") else "state.json")).read_bytes())
                for path in folder.rglob("*.safetensors"):
                    with safe_open(path, framework="pt") as weights:  # checks the length of the file
                        list(weights.keys())
            except Exception as error:
                raise WrongRun(f"{folder} is not whole: {error!r}") from error
        return sorted(half_written)


def look(folder: Path) -> tuple[int, set[str]]:
    """The step of the newest checkpoint, 0 if there is none, and the names of what is half written."""
    names: list[str] = []
    for one in (folder, folder / "checkpoints"):
        with suppress(FileNotFoundError):
            names += os.listdir(one)
    steps = [int(name.removeprefix("checkpoint-")) for name in names if name.startswith("checkpoint-")]
    return max(steps, default=0), {name for name in names if name.startswith(WRITING) and ".deleted" not in name}


def content(output: Path) -> dict[str, str]:
    """Hashes of the weights and settings of model-best and model-last, by path."""
    files = (path for name in ("model-best", "model-last") for path in sorted((output / name).rglob("*")))
    # The config and the scores name paths and times.
    return {
        str(path.relative_to(output)): blake2b(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file() and path.name not in ("config.cfg", "meta.json")
    }


if __name__ == "__main__":
    typer.run(main)
