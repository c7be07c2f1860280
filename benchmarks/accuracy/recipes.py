"""The config of `bertft init` beside a small grid around it: half and twice its learning rate, half its epochs.

    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/accuracy/recipes.py ner/wikigold textcat/sentence_polarity \\
        --encoder ENCODER --texts 600 --output recipes.jsonl

With --settings, it is the config of `bertft init` beside the same config with these settings, in place of the grid. The
data are those of compare.py, which says more. Each run is a `spacy train` to the end, and its best model on dev is
scored on test. A row is written when its run is done; rows that are in the output already aren't run again.
"""

from __future__ import annotations

import json
import os
import shlex
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from compare import DevTexts, Encoder, Seeds, TestTexts, head_of, predict, prepare, score, spread
from spacy.cli._util import parse_config_overrides
from spacy.cli.train import train as spacy_train
from spacy.tokens import Doc
from spacy.util import load_config

from spacy_bertft.jobs.recipes.init import init

GRID = {"init": (1.0, 1.0), "rate / 2": (0.5, 1.0), "rate * 2": (2.0, 1.0), "epochs / 2": (1.0, 0.5)}
RATE, EPOCHS = "training.optimizer.learn_rate.initial_rate", "training.max_epochs"


def main(
    data: Annotated[list[str], typer.Argument(help="Folders below SPACY_BERTFT_DATA: ner/…, textcat/…, pair/…")],
    encoder: Encoder,
    texts: Annotated[int, typer.Option(help="Training texts, drawn once.")] = 600,
    dev_texts: DevTexts = 300,
    test_texts: TestTexts = 1000,
    seeds: Seeds = 1,
    settings: Annotated[str, typer.Option(help='Settings to compare, such as "--training.dropout 0".')] = "",
    only: Annotated[list[str] | None, typer.Option(help='Points of the grid, such as "init"; all if left out.')] = None,
    output: Annotated[Path, typer.Option(help="A JSON line for each run.")] = Path("recipes.jsonl"),
) -> None:
    """Run what is missing, then print a table of all."""
    changes = parse_config_overrides(shlex.split(settings))
    points = ("init", settings) if settings else tuple(only or GRID)
    for seed in range(seeds):
        for name in data:
            with tempfile.TemporaryDirectory() as temporary:
                work = Path(temporary)
                folder = Path(os.environ["SPACY_BERTFT_DATA"]) / name
                gold = prepare(folder, work, 1, texts, dev=dev_texts, test=test_texts)
                for point in points:
                    setup = {"data": name, "texts": texts, "point": point, "seed": seed}
                    if not any(setup.items() <= row.items() for row in read_rows(output)):
                        row = {**setup, **run(point, gold, encoder, seed, work, {} if point == "init" else changes)}
                        print(row, flush=True)
                        with output.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(row) + "\n")
    _show(read_rows(output), points)


def run(
    point: str, gold: dict[str, list[Doc]], encoder: str, seed: int, work: Path, settings: dict[str, Any]
) -> dict[str, Any]:
    """Train with init's config, changed as a point of the grid and settings say; the scores of its best model."""
    task = head_of(gold).removeprefix("textcat_")
    paths = {split: work / f"{split}.spacy" for split in ("train", "dev")}
    init(task, work / "config.cfg", encoder=encoder, force=True, **paths)
    config = load_config(work / "config.cfg")
    times_rate, times_epochs = GRID.get(point, GRID["init"])
    overrides = {
        "system.seed": seed,
        RATE: times_rate * config["training"]["optimizer"]["learn_rate"]["initial_rate"],
        EPOCHS: round(times_epochs * config["training"]["max_epochs"]),
        **settings,
    }
    start = time.perf_counter()
    spacy_train(work / "config.cfg", work / "out", overrides=overrides)
    seconds = time.perf_counter() - start
    predicted = predict(work / "out/model-best", gold)
    return {
        "rate": overrides[RATE],
        "epochs": overrides[EPOCHS],
        "seconds": round(seconds),
        **{split: score(gold[split], docs) for split, docs in predicted.items()},
    }


def read_rows(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.read_text("utf-8").splitlines()] if output.exists() else []


def _show(rows: list[dict[str, Any]], points: Sequence[str]) -> None:
    """Mean test scores of each point, on each data set, and their standard deviation over the seeds."""
    for name in dict.fromkeys(row["data"] for row in rows):
        print(name)
        for point in points:
            found = [row for row in rows if (row["data"], row["point"]) == (name, point)]
            if found:
                print(f"    test {spread(found, 'test')}  dev {spread(found, 'dev')}  {point}")


if __name__ == "__main__":
    typer.run(main)
