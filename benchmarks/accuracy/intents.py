"""Intents that may be none of the known ones: bertft_textcat with unknown_label beside plain softmax thresholds.

    pip install -c constraints.txt -e ".[benchmarks]"
    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/accuracy/intents.py intent/clinc150 --encoder bert-base-cased

The data folder holds intent/<name>/{train,dev,test}.jsonl ({"text", "label"}), where one label means out of scope. Same
encoder, texts and recipe for all. Every threshold is the one that is best on dev, by the mean of in-scope accuracy and
out-of-scope recall; a text of which the best score is below it counts as out of scope.

    unknown_label          `spacy train` with unknown_label, then `bertft calibrate`
    the same, softmax      the same net with a threshold on its softmax
    softmax, no examples   `spacy train` without any text out of scope, threshold on the softmax
    HF, softmax            the Trainer without any text out of scope, threshold on the softmax
    HF, one more class     the Trainer with out of scope as a class like the others, no threshold
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import hf_trainer
import numpy as np
import spacy
import typer
from compare import SPLITS, BatchSize, Encoder, Epochs, Rate, bare, train_config
from spacy.tokens import Doc

from spacy_bertft.convert import convert
from spacy_bertft.jobs.calibrate import calibrate
from spacy_bertft.tasks.calibration import fit_threshold


@dataclass(frozen=True)
class Scored:
    """What one system says of one set of texts."""

    right: np.ndarray[Any, Any]  # (B,) whether the best known category is the true one
    known: np.ndarray[Any, Any]  # (B,) whether the text is in scope
    confidence: np.ndarray[Any, Any]  # (B,) how sure it is that the text is in scope
    kept: np.ndarray[Any, Any] | None = None  # (B,) whether it says so; None: a threshold decides


def main(
    data: Annotated[str, typer.Argument(help="Folder below SPACY_BERTFT_DATA: intent/…")],
    encoder: Encoder,
    unknown: Annotated[str, typer.Option(help="The label that means out of scope.")] = "oos",
    rate: Rate = 2e-4,
    epochs: Epochs = 3,
    batch_size: BatchSize = 32,
    seed: Annotated[int, typer.Option(help="Seed of all.")] = 0,
    output: Annotated[Path | None, typer.Option(help="JSON file for all figures.")] = None,
) -> None:
    """Print in-scope accuracy, out-of-scope recall, the accuracy over all and AUROC on test."""
    folder = Path(os.environ["SPACY_BERTFT_DATA"]) / data
    recipe = hf_trainer.Recipe(encoder, rate, epochs, batch_size)
    rows = []

    def show(name: str, dev: Scored, test: Scored) -> None:
        threshold = _threshold(dev)
        kept = test.confidence >= threshold if test.kept is None else test.kept
        row = {
            "system": name,
            "in_scope_accuracy": 100 * float((test.right & kept)[test.known].mean()),
            "out_of_scope_recall": 100 * float((~kept)[~test.known].mean()),
            "accuracy": 100 * float(np.where(test.known, test.right & kept, ~kept).mean()),
            "auroc": 100 * _auroc(test),
            "in_scope_accuracy_without_threshold": 100 * float(test.right[test.known].mean()),
        }
        rows.append(row)
        print(
            "  ".join(f"{value:6.2f}" if isinstance(value, float) else f"{value:22}" for value in row.values()),
            flush=True,
        )

    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        gold = _convert([folder / f"{split}.jsonl" for split in SPLITS], work)
        with_unknown = _train(work, gold, recipe, seed, {"components.textcat.unknown_label": unknown})
        calibrate(with_unknown, work / "dev.spacy")
        ours = {split: _predict(with_unknown, gold[split]) for split in SPLITS[1:]}
        show("unknown_label", *(_scored(gold[split], ours[split], unknown, how="kept") for split in SPLITS[1:]))
        show("the same, softmax", *(_scored(gold[split], ours[split], unknown, how="softmax") for split in SPLITS[1:]))

        known = work / "known"
        known.mkdir()
        train = [
            line for line in (folder / "train.jsonl").open(encoding="utf-8") if json.loads(line)["label"] != unknown
        ]
        (known / "train.jsonl").write_text("".join(train), encoding="utf-8")
        gold_known = {**gold, **_convert([known / "train.jsonl"], known)}
        plain = _train(known, gold_known, recipe, seed, {"paths.dev": str(known / "train.spacy")})
        found = {split: _predict(plain, gold[split]) for split in SPLITS[1:]}
        show(
            "softmax, no examples",
            *(_scored(gold[split], found[split], unknown, how="softmax") for split in SPLITS[1:]),
        )

        others = {split: gold[split] for split in SPLITS[1:]}
        hf = hf_trainer.run(gold_known["train"], others, recipe, seed, work / "hf")
        show("HF, softmax", *(_scored(gold[split], hf[split], unknown, how="logits") for split in SPLITS[1:]))
        hf = hf_trainer.run(gold["train"], others, recipe, seed, work / "hf2")
        show("HF, one more class", *(_scored(gold[split], hf[split], unknown, how="class") for split in SPLITS[1:]))
    if output is not None:
        output.write_text(json.dumps({"data": data, **asdict(recipe), "seed": seed, "runs": rows}, indent=1) + "\n")


def _convert(files: list[Path], work: Path) -> dict[str, list[Doc]]:
    convert(files, work)
    vocab = spacy.blank("en").vocab
    return {
        file.stem: list(spacy.tokens.DocBin().from_disk(work / f"{file.stem}.spacy").get_docs(vocab)) for file in files
    }


def _train(
    work: Path, gold: dict[str, list[Doc]], recipe: hf_trainer.Recipe, seed: int, settings: dict[str, Any]
) -> Path:
    paths = {split: str(work / f"{split}.spacy") for split in ("train", "dev")}
    return train_config("textcat", paths, len(gold["train"]), recipe, seed, work, settings)


def _predict(pipeline: Path, gold: list[Doc]) -> list[Doc]:
    return list(spacy.load(pipeline).pipe(map(bare, gold)))


def _scored(gold: list[Doc], found: list[Doc], unknown: str, *, how: str) -> Scored:
    labels = sorted(found[0].cats)
    scores = np.array([[doc.cats[label] for label in labels] for doc in found])
    if how in ("logits", "class"):  # of the Trainer
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    of_unknown = scores[:, [label == unknown for label in labels]].sum(axis=1)
    scores = scores[:, [label != unknown for label in labels]]
    known_labels = [label for label in labels if label != unknown]
    true = [max(doc.cats, key=lambda label: doc.cats[label]) for doc in gold]
    right = np.array([known_labels[place] == label for place, label in zip(scores.argmax(axis=1), true, strict=True)])
    known = np.array([label != unknown for label in true])
    best = scores.max(axis=1)
    if how in ("kept", "class"):
        return Scored(right, known, -of_unknown, best > of_unknown)
    return Scored(right, known, best / scores.sum(axis=1))


def _threshold(dev: Scored) -> float:
    return fit_threshold(
        dev.confidence[dev.known & dev.right], dev.confidence[~dev.known], n_known=int(dev.known.sum())
    )


def _auroc(scored: Scored) -> float:
    """How often a text in scope is surer than one out of scope."""
    ranks = np.argsort(np.argsort(scored.confidence)) + 1
    n_known = int(scored.known.sum())
    n_unknown = len(scored.known) - n_known
    return float((ranks[scored.known].sum() - n_known * (n_known + 1) / 2) / (n_known * n_unknown))


if __name__ == "__main__":
    typer.run(main)
