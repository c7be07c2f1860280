"""What each tuning of the encoder costs and gains: scores, seconds an epoch, peak memory, bytes on disk.

    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/accuracy/tunings.py ner/wikigold --encoder bert-base-cased

The same data, formats and recipe as compare.py, which says more. Each run has a process of its own, one after another.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import hf_trainer
import spacy
import typer
from compare import (
    BatchSize,
    Data,
    Encoder,
    Epochs,
    MergeSentences,
    Rate,
    Seeds,
    Texts,
    predict,
    prepare,
    score,
    train,
)
from spacy.util import registry

TUNINGS: dict[str, dict[str, Any]] = {
    "full": {"@misc": "spacy-bertft.FullTuning.v1"},
    "full, layer decay 0.8": {"@misc": "spacy-bertft.FullTuning.v1", "layer_decay": 0.8},
    "gradual, a layer an epoch": {"@misc": "spacy-bertft.GradualTuning.v1", "every": 1, "unit": "epochs"},
    "top 3 layers": {"@misc": "spacy-bertft.TopLayersTuning.v1", "layers": 3},
    "LoRA": {"@misc": "spacy-bertft.LoraTuning.v1"},
    "frozen": {"@misc": "spacy-bertft.FrozenTuning.v1"},
    "frozen, no cache": {"@misc": "spacy-bertft.FrozenTuning.v1", "cache_mb": 0},
}


def main(
    data: Data,
    encoder: Encoder,
    rate: Rate = 2e-4,
    epochs: Epochs = 5,
    batch_size: BatchSize = 8,
    merge_sentences: MergeSentences = 1,
    texts: Texts = None,
    lora_factor: Annotated[float | None, typer.Option(help="rate_factor of LoRA; else its default.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Names of tunings; all if left out.")] = None,
    seeds: Seeds = 1,
    head_factor: Annotated[float | None, typer.Option(help="learn_rate_factor of the head; else its default.")] = None,
    output: Annotated[Path | None, typer.Option(help="JSON file for all figures.")] = None,
) -> None:
    """Train with each tuning and print a row per run."""
    rows = []
    print(f"{'':28}{'dev':>7}{'test':>7}{'epoch 1, s':>12}{'later, s':>10}{'peak, MiB':>11}{'disk, MB':>10}")
    for seed in range(seeds):
        for name in only or TUNINGS:
            tuning = TUNINGS[name]
            if name == "LoRA" and lora_factor is not None:
                tuning = {**tuning, "rate_factor": lora_factor}
            job = {
                "data": data,
                "recipe": [encoder, rate, epochs, batch_size],
                "merge_sentences": merge_sentences,
                "texts": texts,
                "tuning": tuning,
                "seed": seed,
                "head_factor": head_factor,
            }
            command = [sys.executable, __file__, "--job", json.dumps(job)]
            answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()[-1]
            row = {"tuning": name, "seed": seed, **json.loads(answer)}
            rows.append(row)
            print(
                f"{name:28}{100 * row['dev']:7.1f}{100 * row['test']:7.1f}{row['first']:12.1f}{row['later']:10.1f}"
                f"{row['peak']:11,.0f}{row['disk']:10.1f}",
                flush=True,
            )
    if output is not None:
        output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def run(job: dict[str, Any]) -> dict[str, float]:
    """One training."""
    recipe = hf_trainer.Recipe(*job["recipe"])
    ticks: list[float] = []  # at each step
    registry.loggers("tunings.ticks.v1", func=lambda: lambda nlp, stdout, stderr: (tick, lambda: None))

    def tick(info: dict[str, Any] | None) -> None:
        ticks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        gold = prepare(Path(os.environ["SPACY_BERTFT_DATA"]) / job["data"], work, job["merge_sentences"], job["texts"])
        steps = -(-len(gold["train"]) // recipe.batch_size)  # an epoch
        settings: dict[str, Any] = {"training.logger": {"@loggers": "tunings.ticks.v1"}}
        settings["components.encoder.tuning"] = job["tuning"]
        settings["training.eval_frequency"] = steps
        if job["head_factor"] is not None:
            head = "textcat" if gold["train"][0].cats else "ner"
            settings[f"components.{head}.learn_rate_factor"] = job["head_factor"]
        registry.callbacks("tunings.start.v1", func=lambda: lambda nlp: ticks.append(time.perf_counter()) or nlp)
        settings["initialize.after_init"] = {"@callbacks": "tunings.start.v1"}
        path = train(gold, recipe, job["seed"], work, settings)
        # The start, then a tick for each step; dev is scored after the first step of each epoch.
        seconds = [after - before for before, after in pairwise(ticks[::steps])]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        predicted = predict(path, gold)
        disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
        return {
            **{split: score(gold[split], predicted[split]) for split in predicted},
            "first": seconds[0],
            "later": sum(seconds[1:]) / max(1, len(seconds) - 1),
            "peak": peak,
            "disk": disk,
        }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        spacy.util.logger.setLevel("ERROR")
        print(json.dumps(run(json.loads(sys.argv[2]))))
    else:
        typer.run(main)
