"""`bertft calibrate`: fit temperatures and thresholds of a trained pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spacy_bertft.cli.console import Code, Data, Pipeline, clean_errors, import_code, show, table
from spacy_bertft.cli.evaluate import shown
from spacy_bertft.components.metric_kinds import titled

_Out = Annotated[
    Path | None, typer.Option("--output", help="Folder for a calibrated copy; default: change the pipeline.")
]
_Component = Annotated[str | None, typer.Option("--component", help="The only head to fit; default: all.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be set, and change nothing.")]


def calibrate_command(
    pipeline: Pipeline,
    data: Data,
    output: _Out = None,
    component: _Component = None,
    dry_run: _DryRun = False,
    code: Code = None,
) -> None:
    """Fit a trained pipeline's temperatures and thresholds on held-out texts, and write them to its config.cfg.

    bertft_qa has a threshold from which a question counts as answerable; bertft_textcat and bertft_pair have a
    temperature of the scores and, with unknown_label, a threshold of the unknown category.
    """
    from spacy_bertft.jobs.calibrate import calibrate

    with clean_errors():
        import_code(code)
        done = calibrate(pipeline, data, output=output, component=component, dry_run=dry_run)
    rows = [(one.component, one.setting, f"{one.before:g}", f"{one.after:g}") for one in done.fitted]
    if not rows:
        show("⚠ the heads have nothing to fit", error=True)
        return
    show(table(("component", "setting", "before", "after"), rows) + "\n")
    before, after = done.before.overall, done.after.overall
    scores = [(titled(name), f"{before[name]:6.2f}", f"{after[name]:6.2f}") for name in shown(before)]
    show(table(("score (points)", "before", "after"), scores))
    show(f"✔ {'would set in' if dry_run else 'set in'} {(output or pipeline) / 'config.cfg'}")
