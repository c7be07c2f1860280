"""`bertft export`: a trained pipeline for another engine."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spacy_bertft.cli.console import Code, Pipeline, clean_errors, import_code, show, table
from spacy_bertft.components.metric_kinds import titled
from spacy_bertft.errors import ConfigError

if TYPE_CHECKING:
    from spacy_bertft.export import Change, ExportReport


class _ExportEngine(str, Enum):
    """The choices of --engine."""

    onnx = "onnx"
    huggingface = "huggingface"


_Out = Annotated[Path, typer.Argument(help="Folder to write the exported pipeline to.")]
_EngineOption = Annotated[
    _ExportEngine,
    typer.Option(
        "--engine",
        help="onnx: ONNX Runtime runs the encoder on the CPU. huggingface: each head is a checkpoint for transformers.",
    ),
]
_Int8 = Annotated[bool, typer.Option("--int8", help="Store and multiply the encoder's weights in 8 bits.")]
_Dev = Annotated[
    Path | None, typer.Option("--dev", help="Annotated texts to compare the scores on: .spacy, or what convert reads.")
]
_Tolerance = Annotated[float, typer.Option("--tolerance", help="Largest drop of a score that is allowed, in points.")]
_TOLERANCE = 0.5
_Force = Annotated[bool, typer.Option("--force", help="Write the pipeline even if a score drops by more.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the pipeline that OUT holds.")]


def export_command(
    pipeline: Pipeline,
    out: _Out,
    engine: _EngineOption = _ExportEngine.onnx,
    int8: _Int8 = False,
    dev: _Dev = None,
    tolerance: _Tolerance = _TOLERANCE,
    force: _Force = False,
    overwrite: _Overwrite = False,
    code: Code = None,
) -> None:
    """Write a trained pipeline for ONNX Runtime, and report what that changes; or its heads for transformers."""
    from spacy_bertft.export import DroppedError, export

    if engine is _ExportEngine.huggingface:
        of_onnx = {"--int8": int8, "--dev": dev is not None, "--tolerance": tolerance != _TOLERANCE, "--force": force}
        _export_huggingface(pipeline, out, [name for name, given in of_onnx.items() if given], overwrite, code)
        return
    with clean_errors():
        import_code(code)
        try:
            report = export(
                pipeline,
                out,
                int8=int8,
                dev=dev,
                tolerance=tolerance,
                force=force,
                overwrite=overwrite,
                note=lambda line: show(f"ℹ {line}", error=True),
            )
        except DroppedError as error:
            _show_report(error.report)
            raise
    _show_report(report)
    _show_end(report)


def _export_huggingface(pipeline: Path, out: Path, unused: list[str], overwrite: bool, code: Path | None) -> None:
    """Write each head as a checkpoint. unused: the options given that have no meaning here."""
    from spacy_bertft.export import export_huggingface

    with clean_errors():
        if unused:
            raise ConfigError(
                f"Found {', '.join(unused)} with --engine huggingface. Expected --engine onnx: the weights of a "
                "checkpoint stay as they are, so there is nothing to compare scores of. Leave them out."
            )
        import_code(code)
        done = export_huggingface(pipeline, out, overwrite=overwrite)
    for one in done:
        labels = f", labels: {', '.join(one.labels)}" if one.labels else ""
        same = "" if one.difference is None else f"; largest difference of logits {one.difference:.1g}"
        show(f"✔ {one.folder}: {one.architecture}{labels}{same}")


def _show_report(report: ExportReport) -> None:
    hidden = report.hidden
    source = "texts of the dev set" if report.dev else "built-in texts"
    show(
        f"Hidden states of {hidden.texts} {source}: largest difference {hidden.largest:.2g}, mean difference "
        f"{hidden.mean:.2g}; the mean absolute value is {hidden.size:.2g}\n"
    )
    if report.scores:
        show(table(("score (points)", "before", "after", "change"), [_score(score) for score in report.scores]))
        moved = [score for score in report.label_scores if f"{score.difference:.2f}".strip("-") != "0.00"]
        if moved:
            show("\n" + table(("of single labels", "before", "after", "change"), [_score(score) for score in moved]))
        same = len(report.label_scores) - len(moved)
        show(f"{same} scores of single labels are as before.\n" if same else "")
    speed, size = report.speed, report.size
    rows = [
        ("words/s", f"{speed.before:9,.0f}", f"{speed.after:9,.0f}", f"{speed.after / speed.before:.2f}x"),
        ("MB on disk", f"{size.before / 1e6:9,.1f}", f"{size.after / 1e6:9,.1f}", f"{size.after / size.before:.2f}x"),
    ]
    show(table(("pipeline", "   before", "    after", "after / before"), rows))


def _score(score: Change) -> tuple[str, ...]:
    return titled(score.name), f"{score.before:6.2f}", f"{score.after:6.2f}", f"{score.difference:+6.2f}"


def _show_end(report: ExportReport) -> None:
    if report.dev is None:
        show("⚠ no scores were compared: give a dev set with --dev to know what the export costs", error=True)
    for score in report.dropped:
        change = "dropped" if score.difference < 0 else "rose"
        show(f"⚠ {score.name} {change} by {score.loss}, more than {report.tolerance:g}", error=True)
    show(f"✔ {report.out}: encoder {', '.join(report.encoders)} for ONNX Runtime{', int8' if report.int8 else ''}")
