"""`bertft report`: a page about a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spacy_bertft.cli.console import Code, Pipeline, clean_errors, import_code, show

_Data = Annotated[
    list[Path], typer.Argument(help="Annotated texts: .spacy files, a folder of them, or files that convert reads.")
]
_Output = Annotated[Path, typer.Option("--output", help="HTML file to write.")]
_Compare = Annotated[Path | None, typer.Option("--compare", help="Another pipeline, to compare on the same texts.")]
_Train = Annotated[
    list[Path] | None,
    typer.Option("--train", help="Training texts, for unseen words and label frequencies; default: the config's."),
]
_Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")]


def report_command(
    pipeline: Pipeline,
    data: _Data,
    output: _Output = Path("report.html"),
    compare: _Compare = None,
    train: _Train = None,
    seed: _Seed = 0,
    code: Code = None,
) -> None:
    """Write a page about a trained pipeline: scores with intervals, confusion, calibration, worst errors, slices, data.

    One HTML file that needs no network; open it in a browser. docs/report.md explains what it shows.
    """
    from spacy_bertft.jobs.report.make import make_report

    with clean_errors():
        import_code(code)
        done = make_report(pipeline, data, output=output, other=compare, train=train or (), seed=seed)
    for name, score, found in done.scores:
        value, low, high = (score.kind.shown(value) for value in (found.value, found.low, found.high))
        show(f"{name}: {score.title} {value:.2f} (95 % interval {low:.2f} to {high:.2f})")
    texts = "1 text" if done.n_texts == 1 else f"{done.n_texts:,} texts"
    show(f"✔ The report on {texts}: {done.path} (open it in a browser)")
