"""Few training texts: the config of `bertft init` without and with --shots, and SetFit, with the same encoder.

    python -m venv setfit && setfit/bin/pip install setfit==1.2.0
    SPACY_BERTFT_DATA=/folder/of/data OMP_NUM_THREADS=1 python benchmarks/accuracy/few_shot.py intent/snips \\
        ner/wikigold --encoder ENCODER --shots 8 --draws 5 --setfit setfit/bin/python --output few_shot.jsonl

The data are those of compare.py. Of each draw, all systems get the same texts: so many of each category, or as few
sentences as it takes to have so many entities of each label. There are no development texts: all train to the end, and
their last weights are scored on test, by accuracy or by F1 over whole entities. The seconds are those of the CPU, from
the loading of the encoder to the end of the training. SetFit has its defaults, and runs in its own environment, since
it needs other packages; it only takes categories. A row is written when its run is done; rows that are in the output
already aren't run again. With --settings, the third system is the config of --shots with other settings, such as
"--initialize.before_init.steps 0".
"""

from __future__ import annotations

import json
import os
import random
import shlex
import statistics
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import spacy
import typer
from compare import Encoder, TestTexts, bare, prepare, score
from recipes import read_rows
from spacy.cli._util import parse_config_overrides
from spacy.cli.train import train as spacy_train
from spacy.tokens import Doc, DocBin
from spacy.util import load_config

from spacy_bertft.encoder.folders import find_folder
from spacy_bertft.jobs.recipes.init import init

WORKER = Path(__file__).with_name("few_shot_setfit.py")


def main(
    data: Annotated[list[str], typer.Argument(help="Folders below SPACY_BERTFT_DATA: ner/…, textcat/…, intent/…")],
    encoder: Encoder,
    shots: Annotated[list[int], typer.Option(help="Texts of each category, or entities of each label.")],
    draws: Annotated[int, typer.Option(help="Draws of the training texts, with the seeds 0, 1, …")] = 5,
    test_texts: TestTexts = 1000,
    categories: Annotated[int, typer.Option(help="At most so many categories, drawn once.")] = 20,
    setfit: Annotated[
        Path | None, typer.Option(help="The python of an environment with setfit; none: without.")
    ] = None,
    systems: Annotated[str, typer.Option(help="Which of plain, few-shot and setfit to run.")] = "plain,few-shot,setfit",
    settings: Annotated[str, typer.Option(help="Settings that change the config of --shots.")] = "",
    output: Annotated[Path, typer.Option(help="A JSON line for each run.")] = Path("few_shot.jsonl"),
) -> None:
    """Run what is missing, then print a table of all."""
    for name in data:
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            gold = prepare(Path(os.environ["SPACY_BERTFT_DATA"]) / name, work, 1)
            train, test = _of_some_categories(gold, categories, test_texts)
            for number, seed, system in product(shots, range(draws), systems.split(",")):
                if system == "setfit" and (setfit is None or not train[0].cats):
                    continue
                point = system if system != "few-shot" or not settings else settings
                setup = {"data": name, "shots": number, "draw": seed, "system": point}
                if any(setup.items() <= row.items() for row in read_rows(output)):
                    continue
                drawn = draw(train, number, seed)
                if system == "setfit":
                    found = run_setfit(str(setfit), encoder, drawn, test, seed)
                else:
                    found = run_ours(system == "few-shot", settings, encoder, drawn, test, seed, work)
                row = {**setup, "texts": len(drawn), **found}
                print(row, flush=True)
                with output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    print(*table(read_rows(output)), sep="\n")


def draw(train: Sequence[Doc], shots: int, seed: int) -> list[Doc]:
    """Texts in random order, each if it has a label of which there are not yet enough."""
    counts: Counter[str] = Counter()
    drawn = []
    for doc in random.Random(seed).sample(train, len(train)):
        labels = Counter(_categories(doc)) + Counter(ent.label_ for ent in doc.ents)
        if any(counts[label] < shots for label in labels):
            counts.update(labels)
            drawn.append(doc)
    return drawn


def run_ours(
    few: bool, settings: str, encoder: str, train: Sequence[Doc], test: Sequence[Doc], seed: int, work: Path
) -> dict[str, float]:
    """Train with init's config to the end; score and CPU seconds."""
    path = work / "few.spacy"
    DocBin(docs=train, store_user_data=True).to_disk(path)
    task = "textcat" if train[0].cats else "ner"
    init(task, work / "config.cfg", train=path, dev=path, encoder=encoder, shots=few, force=True)
    training = load_config(work / "config.cfg")["training"]
    steps = -(-len(train) // training["batcher"]["size"]) * training["max_epochs"]
    changes = parse_config_overrides(shlex.split(settings)) if few else {}
    only_last = {"training.eval_frequency": steps, "training.patience": 0}
    start = time.process_time()
    spacy_train(work / "config.cfg", work / "out", overrides={"system.seed": seed, **only_last, **changes})
    seconds = time.process_time() - start
    predicted = list(spacy.load(work / "out/model-last").pipe(map(bare, test)))
    return {"score": score(list(test), predicted), "seconds": round(seconds, 1)}


def run_setfit(python: str, encoder: str, train: Sequence[Doc], test: Sequence[Doc], seed: int) -> dict[str, float]:
    """Train SetFit with its defaults, in another environment; accuracy and CPU seconds."""
    given = {
        "encoder": str(find_folder(encoder) or encoder),
        "train": [doc.text for doc in train],
        "labels": [_categories(doc)[0] for doc in train],
        "test": [doc.text for doc in test],
        "seed": seed,
    }
    # An own PYTHONPATH would bring this environment's packages along.
    there = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python, str(WORKER)]
    run = subprocess.run(command, input=json.dumps(given), env=there, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    right = [label in _categories(doc) for label, doc in zip(found["predicted"], test, strict=True)]
    return {"score": statistics.mean(right), "seconds": round(found["seconds"], 1)}


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Mean and standard deviation of the scores over the draws, and the median of the seconds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["data"], row["shots"], row["system"]].append(row)
    for (name, shots, system), found in sorted(groups.items()):
        scores = [100 * row["score"] for row in found]
        deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
        seconds = statistics.median(row["seconds"] for row in found)
        figures = f"{statistics.mean(scores):5.1f} ± {deviation:4.1f}  {seconds:7.1f} s"
        yield f"{name:28} {shots:3}  {figures}  {system} ({len(scores)})"


def _of_some_categories(gold: dict[str, list[Doc]], most: int, test_texts: int) -> tuple[list[Doc], list[Doc]]:
    """The training and the test texts, of some of the categories if there are more."""
    names = sorted({name for doc in gold["train"] for name in _categories(doc)} - {"oos"})
    kept = set(random.Random(0).sample(names, min(most, len(names))))
    for doc in (*gold["train"], *gold["test"]):
        doc.cats = {name: value for name, value in doc.cats.items() if name in kept}
    train, test = ([doc for doc in gold[split] if _categories(doc) or not kept] for split in ("train", "test"))
    return train, random.Random(0).sample(test, min(test_texts, len(test)))


def _categories(doc: Doc) -> list[str]:
    return [name for name, value in doc.cats.items() if value > 0.5]


if __name__ == "__main__":
    typer.run(main)
