"""What the pretraining of an encoder is worth: fine-tune it, and the same net with random weights, on some data sets.

    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/accuracy/pretrained.py ner/wikigold --encoder assets/encoder

The same recipe for both, but for the rate: of those given, each net takes the one with the best score on dev.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from compare import BatchSize, Encoder, Epochs, MergeSentences, predict, prepare, score, train_config
from hf_trainer import Recipe
from transformers import AutoConfig, AutoModel, AutoTokenizer

from spacy_bertft.encoder.loading import find_folder

SETTINGS: dict[str, dict[str, Any]] = {
    "ner": {"corpora.train.gold_preproc": True},
    "textcat": {"corpora.train.gold_preproc": True, "components.textcat.pooling": "mean"},
}


def main(
    data: Annotated[str, typer.Argument(help="Folder below SPACY_BERTFT_DATA: ner/…, textcat/… or intent/…")],
    encoder: Encoder,
    rates: Annotated[str, typer.Option(help="Highest learn rates to try, with commas between.")] = "2e-4,5e-4,1e-3",
    epochs: Epochs = 5,
    batch_size: BatchSize = 16,
    merge_sentences: MergeSentences = 1,
    seed: Annotated[int, typer.Option(help="Of the training, and of the random weights.")] = 0,
    output: Annotated[Path | None, typer.Option(help="JSON file for all figures.")] = None,
) -> None:
    """Print dev and test scores of both nets."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        save_random(encoder, work / "random", seed)
        gold = prepare(Path(os.environ["SPACY_BERTFT_DATA"]) / data, work, merge_sentences)
        head = "textcat" if gold["train"][0].cats else "ner"
        paths = {split: str(work / f"{split}.spacy") for split in ("train", "dev")}
        for net, folder in (("random weights", str(work / "random")), ("pretrained", encoder)):
            tried = []
            for rate in map(float, rates.split(",")):
                start = time.perf_counter()
                recipe = Recipe(folder, rate, epochs, batch_size)
                pipeline = train_config(head, paths, len(gold["train"]), recipe, seed, work, SETTINGS[head])
                scores = {split: score(gold[split], docs) for split, docs in predict(pipeline, gold).items()}
                seconds = round(time.perf_counter() - start)
                tried.append({"net": net, "rate": rate, "seconds": seconds, **scores})
                print(f"{net:14} rate {rate:.0e}  dev {scores['dev']:.4f}  {seconds} s", flush=True)
            best = max(tried, key=lambda row: row["dev"])
            print(f"{net:14} dev {best['dev']:.4f}  test {best['test']:.4f}", flush=True)
            rows += tried
    if output is not None:
        setup = {"data": data, "epochs": epochs, "batch_size": batch_size, "merge_sentences": merge_sentences}
        output.write_text(json.dumps({**setup, "seed": seed, "runs": rows}, indent=1) + "\n", encoding="utf-8")


def save_random(encoder: str, folder: Path, seed: int) -> None:
    """The same net with its tokenizer and random weights."""
    source = str(find_folder(encoder) or encoder)
    torch.manual_seed(seed)
    AutoModel.from_config(AutoConfig.from_pretrained(source)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


if __name__ == "__main__":
    typer.run(main)
