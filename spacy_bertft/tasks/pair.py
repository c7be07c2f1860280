"""`bertft_pair`: one category of two texts, such as a paraphrase or an entailment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spacy.language import Language

from spacy_bertft.components.head_pipe import HeadPipe
from spacy_bertft.encoder.pooling import DocPooling
from spacy_bertft.tasks.textcat import SCORE_WEIGHTS, CategoryTask, category_pipe


@Language.factory(
    "bertft_pair",
    assigns=["doc.cats"],
    default_config={
        "encoder": None,
        "pooling": "cls",
        "positive_label": None,
        "temperature": 1.0,
        "learn_rate_factor": 1.0,
        "scorer": {"@scorers": "spacy.textcat_scorer.v2"},
    },
    default_score_weights=SCORE_WEIGHTS,
)
def make_pair(
    nlp: Language,
    name: str,
    encoder: str | None,
    pooling: DocPooling,
    positive_label: str | None,
    temperature: float,
    learn_rate_factor: float,
    scorer: Callable[..., dict[str, Any]] | None,
) -> HeadPipe:
    """The component for categories of two texts: [CLS] first [SEP] second [SEP] (Devlin et al., 2019, section 4.1).

    The settings are those of bertft_textcat.
    """
    task = CategoryTask(True, pooling, positive_label, temperature=temperature, needs_segments=True)
    return category_pipe(nlp, name, task, encoder, 0.0, learn_rate_factor, scorer)
