"""Encoders beside each other: each is fine-tuned by the same recipes on the same texts, with several seeds.

    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/accuracy/encoders.py assets/encoder OTHER --seeds 3

The configs are those of configs/, with the recipes below, and the last weights count. The main job trains as it does in
project.yml. A row is written when its run is done; rows that are in the output already aren't run again.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import spacy
import srsly
import typer
from compare import ROOT, SPLITS, Seeds, predict, prepare, score, spread, train
from hf_trainer import Recipe
from recipes import read_rows
from spacy.cli.train import train as spacy_train
from spacy.tokens import Doc
from spacy.training import Corpus

from spacy_bertft.convert import convert

SUPPORT = "support"  # the main job
UNKNOWN = "oos"  # CLINC150's label for texts outside its intents


@dataclass(frozen=True)
class Plan:
    """How to train on one data set."""

    rate: float
    epochs: int
    batch_size: int
    merge_sentences: int = 1
    texts: int | None = None


PLANS = {
    "ner/wikigold": Plan(3e-4, 6, 2, merge_sentences=4),
    "ner/bc5cdr": Plan(3e-4, 3, 16),
    "textcat/sentence_polarity": Plan(3e-4, 3, 16),
    "textcat/sms_spam": Plan(3e-4, 2, 16, texts=2000),
    "intent/clinc150": Plan(3e-4, 4, 32),
}


def main(
    encoders: Annotated[list[str], typer.Argument(help="Names or folders of the encoders.")],
    data: Annotated[list[str] | None, typer.Option(help="One of the data sets, or support; all if left out.")] = None,
    seeds: Seeds = 3,
    output: Annotated[Path, typer.Option(help="A JSON line for each run.")] = Path("encoders.jsonl"),
) -> None:
    """Run what is missing, then print mean test scores of each encoder on each data set."""
    chosen = data or [SUPPORT, *PLANS]
    for seed in range(seeds):
        for name in chosen:
            for encoder in encoders:
                setup = {"data": name, "encoder": encoder, "seed": seed}
                if any(setup.items() <= row.items() for row in read_rows(output)):
                    continue
                start = time.perf_counter()
                with tempfile.TemporaryDirectory() as work:
                    found = support(encoder, seed, Path(work)) if name == SUPPORT else run(name, encoder, seed, work)
                row = {**setup, "seconds": round(time.perf_counter() - start), **found}
                print(row, flush=True)
                with output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    _show(read_rows(output), chosen, encoders)


def run(name: str, encoder: str, seed: int, work: str) -> dict[str, float]:
    """Fine-tune on one data set; scores on dev and test."""
    plan = PLANS[name]
    gold = prepare(Path(os.environ["SPACY_BERTFT_DATA"]) / name, Path(work), plan.merge_sentences, plan.texts)
    recipe = Recipe(encoder, plan.rate, plan.epochs, plan.batch_size)
    predicted = predict(train(gold, recipe, seed, Path(work)), gold)
    found = {split: score(gold[split], docs) for split, docs in predicted.items()}
    if UNKNOWN in gold["test"][0].cats:
        found["in scope"] = _in_scope(gold["test"], predicted["test"])
    return found


def _in_scope(gold: list[Doc], predicted: list[Doc]) -> float:
    """Accuracy on the texts that have an intent."""
    pairs = [pair for pair in zip(gold, predicted, strict=True) if not pair[0].cats[UNKNOWN]]
    return score([one for one, _ in pairs], [two for _, two in pairs])


def support(encoder: str, seed: int, work: Path) -> dict[str, float]:
    """The main job: entities and categories of the sample messages; the best weights on dev, as in the project."""
    variables = srsly.read_yaml(ROOT / "project.yml")["vars"]
    convert([ROOT / f"assets/support/{split}.jsonl" for split in SPLITS], work, label_key="category")
    overrides = {
        **{f"paths.{split}": str(work / f"{split}.spacy") for split in SPLITS[:2]},
        "components.encoder.model.name": encoder,
        "training.optimizer.learn_rate.initial_rate": float(variables["rate"]),
        "training.max_steps": variables["steps"],
        "training.max_epochs": 0,
        "system.seed": seed,
    }
    spacy_train(ROOT / f"configs/{variables['config']}.cfg", work / "out", overrides=overrides)
    nlp = spacy.load(work / "out/model-best")
    scores = nlp.evaluate(list(Corpus(work / "test.spacy")(nlp)))
    return {"entities": scores["ents_f"], "categories": scores["cats_macro_f"]}


def _show(rows: list[dict[str, Any]], data: list[str], encoders: list[str]) -> None:
    for name in data:
        print(name)
        for encoder in encoders:
            found = [row for row in rows if (row["data"], row["encoder"]) == (name, encoder)]
            keys = [key for key in found[0] if key not in ("data", "encoder", "seed", "seconds")] if found else []
            print(f"    {encoder}: " + "  ".join(f"{key} {spread(found, key)}" for key in keys))


if __name__ == "__main__":
    typer.run(main)
