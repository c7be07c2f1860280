"""What export to ONNX Runtime, in float32 and int8, costs in accuracy: fine-tune, export, score all three.

    pip install -c constraints.txt -e ".[benchmarks,export]"
    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/accuracy/exported.py ner/wikigold --encoder bert-base-cased

The data, the recipe and the scores are those of compare.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import compare
import hf_trainer
import typer

ENGINES = {"onnx": [], "onnx int8": ["--int8"]}


def main(
    data: compare.Data,
    encoder: compare.Encoder,
    work: Annotated[Path, typer.Option(help="Folder for the pipelines; a trained one there is taken as it is.")],
    rate: compare.Rate = 2e-4,
    epochs: compare.Epochs = 5,
    batch_size: compare.BatchSize = 8,
    merge_sentences: compare.MergeSentences = 1,
) -> None:
    """Print dev and test scores of the trained pipeline and of what was exported from it."""
    work.mkdir(parents=True, exist_ok=True)
    gold = compare.prepare(Path(os.environ["SPACY_BERTFT_DATA"]) / data, work, merge_sentences)
    trained = work / "ours" / "model-last"
    if not trained.exists():
        compare.train(gold, hf_trainer.Recipe(encoder, rate, epochs, batch_size), 0, work)
    pipelines = {"torch": trained}
    for name, options in ENGINES.items():
        out = work / name.replace(" ", "-")
        bertft = [sys.executable, "-c", "from spacy_bertft.cli import main; main()"]
        dev = ["--dev", str(work / "dev.spacy")]
        subprocess.run([*bertft, "export", trained, out, "--engine", "onnx", *options, *dev, "--force"], check=True)
        pipelines[name] = out
    for name, pipeline in pipelines.items():
        predicted = compare.predict(pipeline, gold)
        scores = [f"{split} {100 * compare.score(gold[split], predicted[split]):.2f}" for split in predicted]
        print(f"{name:10} {'  '.join(scores)}")


if __name__ == "__main__":
    typer.run(main)
