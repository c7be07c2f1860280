"""The config of a student: the heads of its teachers, its own encoder, and settings that suit both and the texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spacy.util import load_config_from_str
from thinc.api import Config

from spacy_bertft.errors import ConfigError
from spacy_bertft.files import PIPELINE
from spacy_bertft.jobs.config_check import check_overrides
from spacy_bertft.jobs.convert.corpus import is_stored
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.distill.parts import Parts
from spacy_bertft.jobs.recipes.choices import Choices, EncoderFacts
from spacy_bertft.jobs.recipes.render import render, value_text
from spacy_bertft.jobs.recipes.tasks import Head, RecipeTask

_HEADER = """\
# The student of {teachers}.
#
#   bertft train {file} --output {folder}
#
# trains it again; any value can be given on the command line: --training.max_epochs 10"""
_UNLABELLED = """\
[corpora.train]
# The annotated texts, and then the unlabelled ones, which are learned from the teachers alone.
@readers = "spacy-bertft.WithUnlabelled.v1"
unlabelled = ${paths.unlabelled}"""
_INITIALIZE = """\
[initialize]

[initialize.before_init]
# Each head learns from the heads of the same name in these pipelines; from several, the mean of what they say.
@callbacks = "spacy-bertft.distill.v1"
"""
_ABOUT = {
    "teachers": "",
    "weight": "Share of the loss on the teachers' outputs; the rest is for the head's own loss, on annotations.",
    "temperature": "Divisor of the logits of teacher and student; 1 changes nothing.",
    "hidden": "Factor of the loss on the encoder's hidden rows; needs the teacher's tokenizer. 0: there is none.",
    "cache_mb": "MiB of teachers' outputs that are kept; texts beyond it are read by the teachers in every epoch.",
}


@dataclass(frozen=True, slots=True)
class Data:
    """The texts of a distillation, and how they are read. train: None if all are unlabelled."""

    train: Path | None
    dev: Path
    unlabelled: tuple[Path, ...] = ()
    options: Options = field(default_factory=Options)

    @property
    def other_formats(self) -> bool:
        """Whether spaCy's own corpus reader can't read the annotated ones."""
        given = [path for path in (self.train, self.dev) if path is not None]
        return self.options != Options() or not all(map(is_stored, given))


def make_config(
    parts: Parts,
    data: Data,
    encoder: EncoderFacts,
    chosen: Choices,
    distill: Mapping[str, Any],
    *,
    folder: Path,
    overrides: Mapping[str, Any],
) -> str:
    """The text of a config.

    encoder    the student's
    chosen     the settings of the run
    distill    those of the callback
    folder     of the student
    overrides  values by section.name, from the user
    """
    task = RecipeTask(tuple(Head(name, kind) for name, kind in parts.heads), "", {})
    options = data.options if data.other_formats else None
    recipe = _sections(render(task, file="", train="train", dev="dev", encoder=encoder, chosen=chosen, options=options))
    training = {name: text for name, text in recipe.items() if name.partition(".")[0] == "training"}
    frozen = f"frozen_components = {value_text(parts.frozen)}"
    training["training"] = training["training"].replace("frozen_components = []", frozen)
    header = _HEADER.format(teachers=", ".join(distill["teachers"]), file=folder / PIPELINE, folder=folder)
    sections = {
        "": header,
        "paths": _paths(data),
        "system": recipe["system"],
        **_sections(Config({"nlp": parts.nlp}).to_str()),
        **_sections(Config({"components": parts.components(encoder)}).to_str()),
        **_corpora(recipe, data),
        **training,
        **_sections(Config({"training": {"score_weights": parts.score_weights}}).to_str(), but="training"),
        "initialize": _INITIALIZE + "\n".join(_settings(distill)),
    }
    return _overridden(sections, overrides)


def _sections(text: str, *, but: str = "") -> dict[str, str]:
    """The sections of a config's text by name, comments included, except one. What comes before the first is ""."""
    parts = (part.strip() for part in re.split(r"(?m)^(?=\[)", text))
    named = {(part[1:].partition("]")[0] if part.startswith("[") else ""): part for part in parts if part}
    return {name: part for name, part in named.items() if name != but or not but}


def _paths(data: Data) -> str:
    lines = ["[paths]", f"train = {value_text(None if data.train is None else str(data.train))}"]
    lines.append(f"dev = {value_text(str(data.dev))}")
    if data.unlabelled:
        lines.append(f"unlabelled = {value_text([str(path) for path in data.unlabelled])}")
    return "\n".join(lines)


def _corpora(recipe: Mapping[str, str], data: Data) -> dict[str, str]:
    found = {name: text for name, text in recipe.items() if name.partition(".")[0] == "corpora"}
    if data.unlabelled:
        given = {name: one for name, one in vars(data.options).items() if one != getattr(Options, name)}
        lines = [_UNLABELLED, *(f"{name} = {value_text(one)}" for name, one in given.items())]
        annotated = found["corpora.train"].replace("[corpora.train]", "[corpora.train.annotated]")
        text = "\n".join([*lines, "annotated = null"] if data.train is None else [*lines, "", annotated])
        found["corpora.train"] = text
    return found


def _settings(distill: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in distill.items():
        lines += [f"# {_ABOUT[name]}"] if _ABOUT[name] else []
        lines.append(f"{name} = {value_text(value)}")
    return lines


def _overridden(sections: Mapping[str, str], overrides: Mapping[str, Any]) -> str:
    """The text with the user's values; sections that they change lose their comments."""
    text = "\n\n".join(sections.values()) + "\n"
    if not overrides:
        return text
    check_overrides(load_config_from_str(text), overrides)
    try:
        changed = load_config_from_str(text, overrides=dict(overrides)).to_str(interpolate=False)
    except ValueError as error:
        raise ConfigError(
            f"Found {', '.join(overrides)} for the student's config, which can't be set: {error}"
        ) from error
    commented, new = _sections(text), _sections(changed)
    before = _sections(load_config_from_str(text).to_str(interpolate=False))
    kept = {name: commented.get(name, part) if before.get(name) == part else part for name, part in new.items()}
    order = [*(name for name in commented if name in {"", *new}), *(name for name in new if name not in commented)]
    return "\n\n".join({"": commented[""], **kept}[name] for name in order) + "\n"
