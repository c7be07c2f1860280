"""What torch.compile gains for prediction on a CPU, beside the forward of our own. It needs a C++ compiler.

    pip install -c constraints.txt -e .
    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/speed/compiled.py --encoder PACKAGE/FOLDER_OR_FOLDER

The same batches for all, sorted by length: transformers' model (padded), the same one compiled for any shape, and the
engine that the pipeline would take (packed). Encoder alone; runs alternate; medians of the ratios of each round.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from environments import find_encoder
from texts import short_pool
from transformers import AutoModel

from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.loading import load_folder
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.text.batches import pad

BUDGET = 2048  # subwords in a batch
SENTENCES = 300
TOGETHER = 9  # neighbouring sentences in a longer text


@torch.no_grad()
def main(
    encoder: Annotated[str, typer.Option(help="Folder, or package/folder of an installed package.")],
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 5,
) -> None:
    """Print how many times as fast as transformers' model each is, and the seconds that compiling takes."""
    folder = find_encoder(encoder)
    ours = load_folder(folder, EncoderSettings(device="cpu")).eval()
    plain = AutoModel.from_pretrained(folder).eval()
    compiled = torch.compile(AutoModel.from_pretrained(folder).eval(), dynamic=True)
    sentences = short_pool(Path(os.environ["SPACY_BERTFT_DATA"]), "wikigold")[:SENTENCES]
    runs = [" ".join(sentences[start : start + TOGETHER]) for start in range(0, SENTENCES, TOGETHER)]
    for name, texts in (("short", sentences), ("mixed", sentences[: SENTENCES // 3] + runs)):
        measure(name, forwards(ours, texts, plain, compiled), rounds)


def forwards(
    ours: Encoder, texts: list[str], plain: torch.nn.Module, compiled: Callable[..., object]
) -> dict[str, Callable[[], object]]:
    """What runs over all texts, by name."""
    batches = ours.batches(texts, budget=BUDGET)
    padded = []
    for packed in batches:
        mask, ids = pad(packed.ids, packed.lengths, 0)
        padded.append({"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask).long()})
    engine = ours.engine()
    return {
        "transformers": lambda: [plain(**batch) for batch in padded],
        "compiled": lambda: [compiled(**batch) for batch in padded],
        "spacy-bertft": lambda: [engine(packed) for packed in batches],
    }


def measure(name: str, subjects: dict[str, Callable[[], object]], rounds: int) -> None:
    """Print the ratios for one set of texts."""
    first = {subject: seconds(run) for subject, run in subjects.items()}
    times: dict[str, list[float]] = {subject: [] for subject in subjects}
    for _ in range(rounds):
        for subject, run in subjects.items():
            times[subject].append(seconds(run))
    ratios = {
        subject: statistics.median(base / own for base, own in zip(times["transformers"], of_subject, strict=True))
        for subject, of_subject in times.items()
    }
    shown = "  ".join(f"{subject} {ratio:.2f}" for subject, ratio in ratios.items())
    print(f"{name:6} {shown}  first compiled run {first['compiled']:.0f} s", flush=True)


def seconds(run: Callable[[], object]) -> float:
    """How long one run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
