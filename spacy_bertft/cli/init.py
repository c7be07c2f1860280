"""`bertft init`: a training config for a task, an encoder and data."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spacy_bertft.cli.console import READING, clean_errors, reading_option, show, table
from spacy_bertft.cli.convert import show_report
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.signatures import with_settings

if TYPE_CHECKING:
    from spacy_bertft.jobs.recipes.init import Plan
    from spacy_bertft.jobs.recipes.summary import Summary

_SHOWN_LABELS = 6
# What the chosen settings are called in the config, where that is another name.
_NAMES = {
    "rate": "initial_rate",
    "epochs": "max_epochs",
    "batch_size": "texts in a batch",
    "by_subwords": "subwords in a batch",
    "unknown": "unknown_label",
    "span_sizes": "sizes",
    "token_pooling": "pooling of tokens",
    "contrastive": "contrastive steps",
    "contrastive_rate": "contrastive rate",
}


class Aim(str, Enum):
    """The choices of --aim."""

    accuracy = "accuracy"
    speed = "speed"


TASKS = (
    "ner, textcat (one category per text), multilabel (any number), ner+textcat, ner+multilabel, intents, pair, qa, "
    "regression, spancat or textcat+textcat (two sets of categories)."
)
_Task = Annotated[str, typer.Argument(help=TASKS)]
_Output = Annotated[Path, typer.Option("--output", "-o", help="The config to write.")]
Train = Annotated[Path | None, typer.Option(help="Training texts: .spacy, or a file that `bertft convert` reads.")]
Dev = Annotated[
    Path | None,
    typer.Option(help="Development texts, which choose the best model. By default, a fifth of the training texts."),
]
EncoderName = Annotated[str, typer.Option(help="Hub name, folder, or package/folder of an installed package.")]
Revision = Annotated[str, typer.Option(help="Branch, tag or commit, for a hub name.")]
Lang = Annotated[str, typer.Option(help="spaCy's code for the language of the texts; xx is any language.")]
AimOption = Annotated[
    Aim,
    typer.Option(help="speed: a shorter training, and smaller windows for long texts; scores are lower."),
]
Shots = Annotated[
    bool,
    typer.Option("--shots", help="Prepare for few texts: 8 to 64 per category, or 5 to 20 entities per label."),
]
_Force = Annotated[bool, typer.Option("--force", "-F", help="Replace an existing config.")]


@with_settings(Options, reading_option(rich_help_panel=READING))
def init_command(
    task: _Task,
    train: Train = None,
    dev: Dev = None,
    encoder: EncoderName = "bert-base-cased",
    revision: Revision = "main",
    lang: Lang = "en",
    aim: AimOption = Aim.accuracy,
    shots: Shots = False,
    output: _Output = Path("config.cfg"),
    force: _Force = False,
    **settings: Any,
) -> None:
    """Write a complete training config that suits a task, an encoder and your data, and say why it is so."""
    from spacy_bertft.jobs.recipes.init import init

    with clean_errors():
        plan = init(
            task,
            output,
            train=train,
            dev=dev,
            encoder=encoder,
            revision=revision,
            lang=lang,
            aim=aim.value,
            shots=shots,
            force=force,
            **settings,
        )
    paths = " --paths.train train.spacy --paths.dev dev.spacy"
    if plan is not None:
        show_plan(plan)
        paths = ""
    show(f"✔ Wrote {output}. Train with it:\n\n    bertft train {output} --output training{paths}\n")


def show_plan(plan: Plan) -> None:
    """Show what was found and chosen, and why."""
    if plan.divided is not None:
        show_report(plan.divided)
        show("")
    facts = plan.encoder
    limit = f"windows of up to {facts.limit} subwords" if facts.limit else "windows of any length"
    show(f"{'train':8}  {_described(plan.train)}")
    show(f"{'dev':8}  {_described(plan.dev)}")
    show(f"{'encoder':8}  {facts.name}: {facts.family}, {facts.parameters / 1e6:.1f} million parameters, {limit}\n")
    show(table(("setting", "value", "because"), _rows(plan)))
    show("")
    for warning in plan.warnings:
        show(f"⚠ {warning}", error=True)


def _rows(plan: Plan) -> list[tuple[str, str, str]]:
    from spacy_bertft.jobs.recipes.render import value_text

    return [(_NAMES.get(name, name), value_text(value), why) for name, value, why in plan.chosen.rows()]


def _described(found: Summary) -> str:
    lengths = f"{int(found.lengths.mean()):,} subwords on average, {int(found.lengths.max()):,} at most"
    parts = [f"{len(found):,} texts", lengths]
    for what, counts in (("entities", found.entities), ("categories", +found.categories)):
        if counts:
            parts.append(f"{what}: {_listed(counts.most_common())}")
    for key, counts in found.spans.items():
        parts.append(f"spans in {key!r}: {_listed(counts.most_common())}")
    if found.questions:
        parts.append(f"{found.questions:,} questions")
    if found.values:
        parts.append(f"{found.values:,} numbers")
    return "; ".join(parts)


def _listed(counts: list[tuple[str, int]]) -> str:
    more = f", and {len(counts) - _SHOWN_LABELS} more labels" if len(counts) > _SHOWN_LABELS else ""
    return ", ".join(f"{label} {count:,}" for label, count in counts[:_SHOWN_LABELS]) + more
