"""What class weights, focal loss and label smoothing are worth: micro and macro F1 with each loss.

    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/accuracy/losses.py intent/clinc150 --encoder ENCODER --keep 0.05
    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/accuracy/losses.py multilabel/goemotions --encoder ENCODER

The same data, formats and recipe as compare.py, which says more. --keep makes classes imbalanced: of every second one,
in alphabetical order, only this share of the training texts is kept. Dev and test stay as they are.
"""

from __future__ import annotations

import json
import math
import os
import random
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import scores
import typer
from compare import (
    SPLITS,
    BatchSize,
    Data,
    Encoder,
    Epochs,
    Rate,
    Seeds,
    Texts,
    head_of,
    predict,
    prepare,
    spread,
    train,
)
from hf_trainer import Recipe
from spacy.tokens import Doc, DocBin

CROSS_ENTROPY, FOCAL = "spacy-bertft.CrossEntropy.v1", "spacy-bertft.FocalLoss.v1"
LOSSES: dict[str, dict[str, Any]] = {
    "cross-entropy": {"@losses": CROSS_ENTROPY},
    "balanced": {"@losses": CROSS_ENTROPY, "class_weights": "balanced"},
    "effective": {"@losses": CROSS_ENTROPY, "class_weights": "effective"},
    "focal": {"@losses": FOCAL},
    "smoothing": {"@losses": CROSS_ENTROPY, "label_smoothing": 0.1},
}
KEYS = [f"{split} {key}" for split in SPLITS[1:] for key in ("micro_f", "macro_f")]


def main(
    data: Data,
    encoder: Encoder,
    rate: Rate = 2e-4,
    epochs: Epochs = 4,
    batch_size: BatchSize = 32,
    texts: Texts = None,
    keep: Annotated[float, typer.Option(help="The share of every second class's training texts to keep.")] = 1.0,
    only: Annotated[list[str] | None, typer.Option(help=f"Some of: {', '.join(LOSSES)}. Else all.")] = None,
    seeds: Seeds = 3,
    output: Annotated[Path | None, typer.Option(help="JSON file for all figures.")] = None,
) -> None:
    """Train with each loss, and print a row per run, then means and standard deviations."""
    recipe = Recipe(encoder, rate, epochs, batch_size)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        gold = prepare(Path(os.environ["SPACY_BERTFT_DATA"]) / data, work, 1, texts)
        thin(gold, keep, work)
        for seed in range(seeds):
            for name in only or LOSSES:
                start = time.perf_counter()
                found = run(gold, recipe, LOSSES[name], seed, work)
                rows.append({"loss": name, "seed": seed, "seconds": round(time.perf_counter() - start), **found})
                values = "  ".join(f"{key} {100 * found[key]:.2f}" for key in KEYS)
                print(f"{name:14} seed {seed}  {values}", flush=True)
    for name in only or LOSSES:
        of_loss = [row for row in rows if row["loss"] == name]
        print(f"{name:14} mean    " + "  ".join(f"{key} {spread(of_loss, key)}" for key in KEYS))
    if output is not None:
        setup = {"data": data, "encoder": encoder, "rate": rate, "epochs": epochs, "batch_size": batch_size}
        setup.update(texts=len(gold["train"]), keep=keep)
        output.write_text(json.dumps({**setup, "runs": rows}, indent=1) + "\n", encoding="utf-8")


def run(
    gold: dict[str, list[Doc]],
    recipe: Recipe,
    loss: dict[str, Any],
    seed: int,
    work: Path,
    settings: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Train with a loss on the files in `work`; F1 scores on dev and test, by KEYS."""
    head = head_of(gold)
    predicted = predict(train(gold, recipe, seed, work, {f"components.{head}.loss": loss, **(settings or {})}), gold)
    found = {split: scores.of_categories(gold[split], predicted[split]) for split in predicted}
    return {f"{split} {key}": value for split, of_split in found.items() for key, value in of_split.items()}


def thin(gold: dict[str, list[Doc]], keep: float, work: Path) -> None:
    """Leave out training texts of every second class, except a share of them, and write the rest to `work`.

    At least one text of a class stays. The texts are drawn once, whatever the seed of the training.
    """
    if keep >= 1:
        return
    by_class: dict[str, list[Doc]] = defaultdict(list)
    for doc in gold["train"]:
        by_class[max(doc.cats, key=doc.cats.get)].append(doc)
    chance = random.Random(0)
    for name in sorted(by_class)[1::2]:
        by_class[name] = chance.sample(by_class[name], math.ceil(keep * len(by_class[name])))
    gold["train"] = [doc for name in sorted(by_class) for doc in by_class[name]]
    DocBin(docs=gold["train"], store_user_data=True).to_disk(work / "train.spacy")


if __name__ == "__main__":
    typer.run(main)
