"""What it is worth that heads start at the shares of their labels: a short training on many rare labels.

    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/accuracy/first_steps.py multilabel/goemotions --encoder ENCODER

Micro and macro F1 at a probability of 0.5, after few steps on few texts: of this package, of this package with output
biases that start at 0, and of the Hugging Face Trainer, whose biases do so too. Data, formats and recipe are those of
compare.py, which says more.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import hf_trainer
import scores
import typer
from compare import BatchSize, Data, Encoder, Rate, Seeds, predict, prepare, spread, train
from losses import KEYS
from spacy.tokens import Doc

from spacy_bertft.tasks.textcat import CategoryTask

SYSTEMS = ("spacy-bertft", "biases start at 0", "HF Trainer")


def main(
    data: Data = "multilabel/goemotions",
    encoder: Encoder = "bert-base-cased",
    rate: Rate = 1e-4,
    steps: Annotated[int, typer.Option(help="Steps of training.")] = 300,
    batch_size: BatchSize = 16,
    texts: Annotated[int, typer.Option(help="Training texts, drawn once.")] = 1500,
    seeds: Seeds = 3,
    output: Annotated[Path | None, typer.Option(help="JSON file for all figures.")] = None,
) -> None:
    """Train each, and print a row per run, then means and standard deviations."""
    recipe = hf_trainer.Recipe(encoder, rate, 0, batch_size, steps)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        gold = prepare(Path(os.environ["SPACY_BERTFT_DATA"]) / data, work, 1, texts)
        for seed in range(seeds):
            for name in SYSTEMS:
                start = time.perf_counter()
                found = run(name, gold, recipe, seed, work)
                rows.append({"system": name, "seed": seed, "seconds": round(time.perf_counter() - start), **found})
                values = "  ".join(f"{key} {100 * found[key]:.2f}" for key in KEYS)
                print(f"{name:18} seed {seed}  {values}", flush=True)
    for name in SYSTEMS:
        of_system = [row for row in rows if row["system"] == name]
        print(f"{name:18} mean    " + "  ".join(f"{key} {spread(of_system, key)}" for key in KEYS))
    if output is not None:
        setup = {"data": data, "encoder": encoder, "rate": rate, "steps": steps, "batch_size": batch_size}
        output.write_text(json.dumps({**setup, "texts": texts, "runs": rows}, indent=1) + "\n", encoding="utf-8")


def run(
    system: str,
    gold: dict[str, list[Doc]],
    recipe: hf_trainer.Recipe,
    seed: int,
    work: Path,
    settings: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Train one of SYSTEMS on the files in `work`; F1 scores on dev and test, by KEYS."""
    if system == "HF Trainer":
        others = {split: gold[split] for split in ("dev", "test")}
        predicted = hf_trainer.run(gold["train"], others, recipe, seed, work / "hf")
    elif system == "spacy-bertft":
        predicted = predict(train(gold, recipe, seed, work, settings), gold)
    else:
        # A new output layer has biases of 0 until the task starts it.
        with patch.object(CategoryTask, "start", lambda *_: None):
            pipeline = train(gold, recipe, seed, work, settings)
        predicted = predict(pipeline, gold)
    found = {split: scores.of_categories(gold[split], predicted[split]) for split in predicted}
    return {f"{split} {key}": value for split, of_split in found.items() for key, value in of_split.items()}


if __name__ == "__main__":
    typer.run(main)
