"""`spacy-bertft.distill.v1`: the heads of a pipeline learn from those of trained pipelines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spacy.language import Language

from spacy_bertft.components.distill_settings import DistillSettings
from spacy_bertft.components.distillation import Distillation, Teacher
from spacy_bertft.components.head_pipe import HeadPipe
from spacy_bertft.components.hidden_rows import HiddenRows
from spacy_bertft.components.rehearsal import FrozenEncoder
from spacy_bertft.errors import ConfigError, need_torch
from spacy_bertft.jobs.evaluate import load_pipeline
from spacy_bertft.learning.shim import shim_of
from spacy_bertft.signatures import with_settings

_logger = logging.getLogger("spacy")


@with_settings(DistillSettings)
def create_distill(teachers: list[str], **settings: Any) -> Callable[[Language], Language]:
    """For [initialize.before_init]: let each head learn from the heads of the same name in trained pipelines.

    Heads that have no labels yet get those of their teachers.

    teachers: folders of pipelines; a head learns the mean of what those say that have it.
    settings: the fields of `DistillSettings`.
    """
    chosen = DistillSettings(**settings)

    def distill(nlp: Language) -> Language:
        heads = {name: pipe for name, pipe in nlp.pipeline if isinstance(pipe, HeadPipe)}
        found: dict[str, list[Teacher]] = {}
        for source in teachers:
            for name, teacher in load_teacher(source)[1].items():
                found.setdefault(name, []).append(teacher)
        taught = {name: of_head for name, of_head in found.items() if name in heads}
        if not taught:
            raise ConfigError(
                f"No head of the pipeline has a teacher: its heads are {', '.join(heads) or 'none'}, those of the "
                f"teachers are {', '.join(found) or 'none'}. Expected heads of the same names. Rename those of the "
                "config, or name other pipelines as teachers in [initialize.before_init]."
            )
        untaught = [f"{name} (of {found[name][0].source})" for name in found if name not in heads]
        if untaught:
            _logger.warning("The pipeline has no head for these teachers: %s", ", ".join(untaught))
        distillation = Distillation(taught, chosen)
        for name, of_head in taught.items():
            _take(nlp, heads[name], of_head, distillation)
        return nlp

    return distill


def _take(nlp: Language, head: HeadPipe, teachers: list[Teacher], distillation: Distillation) -> None:
    """Let a head learn from its teachers."""
    factory = nlp.get_pipe_meta(head.name).factory
    for teacher in teachers:
        if teacher.factory != factory:
            raise ConfigError(
                f"The head {head.name!r} is a {factory}, but in its teacher {teacher.source!r} it is a "
                f"{teacher.factory}. Expected the same kind of head. Change its factory, or its name."
            )
    head.distillation = distillation
    encoder = head.reads.encoder
    if distillation.settings.hidden and encoder is not None and encoder.hidden_rows not in distillation.hidden_rows:
        first, weight = teachers[0], distillation.settings.hidden
        encoder.hidden_rows = HiddenRows(first.source, first.encoder, encoder.student, weight)
        distillation.hidden_rows.append(encoder.hidden_rows)
    if shim_of(head.model).module is None:
        for label in (label for teacher in teachers for label in teacher.labels):
            head.add_label(label)


def load_teacher(source: str) -> tuple[Language, dict[str, Teacher]]:
    """Load a trained pipeline, and give its heads by name. Raises a ConfigError if it has none with an encoder."""
    need_torch("Learning from a teacher")
    nlp = load_pipeline(Path(source))
    heads = {name: pipe for name, pipe in nlp.pipeline if isinstance(pipe, HeadPipe)}
    modules = {name: shim_of(pipe.model).module for name, pipe in heads.items()}
    encoders = {name: pipe.reads.encoder for name, pipe in heads.items()}
    without = [name for name in heads if encoders[name] is None or modules[name] is None]
    if not heads or without:
        found = f"the head {without[0]!r} without a trained bertft_encoder" if without else "no head of this package"
        raise ConfigError(
            f"The teacher {source!r} has {found} (its components: {', '.join(nlp.pipe_names) or 'none'}). Expected a "
            "trained pipeline of a bertft_encoder and heads such as bertft_ner or bertft_textcat. Other components, "
            "such as spaCy's own, can't be distilled; `bertft migrate` converts pipelines of spacy-transformers."
        )
    frozen = {one: FrozenEncoder(one.encoder) for one in set(encoders.values()) if one is not None}
    found_heads = {}
    for name, encoder in encoders.items():
        module, cfg = modules[name], heads[name].cfg
        assert encoder is not None
        kind = nlp.get_pipe_meta(name).factory
        given = (heads[name].labels, cfg["statistics"], cfg["targets_per_doc"])
        found_heads[name] = Teacher(source, kind, module, *given, frozen[encoder])
    return nlp, found_heads
