"""`init`: read the data and the encoder, choose settings, and write a config."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacy_bertft.components.pairs import PairTokenizer
from spacy_bertft.encoder.checkpoint import n_layer_parameters
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.loading import load
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.convert.docs import blank
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.tally import Report
from spacy_bertft.jobs.evaluate import check_data, stream_examples
from spacy_bertft.jobs.recipes.checks import check_annotation, warnings_of
from spacy_bertft.jobs.recipes.choices import Aim, Choices, EncoderFacts, choose, fitted, for_few_texts
from spacy_bertft.jobs.recipes.parts import Parts, divided
from spacy_bertft.jobs.recipes.render import render
from spacy_bertft.jobs.recipes.summary import Summary, summarise
from spacy_bertft.jobs.recipes.tasks import RecipeTask, task_of
from spacy_bertft.jobs.text_files import check_model
from spacy_bertft.jobs.writing import writing
from spacy_bertft.signatures import with_settings


@dataclass(frozen=True, slots=True)
class Plan:
    """What `init` found and chose for given data.

    divided   what was read and written, if the development texts were taken from the training texts
    warnings  what the user should know of the data, in sentences
    """

    divided: Report | None
    train: Summary
    dev: Summary
    encoder: EncoderFacts
    chosen: Choices
    warnings: tuple[str, ...]


@with_settings(Options)
def init(
    task: str,
    output: Path,
    *,
    train: Path | None = None,
    dev: Path | None = None,
    encoder: str = "bert-base-cased",
    revision: str = "main",
    lang: str = "en",
    aim: Aim = "accuracy",
    shots: bool = False,
    force: bool = False,
    **settings: Any,
) -> Plan | None:
    """Write a complete, commented training config for a task. Returns what it chose, or None without data.

    task        one of jobs/recipes/tasks.py
    output      the config to write
    train, dev  annotated texts: .spacy, or a file that `bertft convert` reads; without both, the config is a general
                one for an encoder of base size, and the paths are given on the command line. Without `dev`, a fifth
                of the texts is set aside: they become corpus/train.spacy and corpus/dev.spacy beside the config
    encoder     hub name, folder, or package/folder
    aim         "accuracy", or "speed": a shorter training, batches of similar length, smaller windows for long texts
    shots       for few texts: 8 to 64 of each category, or 5 to 20 entities of each label (docs/few-examples.md)
    force       replace existing files
    settings    how the files are read, e.g. text_key="body": the fields of `Options`
    """
    recipe = task_of(task)
    _check_output(output, force)
    if train is not None:
        data = _Data(train, dev, lang, Options(**settings))
        text, plan = _for_data(recipe, task, output, data, encoder, revision, aim, shots=shots, force=force)
    elif dev is None:
        facts = EncoderFacts(encoder, revision)
        # In the general config of "intents", there are texts of no known intent.
        few = {name: value for name, (value, _) in for_few_texts(recipe).items()} if shots else {}
        chosen = Choices(unknown="none" if task == "intents" else None, **few)
        text, plan = render(recipe, file=str(output), lang=lang, encoder=facts, chosen=chosen), None
    else:
        raise ConfigError(
            "train: found none, but development texts; expected both, or neither for a general config; fix: give "
            "--train too"
        )
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    return plan


def _check_output(output: Path, force: bool) -> None:
    if output.is_dir():
        raise ConfigError(
            f"{output}: found a folder; expected the name of a new config; fix: name a file in it, {output}/config.cfg"
        )
    if output.exists() and not force:
        raise ConfigError(
            f"{output}: found a file; expected the name of a new config; fix: choose another name, or replace it "
            "(--force)"
        )


@dataclass(frozen=True, slots=True)
class _Data:
    """Where the data are, and how they are read. dev: None: among the training texts."""

    train: Path
    dev: Path | None
    lang: str
    options: Options


def _for_data(
    recipe: RecipeTask,
    task: str,
    output: Path,
    data: _Data,
    encoder: str,
    revision: str,
    aim: Aim,
    *,
    shots: bool,
    force: bool,
) -> tuple[str, Plan]:
    """The config for given data, and what was chosen."""
    if any(head.labels for head in recipe.heads):
        raise ConfigError(
            f"train: found data; expected none for {task!r}, since they don't say which category belongs to which set; "
            "fix: leave --train and --dev out, and put the labels of each set into the config"
        )
    for path in (data.train, data.dev):
        if path is not None:
            check_data(path, data.options)
    loaded = load_encoder(encoder, revision)
    facts = facts_of(encoder, revision, loaded)
    where: AbstractContextManager[Parts]
    if data.dev is None:
        where = divided(data.train, output.parent / "corpus", lang=data.lang, options=data.options, force=force)
    else:
        where = nullcontext(Parts(data.train, data.dev, data.options))
    with where as parts:
        train, dev = _summaries(parts, data.lang, loaded)
        check_annotation(task, recipe, data.train, data.dev or data.train, train, dev)
        chosen = choose(recipe, train, dev, facts, aim, shots=shots)
        recipe = fitted(recipe, train, chosen)
    text = render(
        recipe,
        file=str(output),
        lang=data.lang,
        train=str(parts.train),
        dev=str(parts.dev),
        encoder=facts,
        chosen=chosen,
        options=parts.options if parts.of_other_formats() else None,
        in_pairs=bool(train.pairs),
    )
    return text, Plan(parts.report, train, dev, facts, chosen, warnings_of(recipe, train, dev, shots=shots))


def _summaries(parts: Parts, lang: str, encoder: Encoder) -> tuple[Summary, Summary]:
    """What the training and the development texts hold."""
    nlp = blank(lang)
    nlp.tokenizer = PairTokenizer(nlp.vocab, nlp.tokenizer)
    train, dev = (summarise(stream_examples(nlp, path, parts.options), encoder.splitter) for path in parts.readable)
    return train, dev


def load_encoder(name: str, revision: str) -> Encoder:
    """Load an encoder by name on the CPU."""
    check_model(name)
    return load(name, EncoderSettings(device="cpu"), revision=revision)


def facts_of(name: str, revision: str, encoder: Encoder) -> EncoderFacts:
    """What the choices need to know of an encoder. name, revision: as the config has them."""
    weights = encoder.at_rest().weights
    return EncoderFacts(
        name,
        revision,
        family=encoder.checkpoint.config.get("model_type", ""),
        body=n_layer_parameters(weights),
        parameters=sum(one.numel() for one in weights.values()),
        limit=encoder.checkpoint.limit(encoder.first_position),
    )
