"""`bertft convert`: annotated files to .spacy files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spacy_bertft.cli.console import clean_errors, reading_option, show, table
from spacy_bertft.jobs.convert.options import Options, TargetName
from spacy_bertft.signatures import with_settings

if TYPE_CHECKING:
    from spacy_bertft.convert import Counts, Progress, Report

_BAR_AFTER_SECONDS = 2.0


_Inputs = Annotated[
    list[Path],
    typer.Argument(
        help="Files or folders to convert; give all of a data set (train, dev, test), so that their labels agree."
    ),
]
_Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the new files, or one file name ending in .spacy.")
]
_Lang = Annotated[str, typer.Option("--lang", help="spaCy's code for the language of the texts; xx is any language.")]
_To = Annotated[TargetName, typer.Option("--to", help="What to write: .spacy files, or files for another tool.")]
_DevShare = Annotated[
    float | None,
    typer.Option(
        "--dev-share",
        help="Put this share of all texts, such as 0.2, into dev.spacy for development, and the others into "
        "train.spacy.",
    ),
]


@with_settings(Options, reading_option())
def convert_command(
    inputs: _Inputs,
    output: _Output,
    lang: _Lang = "en",
    to: _To = "spacy",
    dev_share: _DevShare = None,
    **settings: Any,
) -> None:
    """Convert annotated texts to the .spacy files that training reads, and back.

    Reads the exports of Label Studio, doccano, Prodigy, brat and INCEpTION, CoNLL, CoNLL-U, tables, JSON Lines, SQuAD,
    Parquet, data sets of Hugging Face, and the JSON of spaCy 2.
    """
    from spacy_bertft.convert import convert

    with clean_errors():
        report = convert(inputs, output, lang=lang, to=to, dev_share=dev_share, progress=_progress_bar(), **settings)
    show_report(report)


def _progress_bar() -> Progress:
    """Progress bar on stderr for slow conversions; none if stderr is not a terminal (`disable=None`)."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    return partial(tqdm, unit=" texts", delay=_BAR_AFTER_SECONDS, disable=None, leave=False, file=sys.stderr)


def show_report(report: Report) -> None:
    """Show what was read, written and left out."""
    rows = [
        (
            str(file.source),
            file.format,
            file.counts.docs,
            sum(file.counts.entities.values()),
            file.counts.misaligned,
            sum(file.counts.dropped.values()),
            str(file.target),
        )
        for file in report.files
    ]
    show(table(("input", "format", "texts", "entities", "misaligned", "dropped", "output"), rows))
    total = report.total
    for title, numbers in (("entity labels", total.entities), ("categories", total.categories)):
        if numbers:
            show("")
            show(table((title, *(file.source.name for file in report.files)), _by_file(report, title, numbers)))
    if total.answered or total.unanswered:
        show("")
        questions = [(file.source.name, file.counts.answered, file.counts.unanswered) for file in report.files]
        show(table(("questions", "with an answer", "without"), questions))
    if total.valued:
        show("")
        show(table(("values", "texts", "lowest", "mean", "highest"), _value_rows(report)))
    for path, texts in report.parts.items():
        show(f"✔ {path}: {texts:,} texts")
    _show_notes(total)
    _show_warnings(total)


def _by_file(report: Report, title: str, names: Mapping[str, int]) -> list[tuple[object, ...]]:
    columns = [file.counts.entities if title == "entity labels" else file.counts.categories for file in report.files]
    return [(name, *(column.get(name, 0) for column in columns)) for name in names]


def _value_rows(report: Report) -> list[tuple[object, ...]]:
    found = [(file.source.name, file.counts) for file in report.files if file.counts.valued]
    return [
        (name, one.valued, *(f"{number:g}" for number in (one.lowest, one.value_sum / one.valued, one.highest)))
        for name, one in found
    ]


def _show_notes(total: Counts) -> None:
    notes = {
        "texts or answers were skipped: rejected, ignored, cancelled or not annotated": total.rejected,
        "rejected spans were kept as such": total.incorrect,
        "lines without a text were skipped (blank, comment or -DOCSTART-)": total.skipped,
        "entities or answers lost white space at their edges": total.trimmed,
        "tags did not fit the one before and were read as the start of a new entity": total.repaired,
    }
    for text, number in notes.items():
        if number:
            show(f"ℹ {number:,} {text}", error=True)
    if total.ignored:
        keys = ", ".join(f"{name} ({number:,})" for name, number in total.ignored.items())
        show(f"ℹ keys that are not used: {keys}", error=True)


def _show_warnings(total: Counts) -> None:
    if total.misaligned:
        show(
            f"⚠ {total.misaligned:,} entities begin or end inside a token; their tokens stay unannotated",
            error=True,
        )
    for example in total.examples:
        tokens = " ".join(repr(token) for token in example.tokens)
        show(f"  {example.where}: {example.text!r} ({example.label}) in {tokens}", error=True)
    for unit, number in total.other_units.items():
        if 2 * number > total.misaligned:
            show(f"⚠ {number:,} of them would align if offsets counted other units: try --offsets {unit}", error=True)
            break
    for kind, number in total.dropped.items():
        show(f"⚠ dropped: {number:,} {kind}", error=True)
    if total.widened:
        show(
            f"⚠ {total.widened:,} answers begin or end inside a token; they were widened to whole tokens",
            error=True,
        )
    if not (total.entities or total.categories or total.answered or total.unanswered or total.valued):
        show("⚠ no entities, categories or answers found: the output holds texts only", error=True)
