"""What each engine costs in accuracy: fine-tune, then predict in float32, in bfloat16, and exported to ONNX Runtime.

    pip install -c constraints.txt -e ".[benchmarks,export]"
    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/accuracy/exported.py ner/wikigold --encoder bert-base-cased

The data, the recipe and the scores are those of compare.py.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import compare
import hf_trainer
import spacy
import typer
from spacy.language import Language
from spacy.tokens import Doc

PRECISIONS = ("float32", "bfloat16")
EXPORTS: dict[str, list[str]] = {"ONNX": [], "ONNX int8": ["--int8"]}


def main(
    data: compare.Data,
    encoder: compare.Encoder,
    work: Annotated[Path, typer.Option(help="Folder for the pipelines; trained ones there are taken as they are.")],
    rate: compare.Rate = 2e-4,
    epochs: compare.Epochs = 5,
    batch_size: compare.BatchSize = 8,
    merge_sentences: compare.MergeSentences = 1,
    texts: compare.Texts = None,
    seeds: compare.Seeds = 3,
) -> None:
    """Print dev and test scores of every engine with every seed, and the differences from float32."""
    work.mkdir(parents=True, exist_ok=True)
    gold = compare.prepare(Path(os.environ["SPACY_BERTFT_DATA"]) / data, work, merge_sentences, texts)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        trained = work / f"seed-{seed}"
        if not trained.exists():
            compare.train(gold, hf_trainer.Recipe(encoder, rate, epochs, batch_size), seed, work).rename(trained)
        found = {engine: compare.annotate(nlp, gold) for engine, nlp in engines(trained, work).items()}
        for engine, predicted in found.items():
            row = {split: 100 * compare.score(gold[split], docs) for split, docs in predicted.items()}
            row["mean"] = statistics.mean(row.values())
            row["others"] = 100 * share_of_others(found[PRECISIONS[0]], predicted)
            rows.setdefault(engine, []).append(row)
            print(f"seed {seed}  {engine:10} " + "  ".join(f"{key} {row[key]:.2f}" for key in row), flush=True)
    for engine, of_engine in rows.items():
        lost = [{key: one[key] - two[key] for key in one}
                for one, two in zip(rows[PRECISIONS[0]], of_engine, strict=True)]  # fmt: skip
        print(
            f"{engine:10} lost: "
            + "  ".join(f"{key} {compare.spread(lost, key)}" for key in (*compare.SPLITS[1:], "mean"))
        )


def engines(trained: Path, work: Path) -> dict[str, Language]:
    """The pipeline in each engine."""
    found = {
        precision: spacy.load(trained, config={"components.encoder.model.precision": precision})
        for precision in PRECISIONS
    }
    for name, options in EXPORTS.items():
        out = work / name.replace(" ", "-")
        shutil.rmtree(out, ignore_errors=True)
        bertft = [sys.executable, "-c", "from spacy_bertft.cli import main; main()"]
        arguments = [trained, out, "--engine", "onnx", *options, "--dev", work / "dev.spacy", "--force"]
        subprocess.run([*bertft, "export", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
        found[name] = spacy.load(out)
    return found


def share_of_others(expected: dict[str, list[Doc]], found: dict[str, list[Doc]]) -> float:
    """The share of texts with other entities, or with another best category."""
    pairs = [pair for split in expected for pair in zip(expected[split], found[split], strict=True)]
    return sum(answer(one) != answer(two) for one, two in pairs) / len(pairs)


def answer(doc: Doc) -> object:
    """What a user takes from a Doc."""
    if doc.cats:
        return max(doc.cats, key=doc.cats.__getitem__)
    return [(ent.start, ent.end, ent.label_) for ent in doc.ents]


if __name__ == "__main__":
    typer.run(main)
