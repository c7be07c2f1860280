"""What distillation keeps of a teacher's score: teacher, small encoder by plain fine-tuning, and distilled student.

    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/accuracy/distillation.py ner/snips_slots --encoder ENCODER

The teacher and the plain student are trained on some annotated texts with the config that `bertft init` chooses; the
student by `bertft distill` on the same texts and on others without annotation. Plain and distilled student have as many
layers of the encoder: of the pretrained one, and of the teacher's. Data and formats are those of compare.py.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from compare import Data, Encoder, Seeds, bare, head_of, predict, prepare, score, spread
from spacy.tokens import Doc, DocBin
from spacy.util import load_config

from spacy_bertft.components.distill_settings import DistillSettings
from spacy_bertft.encoder.loading import load
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.jobs.distill.distill import Student, distill
from spacy_bertft.jobs.recipes.init import init
from spacy_bertft.jobs.shrink.checkpoints import n_layers, with_layers
from spacy_bertft.jobs.shrink.choice import Plan, choose_layers
from spacy_bertft.jobs.training.train import train

TASKS = {"ner": "ner", "textcat": "textcat", "textcat_multilabel": "multilabel", "pair": "pair"}
SYSTEMS = ("teacher", "plain", "distilled")


def main(
    data: Data,
    encoder: Encoder,
    layers: Annotated[int, typer.Option(help="Of the students.")] = 3,
    texts: Annotated[int, typer.Option(help="Annotated texts, drawn once.")] = 600,
    unlabelled: Annotated[int, typer.Option(help="Others of the training texts, without their annotation.")] = 5000,
    weight: Annotated[float, typer.Option(help="Share of the loss on the teacher's outputs.")] = DistillSettings.weight,
    temperature: Annotated[float, typer.Option(help="Divisor of all logits.")] = DistillSettings.temperature,
    dev_texts: Annotated[int | None, typer.Option(help="Development texts, drawn once.")] = None,
    seeds: Seeds = 2,
    output: Annotated[Path | None, typer.Option(help="JSON file for all figures.")] = None,
) -> None:
    """Train all three for each seed, and print dev and test scores."""
    method = DistillSettings(weight, temperature)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        gold = prepare(Path(os.environ["SPACY_BERTFT_DATA"]) / data, work, 1, dev=dev_texts)
        chosen = random.Random(0).sample(gold["train"], texts + unlabelled)
        write(work / "train.spacy", chosen[:texts])
        write(work / "rest.spacy", [bare(doc) for doc in chosen[texts:]])
        small = cut(encoder, layers, work / "small")
        for seed in range(seeds):
            ways: dict[str, Callable[[], Path]] = {
                "teacher": lambda seed=seed: plain(gold, encoder, work, "teacher", seed),
                "plain": lambda seed=seed: plain(gold, small, work, "plain", seed),
                "distilled": lambda seed=seed: distilled(work, layers, method, seed),
            }
            for name, way in ways.items():
                start = time.perf_counter()
                predicted = predict(way(), gold)
                found = {split: score(gold[split], predicted[split]) for split in predicted}
                rows.append({"system": name, "seed": seed, "seconds": round(time.perf_counter() - start), **found})
                print(f"{name:10} seed {seed}  dev {found['dev']:.4f}  test {found['test']:.4f}", flush=True)
    for name in SYSTEMS:
        of_system = [row for row in rows if row["system"] == name]
        print(f"{name:10} mean    dev {spread(of_system, 'dev')}  test {spread(of_system, 'test')}")
    if output is not None:
        setup = {"data": data, "encoder": encoder, "layers": layers, "texts": texts, "unlabelled": unlabelled}
        output.write_text(json.dumps({**setup, "runs": rows}, indent=1) + "\n", encoding="utf-8")


def write(path: Path, docs: list[Doc]) -> None:
    DocBin(docs=docs, store_user_data=True).to_disk(path)


def cut(encoder: str, layers: int, folder: Path) -> str:
    """The folder of an encoder's evenly spaced layers."""
    checkpoint = load(encoder, EncoderSettings(device="cpu")).at_rest()
    with_layers(checkpoint, choose_layers(n_layers(checkpoint) or 0, Plan(layers=layers))).write(folder)
    return str(folder)


def plain(gold: dict[str, list[Doc]], encoder: str, work: Path, name: str, seed: int) -> Path:
    """Fine-tune an encoder on the annotated texts; the best pipeline."""
    config, paths = work / f"{name}.cfg", {"train": work / "train.spacy", "dev": work / "dev.spacy"}
    init(TASKS[head_of(gold)], config, encoder=encoder, force=True, **paths)
    train(load_config(config, overrides={"system.seed": seed}), work / name, checkpoint_minutes=None)
    return work / name / "model-best"


def distilled(work: Path, layers: int, method: DistillSettings, seed: int) -> Path:
    """Distil the teacher that `plain` has left in `work`; the best pipeline."""
    distill(
        [work / "teacher/model-best"],
        work / "student",
        Student(layers=layers),
        train=work / "train.spacy",
        dev=work / "dev.spacy",
        unlabelled=[work / "rest.spacy"],
        method=method,
        overrides={"system.seed": seed},
        overwrite=True,
    )
    return work / "student/model-best"


if __name__ == "__main__":
    typer.run(main)
