"""`init`: read the data and the encoder, choose settings, and write a config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacy_bertft.components.pairs import PairTokenizer
from spacy_bertft.encoder.checkpoint import n_layer_parameters
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.loading import load
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.convert.corpus import is_stored
from spacy_bertft.jobs.convert.docs import blank
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.evaluate import check_data, stream_examples
from spacy_bertft.jobs.recipes.checks import check_annotation, warnings_of
from spacy_bertft.jobs.recipes.choices import Aim, Choices, EncoderFacts, choose, fitted
from spacy_bertft.jobs.recipes.render import render
from spacy_bertft.jobs.recipes.summary import Summary, summarise
from spacy_bertft.jobs.recipes.tasks import RecipeTask, task_of
from spacy_bertft.jobs.text_files import check_model
from spacy_bertft.jobs.writing import writing
from spacy_bertft.signatures import with_settings


@dataclass(frozen=True, slots=True)
class Plan:
    """What `init` found and chose for given data. warnings: what the user should know of the data, in sentences."""

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
    force: bool = False,
    **settings: Any,
) -> Plan | None:
    """Write a complete, commented training config for a task. Returns what it chose, or None without data.

    task        one of jobs/recipes/tasks.py
    output      the config to write
    train, dev  annotated texts: .spacy, or a file that `bertft convert` reads; without them, the config is a general
                one for an encoder of base size, and the paths are given on the command line
    encoder     hub name, folder, or package/folder
    aim         "accuracy", or "speed": a shorter training, batches of similar length, smaller windows for long texts
    force       replace an existing file
    settings    how the files are read, e.g. text_key="body": the fields of `Options`
    """
    recipe = task_of(task)
    _check_output(output, force)
    if train is not None and dev is not None:
        data = _Data(train, dev, lang, Options(**settings))
        text, plan = _for_data(recipe, task, output, data, encoder, revision, aim)
    elif train is None and dev is None:
        facts = EncoderFacts(encoder, revision)
        # In the general config of "intents", there are texts of no known intent.
        chosen = Choices(unknown="none" if task == "intents" else None)
        text, plan = render(recipe, file=str(output), lang=lang, encoder=facts, chosen=chosen), None
    else:
        raise ConfigError(
            f"{'train' if train is None else 'dev'}: found none; expected both training and development texts, or "
            "neither for a general config; fix: give both --train and --dev"
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
    """Where the data are, and how they are read."""

    train: Path
    dev: Path
    lang: str
    options: Options

    def of_other_formats(self) -> bool:
        """Whether spaCy's own corpus reader can't read them."""
        return self.options != Options() or not all(map(is_stored, (self.train, self.dev)))


def _for_data(
    recipe: RecipeTask, task: str, output: Path, data: _Data, encoder: str, revision: str, aim: Aim
) -> tuple[str, Plan]:
    """The config for given data, and what was chosen."""
    if any(head.labels for head in recipe.heads):
        raise ConfigError(
            f"train: found data; expected none for {task!r}, since they don't say which category belongs to which set; "
            "fix: leave --train and --dev out, and put the labels of each set into the config"
        )
    for path in (data.train, data.dev):
        check_data(path, data.options)
    loaded = load_encoder(encoder, revision)
    facts = facts_of(encoder, revision, loaded)
    nlp = blank(data.lang)
    nlp.tokenizer = PairTokenizer(nlp.vocab, nlp.tokenizer)
    train, dev = (
        summarise(stream_examples(nlp, path, data.options), loaded.splitter) for path in (data.train, data.dev)
    )
    check_annotation(task, recipe, data.train, data.dev, train, dev)
    chosen = choose(recipe, train, dev, facts, aim)
    recipe = fitted(recipe, train, chosen)
    text = render(
        recipe,
        file=str(output),
        lang=data.lang,
        train=str(data.train),
        dev=str(data.dev),
        encoder=facts,
        chosen=chosen,
        options=data.options if data.of_other_formats() else None,
        in_pairs=bool(train.pairs),
    )
    return text, Plan(train, dev, facts, chosen, warnings_of(recipe, train, dev))


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
