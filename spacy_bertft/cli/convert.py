"""`bertft convert`: annotated files to .spacy files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spacy_bertft.cli.console import clean_errors, show, table

if TYPE_CHECKING:
    from spacy_bertft.convert import Counts, Progress, Report

_BAR_AFTER_SECONDS = 2.0


class FileFormat(str, Enum):
    """The choices of --format."""

    auto = "auto"
    jsonl = "jsonl"
    csv = "csv"
    tsv = "tsv"
    conll = "conll"
    squad = "squad"


Inputs = Annotated[
    list[Path],
    typer.Argument(help="Files to convert, all of one data set (train, dev, test), so that their labels agree."),
]
Output = Annotated[
    Path, typer.Option("--output", help="Folder for the .spacy files, or one file name ending in .spacy.")
]
Lang = Annotated[str, typer.Option("--lang", help="Language of the texts, as spaCy's code; xx is any language.")]
FormatOption = Annotated[
    FileFormat, typer.Option("--format", help="What the files are; auto goes by the ending of their names.")
]
TextKey = Annotated[str, typer.Option("--text-key", help="JSON key or column that holds the text.")]
LabelKey = Annotated[str, typer.Option("--label-key", help="JSON key or column that holds the one category of a text.")]
LabelsKey = Annotated[
    str, typer.Option("--labels-key", help="JSON key or column that holds several categories of a text.")
]
FirstKey = Annotated[str, typer.Option("--first-key", help="JSON key or column that holds the first text of a pair.")]
SecondKey = Annotated[
    str, typer.Option("--second-key", help="JSON key or column that holds the second text of a pair.")
]
LabelSeparator = Annotated[
    str,
    typer.Option("--label-separator", help="What stands between several categories in a CSV or TSV column."),
]
Quotes = Annotated[
    bool, typer.Option("--quotes/--no-quotes", help="CSV and TSV: whether double quotes enclose a field.")
]
TokenColumn = Annotated[int, typer.Option("--token-column", help="CoNLL: column of the token, from 1; -1 is the last.")]
TagColumn = Annotated[int, typer.Option("--tag-column", help="CoNLL: column of the entity tag.")]
MergeSentences = Annotated[
    int, typer.Option("--merge-sentences", help="CoNLL: how many sentences make one training text.")
]


def convert_command(
    inputs: Inputs,
    output: Output,
    lang: Lang = "en",
    format: FormatOption = FileFormat.auto,
    text_key: TextKey = "text",
    label_key: LabelKey = "label",
    labels_key: LabelsKey = "labels",
    first_key: FirstKey = "first",
    second_key: SecondKey = "second",
    label_separator: LabelSeparator = "|",
    quotes: Quotes = True,
    token_column: TokenColumn = 1,
    tag_column: TagColumn = -1,
    merge_sentences: MergeSentences = 1,
) -> None:
    """Convert annotated texts (JSONL, CSV, TSV, CoNLL/IOB, SQuAD) to the .spacy files that training reads."""
    from spacy_bertft.convert import convert

    with clean_errors():
        report = convert(
            inputs,
            output,
            lang=lang,
            format=format.value,
            text_key=text_key,
            label_key=label_key,
            labels_key=labels_key,
            first_key=first_key,
            second_key=second_key,
            label_separator=label_separator,
            quotes=quotes,
            token_column=token_column,
            tag_column=tag_column,
            merge_sentences=merge_sentences,
            progress=_progress_bar(),
        )
    _show_report(report)


def _progress_bar() -> Progress:
    """A bar on stderr for what takes longer; none where stderr is no terminal (`disable=None` says so)."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    return partial(tqdm, unit=" texts", delay=_BAR_AFTER_SECONDS, disable=None, leave=False, file=sys.stderr)


def _show_report(report: Report) -> None:
    rows = [
        (
            str(file.source),
            file.counts.docs,
            sum(file.counts.entities.values()),
            file.counts.misaligned,
            str(file.target),
        )
        for file in report.files
    ]
    show(table(("input", "texts", "entities", "misaligned", "output"), rows))
    total = report.total
    for title, numbers in (("entity labels", total.entities), ("categories", total.categories)):
        if numbers:
            show("")
            show(table((title, *(file.source.name for file in report.files)), _by_file(report, title, numbers)))
    if total.answered or total.unanswered:
        show("")
        questions = [(file.source.name, file.counts.answered, file.counts.unanswered) for file in report.files]
        show(table(("questions", "with an answer", "without"), questions))
    _show_notes(total)
    _show_warnings(total)


def _by_file(report: Report, title: str, names: Mapping[str, int]) -> list[tuple[object, ...]]:
    columns = [file.counts.entities if title == "entity labels" else file.counts.categories for file in report.files]
    return [(name, *(column.get(name, 0) for column in columns)) for name in names]


def _show_notes(total: Counts) -> None:
    notes = {
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
    if total.widened:
        show(
            f"⚠ {total.widened:,} answers begin or end inside a token; they are learned with the whole token",
            error=True,
        )
    if not (total.entities or total.categories or total.answered or total.unanswered):
        show("⚠ no entities, categories or answers found: the output holds texts only", error=True)
