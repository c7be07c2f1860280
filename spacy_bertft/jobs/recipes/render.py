"""A config as text, with a comment beside each setting that people change."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment

from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.recipes.choices import Choices, EncoderFacts
from spacy_bertft.jobs.recipes.tasks import RecipeTask
from spacy_bertft.jobs.templates import templates

_TEMPLATE = "config.cfg.jinja"
_COMMENT_WIDTH = 118
_NO_BREAK = "\u00a0"
_SPANCAT_RATE = 1e-3  # of layers that start at random, by spaCy's own configs
_SCORERS = {
    "ner": "spacy.ner_scorer.v1",
    "textcat": "spacy-bertft.textcat_scorer.v1",
    "textcat_multilabel": "spacy.textcat_multilabel_scorer.v2",
    "pair": "spacy.textcat_scorer.v2",
    "qa": "spacy-bertft.answer_scorer.v1",
    "regression": "spacy-bertft.value_scorer.v1",
}
_READS_ANY = "Reads .spacy, and all files that `bertft convert` reads."
# For each task that reads files without conversion: what, and the options that its config names.
_READS = {
    "pair": (
        "Reads .spacy, and the input of `bertft convert`: .tsv, .csv and .jsonl with two texts and a label.",
        "Keys or columns of the two texts and of the label.",
        ("first_key", "second_key", "label_key"),
    ),
    "qa": ("Reads .spacy, and the input of `bertft convert`: .json in the form of SQuAD 1.1 or 2.0.", "", ()),
    "regression": (
        "Reads .spacy, and the input of `bertft convert`: .tsv, .csv and .jsonl with a text and a number.",
        "JSON key or column of the number.",
        ("value_key",),
    ),
}


def render(
    task: RecipeTask,
    *,
    file: str,
    lang: str = "en",
    train: str | None = None,
    dev: str | None = None,
    encoder: EncoderFacts | None = None,
    chosen: Choices | None = None,
    options: Options | None = None,
    in_pairs: bool = False,
) -> str:
    """The config of a task.

    file        where it will be, for the command in its first lines
    train, dev  paths of the data; None: they are given on the command line
    options     how the data are read; None: they are .spacy, as `bertft convert` writes them
    in_pairs    whether the texts have two segments, although the task does not need them
    """
    encoder, chosen = encoder or EncoderFacts(), chosen or Choices()
    kind = next((kind for kind in _READS if kind in task.kinds), None)
    reads, about, named = _READS.get(kind or "", (_READS_ANY, "How the file is read.", ()))
    spancat = "spancat" in task.kinds
    return (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            task=task,
            file=file,
            lang=lang,
            train=train,
            dev=dev,
            encoder=encoder,
            chosen=chosen,
            in_pairs=in_pairs or task.in_pairs,
            own_reader=kind is not None or options is not None,
            reads=reads,
            options=_options(options or Options(), named),
            about_options=about,
            scorers=_SCORERS,
            rate=_SPANCAT_RATE if spancat else chosen.rate,
            encoder_factor=f"{chosen.rate / _SPANCAT_RATE:.3g}",
            weights=_weights(task, chosen),
        )
    )


def _environment() -> Environment:
    environment = templates("spacy_bertft.jobs.recipes")
    environment.filters["value"] = value_text
    environment.filters["comment"] = _comment
    return environment


def value_text(value: Any) -> str:
    """A value as spaCy's configs write it."""
    if isinstance(value, float) and 0 < value < 0.01:
        mantissa, _, exponent = f"{value:e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    if isinstance(value, tuple):
        return "[" + ",".join(map(value_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _comment(text: str) -> str:
    """Text as comment lines; a no-break space keeps code together and becomes an ordinary one."""
    # str.split() would break at no-break spaces, textwrap does not.
    lines = textwrap.wrap(text, _COMMENT_WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    return "\n".join(lines).replace(_NO_BREAK, " ")


def _options(options: Options, named: tuple[str, ...]) -> Mapping[str, Any]:
    """The options that a task's config names, and those that were given."""
    given = {name: value for name, value in vars(options).items() if value != getattr(Options, name)}
    return {**{name: getattr(options, name) for name in named}, **given}


def _weights(task: RecipeTask, chosen: Choices) -> Mapping[str, float | None]:
    if "spancat" not in task.kinds:
        return task.weights
    # The scores of spancat's default key would get half of the weight.
    others = {} if chosen.spans_key == "sc" else {f"spans_sc_{score}": None for score in "fpr"}
    return {f"spans_{chosen.spans_key}_f": 1.0, **others}
