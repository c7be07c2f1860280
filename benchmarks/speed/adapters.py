"""What n tasks cost with n adapters on one encoder, and with n encoders: disk, memory, speed.

    python benchmarks/speed/adapters.py --encoder PACKAGE/FOLDER_OR_FOLDER --work FOLDER

Each task is a category head on an encoder with LoRA in all linear maps, trained for a few steps: their number changes
nothing here. Each pipeline is loaded in a process of its own, which then runs on texts of 16 words; rounds
alternate, and the medians of their times are compared.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import spacy
import typer
from memory_worker import resident
from run import find_encoder
from spacy.training import Example

TEXTS = [
    f"{start} " + "the meeting of the new office was moved to the old garden near the river " for start in range(512)
]


def main(
    encoder: Annotated[str, typer.Option(help="Folder, or package/folder of an installed package.")],
    work: Annotated[Path, typer.Option(help="Folder for the pipelines; made anew.")],
    tasks: Annotated[int, typer.Option(help="The largest number of tasks.")] = 4,
    rounds: Annotated[int, typer.Option(help="Processes per pipeline.")] = 3,
) -> None:
    """Train, save, and print a row for each pipeline."""
    find_encoder(encoder)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    numbers = [1, 2, tasks] if tasks > 2 else list(range(1, tasks + 1))
    pipelines = {(save, n): work / f"{save}-{n}" for n in numbers for save in ("merged", "adapter")}
    for (save, n), folder in pipelines.items():
        train(encoder, save, n).to_disk(folder)
    found: dict[tuple[str, int], list[dict[str, float]]] = {key: [] for key in pipelines}
    for _ in range(rounds):
        for key, folder in pipelines.items():
            command = [sys.executable, __file__, "--job", str(folder)]
            answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
            found[key].append(json.loads(answer.splitlines()[-1]))
    print(f"{'':12}{'tasks':>6}{'disk, MB':>10}{'memory, MiB':>13}{'texts a second':>16}")
    for (save, n), rows in found.items():
        disk = sum(path.stat().st_size for path in pipelines[save, n].rglob("*") if path.is_file()) / 1e6
        memory, speed = (statistics.median(row[key] for row in rows) for key in ("memory", "speed"))
        print(f"{save:12}{n:6}{disk:10.1f}{memory:13,.0f}{speed:16,.1f}")


def train(encoder: str, save: str, n_tasks: int) -> spacy.language.Language:
    """A pipeline of some tasks, each with an encoder component of its own."""
    nlp = spacy.blank("en")
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": encoder, "device": "cpu"}
    for task in range(n_tasks):
        tuning = {"@misc": "spacy-bertft.LoraTuning.v1", "save": save}
        nlp.add_pipe("bertft_encoder", name=f"encoder{task}", config={"model": model, "tuning": tuning})
        nlp.add_pipe("bertft_textcat", name=f"task{task}", config={"encoder": f"encoder{task}"})
    examples = [
        Example.from_dict(nlp.make_doc(text), {"cats": {"even": float(place % 2), "odd": float(1 - place % 2)}})
        for place, text in enumerate(TEXTS[:8])
    ]
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 1e-4
    for _ in range(3):
        nlp.update(examples, sgd=optimizer)
    return nlp


def run(folder: str) -> dict[str, float]:
    """Load a pipeline, and run it."""
    nlp = spacy.load(folder)
    list(nlp.pipe(TEXTS[:64]))
    docs = [nlp.make_doc(text) for text in TEXTS]
    start = time.perf_counter()
    list(nlp.pipe(docs))
    seconds = time.perf_counter() - start
    return {"memory": resident(), "speed": len(docs) / seconds}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        print(json.dumps(run(sys.argv[2])))
    else:
        typer.run(main)
