"""Measure this package's speed beside spacy-transformers' and the Hugging Face pipelines', in one command.

    python benchmarks/speed/run.py --encoder FOLDER_OR_PACKAGE/FOLDER --data FOLDER

Makes the environments and pipelines it needs in the work folder the first time, then measures in rounds; README.md
says what and how. It needs Python 3.10 or later with pip, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from chart import draw
from environments import StepError, find_encoder, interpreter
from measure import Plan, Results, measure
from pipelines import Kitchen
from report import markdown
from subjects import (
    BEFORE,
    BESIDE_BEFORE,
    ENVIRONMENTS,
    OURS,
    QUICK,
    SIZES,
    SUBJECTS,
    Environment,
    Size,
    Subject,
    before,
)
from texts import build, check_data

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the arguments, and measure each size."""
    options = _parser().parse_args(arguments)
    encoder = find_encoder(options.encoder)
    data = check_data(options.data)
    work: Path = options.work.absolute()
    named = dict(pair.split("=", 1) for pair in options.env)
    environments, subjects = ENVIRONMENTS, SUBJECTS
    if options.before:
        environments = (ENVIRONMENTS[0], before(options.before.absolute()))
        subjects = BESIDE_BEFORE
    pythons, failed = make_environments(
        environments, work / "environments", {name: Path(path) for name, path in named.items()}
    )
    if options.before:
        work = work / BEFORE
        shutil.rmtree(work, ignore_errors=True)  # pipelines of what either checkout was the last time
    if options.quick:
        work = work / "quick"
    out = options.out or (work / "results" if options.quick or options.before else HERE / "results")
    kitchen = Kitchen(pythons, failed, encoder, data, work / "pipelines", updates=3 if options.quick else 60)
    for size in options.sizes or _sizes("minilm" if options.quick else ",".join(SIZES)):
        if options.quick:
            size = replace(size, amounts=QUICK)
        results = run(size, kitchen, subjects, work, rounds=1 if options.quick else options.rounds)
        save(size, options.encoder, results, out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    environ = os.environ.get("SPACY_BERTFT_DATA")
    data = Path(environ) if environ else None
    add = parser.add_argument
    add("--encoder", required=True, help="folder of a BERT encoder, or package/folder of an installed package")
    add("--data", type=Path, default=data, help="folder of data (default: SPACY_BERTFT_DATA)")
    add("--rounds", type=int, default=5, help="rounds, and fresh processes for the load times (default: 5)")
    add("--sizes", type=_sizes, help="minilm (the encoder given), base, or both (default; with --quick minilm)")
    add(
        "--before",
        type=Path,
        metavar="CHECKOUT",
        help="measure this package beside another checkout of it, and nothing else (results stay in the work folder)",
    )
    add("--quick", action="store_true", help="few texts and one round, to see that everything works")
    add("--work", type=Path, default=HERE / ".work", help="folder for environments and pipelines, kept for next time")
    add("--out", type=Path, help="folder for the results (default: results/ here; with --quick in the work folder)")
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help=f"use this interpreter for {', '.join(one.name for one in ENVIRONMENTS)}, before; may be repeated",
    )
    return parser


def _sizes(names: str) -> list[Size]:
    unknown = [name for name in names.split(",") if name not in SIZES]
    if unknown:
        raise argparse.ArgumentTypeError(f"found {unknown[0]!r}; expected some of {', '.join(SIZES)}")
    return [SIZES[name] for name in names.split(",")]


def make_environments(
    environments: Iterable[Environment], folder: Path, named: dict[str, Path]
) -> tuple[dict[str, Path], dict[str, str]]:
    """The interpreter of each environment, and why the others could not be made. Ours has to be."""
    pythons: dict[str, Path] = {}
    failed: dict[str, str] = {}
    for environment in environments:
        try:
            pythons[environment.name] = named.get(environment.name) or interpreter(environment, folder)
        except StepError as error:
            failed[environment.name] = f"pip could not install it: {error}"
            print(f"{environment.name} could not be installed: {error}", flush=True)
    if OURS not in pythons:
        raise SystemExit(
            f"The environment of this package could not be made: {failed[OURS]} Expected pip to install the "
            f"repository. Read {folder / OURS / 'pip.log'}, correct what it says, and run again."
        )
    return pythons, failed


def run(size: Size, kitchen: Kitchen, subjects: Sequence[Subject], work: Path, rounds: int) -> Results:
    """Prepare and measure one size."""
    texts = work / f"texts-{size.name}.json"
    texts.parent.mkdir(parents=True, exist_ok=True)
    texts.write_text(json.dumps(build(kitchen.data, size.amounts), ensure_ascii=False), encoding="utf-8")
    pipelines, failed = kitchen.pipelines_of(size, subjects)
    encoder = kitchen.encoder_of(size)
    plan = Plan(subjects, kitchen.pythons, pipelines, failed, encoder, texts, work / "logs", rounds, loads=rounds)
    return measure(plan)


def save(size: Size, encoder: str, results: Results, out: Path) -> None:
    """Write the numbers, the tables and the chart, and print the tables."""
    out.mkdir(parents=True, exist_ok=True)
    model = "a random BERT of base size" if size.random else "/".join(Path(encoder).parts[-2:])
    title = f"Speed with {model}"
    numbers = {"size": size.name, "encoder": model, **asdict(results)}
    (out / f"{size.name}.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    report = markdown(title, results)
    (out / f"{size.name}.md").write_text(report, encoding="utf-8")
    picture = draw(title, results)
    if picture is not None:
        (out / f"{size.name}.svg").write_text(picture, encoding="utf-8")
    print(f"\n{report}\nWritten to {out}", flush=True)


if __name__ == "__main__":
    main()
