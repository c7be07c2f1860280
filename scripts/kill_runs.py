"""Kill training runs at random moments, resume them, and compare what they end in with unbroken runs, bit for bit.

    python scripts/kill_runs.py --kills 100 --work training/kills

A run is started, killed (SIGKILL) after a random time, resumed, killed again, until it ends before it is killed. Then
its weights must be those of a run that nobody disturbed. After each kill, a model-best that is there must be whole.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import spacy
import typer
from safetensors import safe_open
from spacy.tokens import DocBin

from spacy_bertft.cli.console import show
from spacy_bertft.convert import convert

ROOT = Path(__file__).parents[1]
COMMON = {
    "--components.encoder.model.name": str(ROOT / "assets/encoder"),
    "--training.optimizer.learn_rate.initial_rate": "1e-3",
    "--training.max_epochs": "2",
    "--training.eval_frequency": "3",
    "--training.batcher.size": "8",
    "--checkpoint-steps": "1",
}
# Config -> training and development texts
RUNS = {
    "ner_textcat": ("support/train.jsonl", "support/dev.jsonl"),
    "pair": ("pairs/train.tsv", "pairs/dev.tsv"),
    "regression": ("ratings/train.jsonl", "ratings/dev.jsonl"),
    "qa": ("questions/train.json", "questions/dev.json"),
}
TEXTS = 48


def main(
    kills: Annotated[int, typer.Option(help="How many runs to kill.")] = 100,
    work: Annotated[Path, typer.Option(help="Folder for all runs.")] = Path("training/kills"),
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Exit with code 1 if a run does not end as its unbroken one."""
    chance = random.Random(seed)
    shutil.rmtree(work, ignore_errors=True)
    commands = {name: command(name, work) for name in RUNS}
    expected, seconds = {}, {}
    killed = wrong = 0
    for number in range(10**6):
        name = list(RUNS)[number % len(RUNS)]
        if name not in expected:
            start = time.monotonic()
            subprocess.run([*commands[name], "--output", str(work / name)], check=True, stdout=subprocess.DEVNULL)
            expected[name], seconds[name] = content(work / name), time.monotonic() - start
        if killed >= kills:
            break
        output = work / f"{name}-killed"
        shutil.rmtree(output, ignore_errors=True)
        times = []
        while True:
            after = chance.uniform(0.2, 1.2) * seconds[name]
            ended = run_until(after, [*commands[name], "--output", str(output), "--resume"])
            check_best(output)
            if ended:
                break
            killed += 1
            times.append(after)
        same = content(output) == expected[name]
        wrong += not same
        moments = ", ".join(f"{after:.1f}" for after in times) or "never"
        show(f"{'✔' if same else '✘'} {name}: killed after {moments} s; {killed} kills so far")
    show(f"{killed} kills: {'all runs ended' if not wrong else f'{wrong} runs did not end'} in the same weights")
    raise typer.Exit(1 if wrong else 0)


def command(name: str, work: Path) -> list[str]:
    """The training command, with few texts."""
    paths = [ROOT / "assets" / path for path in RUNS[name]]
    convert(paths, work / name, label_key="category" if name == "ner_textcat" else "label")
    paths = [work / name / path.with_suffix(".spacy").name for path in paths]
    vocab = spacy.blank("en").vocab
    for path in paths:
        docs = list(DocBin().from_disk(path).get_docs(vocab))[:TEXTS]
        DocBin(docs=docs, store_user_data=True).to_disk(path)
    settings = {**COMMON, "--paths.train": str(paths[0]), "--paths.dev": str(paths[1])}
    more = ["--components.textcat.pooling", "mean"] if name == "ner_textcat" else []
    config = str(ROOT / f"configs/{name}.cfg")
    return [
        sys.executable,
        "-m",
        "spacy_bertft",
        "train",
        config,
        *more,
        *(part for one in settings.items() for part in one),
    ]


def run_until(seconds: float, arguments: list[str]) -> bool:
    """Run a command, and kill it after some seconds. Whether it ended before."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    if code:
        raise SystemExit(f"the run failed with code {code}")
    return True


def check_best(output: Path) -> None:
    """Raise an error if model-best is there but not whole."""
    best = output / "model-best"
    if best.exists():
        assert (best / "config.cfg").is_file(), f"{best} is not whole"
        for path in best.rglob("*.safetensors"):
            with safe_open(path, framework="pt") as weights:  # checks the length of the file
                assert weights.keys()


def content(output: Path) -> dict[str, bytes]:
    """The weights and settings of model-best and model-last."""
    files = (path for name in ("model-best", "model-last") for path in sorted((output / name).rglob("*")))
    # The config and the scores name paths and times.
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in files
        if path.is_file() and path.name not in ("config.cfg", "meta.json")
    }


if __name__ == "__main__":
    typer.run(main)
