"""Training speed and scores beside the Hugging Face Trainer and spacy-transformers, in one command.

    python benchmarks/training/run.py --encoder FOLDER_OR_PACKAGE/FOLDER --data ner/wnut17 --data textcat/sms_spam

Makes the environments it needs in the work folder the first time, then trains in rounds: one run of each side in a
process of its own, beginning with another one in each round. README.md says what is equal and what is measured. It
needs Python 3.10 or later with pip, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "speed"))

from environments import StepError, find_encoder, interpreter, last_line  # noqa: E402
from subjects import ENVIRONMENTS, PEER, Environment  # noqa: E402

OURS = "training"
NEEDED = (
    Environment(OURS, (("torch==2.13.0",), ("-c", "constraints.txt", "-e", ".[benchmarks]"))),
    next(environment for environment in ENVIRONMENTS if environment.name == PEER),
)


@dataclass(frozen=True)
class Side:
    """One way to train."""

    name: str
    kind: str  # of worker.KINDS
    by_length: bool = False  # whether texts of similar length share a batch
    bfloat16: bool = False
    beside: str | None = None  # the side whose seconds its own are compared with
    environment: str = OURS


SIDES = (
    Side("spacy-bertft", "ours"),
    Side("Trainer", "trainer", beside="spacy-bertft"),
    Side("spacy-transformers", "peer", beside="spacy-bertft", environment=PEER),
    Side("spacy-bertft, by length", "ours", by_length=True),
    Side("Trainer, by length", "trainer", by_length=True, beside="spacy-bertft, by length"),
    Side("spacy-bertft, bfloat16", "ours", by_length=True, bfloat16=True),
    Side("Trainer, bfloat16", "trainer", by_length=True, bfloat16=True, beside="spacy-bertft, bfloat16"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments, and measure on each data set."""
    options = _parser().parse_args(arguments)
    encoder = find_encoder(options.encoder)
    folder = options.data_folder or os.environ.get("SPACY_BERTFT_DATA")
    if folder is None:
        raise SystemExit("No folder of data: expected SPACY_BERTFT_DATA or --data-folder. Set one of them.")
    named = dict(pair.split("=", 1) for pair in options.env)
    sides = [side for side in SIDES if not options.only or side.name in options.only]
    pythons = {OURS: Path(named[OURS]) if OURS in named else interpreter(NEEDED[0], options.work / "environments")}
    for environment in NEEDED[1:]:
        if any(side.environment == environment.name for side in sides):
            try:
                given = named.get(environment.name)
                pythons[environment.name] = (
                    Path(given) if given else interpreter(environment, options.work / "environments")
                )
            except StepError as error:
                print(f"{environment.name} is left out; pip could not install it: {error}", flush=True)
    bench = Bench(pythons, options.threads, options.work / "logs")
    every = {}
    for data in options.data:
        with tempfile.TemporaryDirectory() as work:
            prepared = Path(work) / "data"
            source = str(Path(folder, data).absolute())
            about = bench.run(OURS, "prepare", {"source": source, "output": str(prepared), "texts": options.texts})
            job = {
                "data": str(prepared),
                "encoder": str(encoder),
                **about,
                "steps": -(-about["texts"] // options.batch_size) * options.epochs,
                **{key: getattr(options, key) for key in ("epochs", "batch_size", "rate", "threads")},
            }
            print(f"\n{data}: {about['texts']} texts, {job['steps']} steps", flush=True)
            rows = measure(bench, [side for side in sides if side.environment in pythons], job, options.rounds, work)
        print(*report(rows), sep="\n", flush=True)
        every[data] = {**about, "steps": job["steps"], "runs": rows}
    if options.output is not None:
        keys = ("epochs", "batch_size", "rate", "threads", "rounds")
        setup = {"encoder": "/".join(encoder.parts[-2:]), **{key: getattr(options, key) for key in keys}}
        options.output.write_text(json.dumps({**setup, "data": every}, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--encoder", required=True, help="folder of an encoder, or package/folder of an installed package")
    add("--data", action="append", required=True, help="folder below the data folder: ner/… or textcat/…; repeatable")
    add("--data-folder", type=Path, help="folder of data (default: SPACY_BERTFT_DATA)")
    add("--texts", type=int, help="train on so many of the training texts, drawn once (default: all)")
    add("--epochs", type=int, default=3)
    add("--batch-size", type=int, default=16, help="texts in a batch (default: 16)")
    add("--rate", type=float, default=1e-4, help="highest learning rate (default: 1e-4)")
    add("--rounds", type=int, default=3, help="runs of each side; the seed is the number of the round (default: 3)")
    add("--threads", type=int, default=os.cpu_count(), help="threads of PyTorch (default: one a core)")
    add("--only", action="append", choices=[side.name for side in SIDES], help="a side; may be repeated (default: all)")
    add("--work", type=Path, default=HERE / ".work", help="folder for environments and logs, kept for next time")
    add("--output", type=Path, help="JSON file for all figures")
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help=f"use this interpreter for {' or '.join(one.name for one in NEEDED)}; may be repeated",
    )
    return parser


@dataclass(frozen=True)
class Bench:
    """Where jobs run: the interpreter of each environment, threads, and the folder of the logs."""

    pythons: dict[str, Path]
    threads: int
    logs: Path

    def run(self, environment: str, kind: str, job: dict[str, Any]) -> dict[str, Any]:
        """Run a job of worker.py, and return what it found. Raises SystemExit if it fails."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{kind}.log"
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(self.threads))
        with log.open("w", encoding="utf-8") as errors:
            worker = subprocess.run(
                [self.pythons[environment], HERE / "worker.py", kind, json.dumps(job)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **threads, "CUDA_VISIBLE_DEVICES": ""},
            )
        if worker.returncode:
            raise SystemExit(
                f"The job {kind!r} failed: {last_line(log)} Expected it to end without an error. Read {log}."
            )
        found: dict[str, Any] = json.loads(worker.stdout.splitlines()[-1])
        return found


def measure(bench: Bench, sides: Sequence[Side], job: dict[str, Any], rounds: int, work: str) -> list[dict[str, Any]]:
    """A row for each run."""
    rows = []
    print(f"{'':24}{'round':>6}{'dev':>7}{'test':>7}{'seconds':>9}{'peak, MiB':>11}")
    for number in range(rounds):
        first = number % len(sides)
        for side in (*sides[first:], *sides[:first]):
            with tempfile.TemporaryDirectory(dir=work) as output:
                one = {**job, "seed": number, "output": output}
                one.update(by_length=side.by_length, bfloat16=side.bfloat16)
                found = bench.run(side.environment, side.kind, one)
                scores = bench.run(OURS, "score", one)
            rows.append({"side": side.name, "round": number, **found, **scores})
            print(
                f"{side.name:24}{number:6}{100 * scores['dev']:7.1f}{100 * scores['test']:7.1f}"
                f"{found['seconds']:9.1f}{found['memory']:11,.0f}",
                flush=True,
            )
    return rows


def report(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines: means of each side, and its seconds as a multiple of those beside it, by round and as their median."""
    lines = [f"{'median':24}{'dev':>7}{'test':>7}{'seconds':>9}{'peak, MiB':>11}  seconds, as a multiple of"]
    for side in SIDES:
        of_side = {row["round"]: row for row in rows if row["side"] == side.name}
        if not of_side:
            continue
        middle = {
            key: statistics.median(row[key] for row in of_side.values()) for key in ("dev", "test", "seconds", "memory")
        }
        line = (
            f"{side.name:24}{100 * middle['dev']:7.1f}{100 * middle['test']:7.1f}"
            f"{middle['seconds']:9.1f}{middle['memory']:11,.0f}"
        )
        other = {row["round"]: row["seconds"] for row in rows if row["side"] == side.beside}
        ratios = [row["seconds"] / other[number] for number, row in sorted(of_side.items()) if number in other]
        if ratios:
            by_round = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            line += f"  {side.beside}: median {statistics.median(ratios):.2f} ({by_round})"
        lines.append(line)
    return lines


if __name__ == "__main__":
    main()
