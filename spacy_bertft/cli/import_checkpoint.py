"""`bertft import`: a fine-tuned Hugging Face checkpoint as a spaCy pipeline."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spacy_bertft.cli.console import clean_errors, show

if TYPE_CHECKING:
    from spacy_bertft.jobs.huggingface.read import Imported


class _Task(str, Enum):
    """The choices of --task."""

    ner = "ner"
    textcat = "textcat"
    multilabel = "multilabel"
    pair = "pair"
    qa = "qa"
    regression = "regression"
    fill_mask = "fill-mask"


class _Scheme(str, Enum):
    """The choices of --scheme."""

    bio = "bio"
    iob1 = "iob1"
    biluo = "biluo"
    io = "io"


_Checkpoint = Annotated[str, typer.Argument(help="Fine-tuned checkpoint: folder, hub name, or package/folder.")]
_Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write the pipeline to.")]
_TaskOption = Annotated[
    _Task | None, typer.Option("--task", help="What its head is for. By default, what its config.json says.")
]
_Lang = Annotated[str, typer.Option("--lang", help="Language whose tokenizer splits texts into tokens: en, de, xx, …")]
_Pairs = Annotated[bool, typer.Option("--pairs", help="Its texts are pairs, as for entailment or similarity.")]
_SchemeOption = Annotated[
    _Scheme | None, typer.Option("--scheme", help="Scheme of its entity tags. By default, found from its labels.")
]
_Outside = Annotated[str, typer.Option("--outside", help="Its label for tokens outside of entities.")]
_Revision = Annotated[str, typer.Option("--revision", help="Branch, tag or commit on the hub.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the pipeline that the output holds.")]


def import_command(
    checkpoint: _Checkpoint,
    output: _Output,
    task: _TaskOption = None,
    lang: _Lang = "en",
    pairs: _Pairs = False,
    scheme: _SchemeOption = None,
    outside: _Outside = "O",
    revision: _Revision = "main",
    overwrite: _Overwrite = False,
) -> None:
    """Turn a fine-tuned Hugging Face checkpoint into a spaCy pipeline, with its head."""
    from spacy_bertft.jobs.huggingface.read import import_checkpoint

    with clean_errors():
        done = import_checkpoint(
            checkpoint,
            output,
            task=None if task is None else task.value,
            lang=lang,
            pairs=pairs,
            scheme=None if scheme is None else scheme.value,
            outside=outside,
            revision=revision,
            overwrite=overwrite,
        )
    _show_labels(done)
    if done.difference is not None:
        show(f"ℹ logits on built-in texts: as transformers', largest difference {done.difference:.1g}", error=True)
    factory = done.nlp.get_pipe_meta(done.component).factory
    show(f"✔ {output}: {done.architecture} as {', '.join(done.nlp.pipe_names)} ({factory}), language {done.nlp.lang}")


def _show_labels(done: Imported) -> None:
    """Show the labels, and what was read from them that a config.json can't say."""
    labels = done.nlp.pipe_labels.get(done.component, [])
    if done.task in ("ner", "textcat", "multilabel", "pair"):
        show(f"labels: {', '.join(labels)}")
    if done.task == "ner":
        scheme = done.nlp.get_pipe_config(done.component)["scheme"]
        show(f"scheme: {scheme}")
        if scheme == "bio":
            show("ℹ tags with B and I are read as IOB2; if it was trained on IOB1, give --scheme iob1", error=True)
    if done.task == "textcat":
        show("ℹ each text is read by itself; if it was trained on pairs of texts, give --pairs", error=True)
    if all(label.startswith("LABEL_") for label in labels) and labels:
        show("ℹ the labels have no names; write them into id2label in its config.json", error=True)
