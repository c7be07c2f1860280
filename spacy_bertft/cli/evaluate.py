"""`bertft evaluate`: all scores of a pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spacy_bertft.cli.console import Code, Data, Pipeline, clean_errors, import_code, show, table
from spacy_bertft.components.metric_kinds import titled
from spacy_bertft.errors import ConfigError

if TYPE_CHECKING:
    from spacy_bertft.jobs.evaluate import Scores

_Output = Annotated[Path | None, typer.Option("--output", help="JSON file for all scores.")]
_Displacy = Annotated[
    Path | None, typer.Option("--displacy", help="Folder for pages that show entities, spans and parses of 25 texts.")
]
_Labels = Annotated[bool, typer.Option("--labels", help="Also show the scores of single labels.")]


def evaluate_command(
    pipeline: Pipeline,
    data: Data,
    output: _Output = None,
    labels: _Labels = False,
    displacy: _Displacy = None,
    code: Code = None,
) -> None:
    """Score a trained pipeline on annotated texts, with every score that its components have."""
    from spacy_bertft.jobs.evaluate import evaluate

    with clean_errors():
        import_code(code)
        if output is not None and output.is_dir():
            raise ConfigError(f"{output}: found a folder; expected a JSON file to write; fix: name a file in it")
        if displacy is not None and displacy.exists() and not displacy.is_dir():
            raise ConfigError(f"{displacy}: found a file; expected a folder to write to; fix: name another")
        scores = evaluate(pipeline, data, displacy=displacy)
        if output is not None:
            _write(output, scores)
    show(_score_table(scores.overall))
    if labels and scores.of_labels:
        show("\n" + _score_table(scores.of_labels))


def _write(path: Path, scores: Scores) -> None:
    from spacy_bertft.jobs.writing import writing

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**scores.overall, **scores.of_labels}, indent=1) + "\n", encoding="utf-8")


def _score_table(scores: Mapping[str, float]) -> str:
    """Format one line per score."""
    return table(("score", "points"), [(titled(name), f"{scores[name]:6.2f}") for name in shown(scores)])


def shown(scores: Mapping[str, float]) -> list[str]:
    """The scores to show: the tokenizer's only if its tokens differ from the gold tokens."""
    return [name for name, value in scores.items() if not (name.startswith("token_") and value == 100.0)] or [*scores]
