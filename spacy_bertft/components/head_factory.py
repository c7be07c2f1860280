"""Factories of heads, created from their Tasks: the settings of the Task, and those that all heads have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from spacy.language import Language

from spacy_bertft.components.head_pipe import HeadPipe
from spacy_bertft.components.metric_kinds import ScoreKind, declare_scores
from spacy_bertft.components.task import Task
from spacy_bertft.learning.losses import Loss
from spacy_bertft.signatures import with_settings

Scorer = Callable[..., dict[str, Any]]


def head_factory(
    factory: str,
    settings: type[Any],
    task: Callable[..., Task],
    *,
    assigns: Sequence[str],
    scorer: str,
    score_weights: Mapping[str, float | None],
    scored_by: Sequence[str] = (),
    score_kinds: Mapping[str, ScoreKind] = MappingProxyType({}),
    loss: str = "spacy-bertft.CrossEntropy.v1",
) -> Callable[..., HeadPipe]:
    """Register the factory of a head and return it, for an entry point.

    factory: its name, such as "bertft_ner".
    settings: a dataclass whose fields, with their defaults, are the component's own settings.
    task: creates the Task from these settings; for most heads the same dataclass.
    assigns, scorer, score_weights: as in Language.factory; scorer is a registered name.
    scored_by: the settings that the scorer and `spacy find-threshold` read.
    score_kinds: the kinds of its scores that are not fractions; see components/metric_kinds.py.
    loss: the registered name of the default loss.

    All heads have these settings too:

    encoder: name of the encoder component to read; None: the nearest before this one.
    loss: the training loss; see learning/losses.py.
    learn_rate_factor: learning rate of this head, as a multiple of the optimizer's; None: 1 if the encoder is trained
        too, else 50, because a head alone needs a higher rate than an encoder.
    scorer: registered function that scores its predictions.
    """

    @with_settings(settings)
    def make(
        nlp: Language,
        name: str,
        encoder: str | None,
        loss: Loss,
        learn_rate_factor: float | None,
        scorer: Scorer | None,
        **own: Any,
    ) -> HeadPipe:
        return HeadPipe(
            nlp.vocab,
            task(**own),
            name,
            scorer=scorer,
            upstream=encoder,
            learn_rate_factor=learn_rate_factor,
            loss=loss,
            cfg={key: own[key] for key in scored_by},
        )

    declare_scores(score_kinds)
    default_config = {
        "encoder": None,
        **asdict(settings()),
        "loss": {"@losses": loss},
        "learn_rate_factor": None,
        "scorer": {"@scorers": scorer},
    }
    Language.factory(
        factory, assigns=list(assigns), default_config=default_config, default_score_weights=dict(score_weights)
    )(make)
    return make
