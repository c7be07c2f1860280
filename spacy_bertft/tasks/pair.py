"""`bertft_pair`: one category per pair of texts, such as paraphrase or entailment.

The texts are read as [CLS] first [SEP] second [SEP] (Devlin et al., 2019, section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from spacy_bertft.components.head_factory import head_factory
from spacy_bertft.components.hidden_layer import PooledHiddenLayer
from spacy_bertft.encoder.pooling import DocPooling
from spacy_bertft.tasks.textcat import SCORE_WEIGHTS, CategoryTask


@dataclass(frozen=True)
class _PairSettings(PooledHiddenLayer):
    """The settings of bertft_pair; CategoryTask explains them."""

    pooling: DocPooling = "cls"
    positive_label: str | None = None
    temperature: float = 1.0


make_pair = head_factory(
    "bertft_pair",
    _PairSettings,
    partial(CategoryTask, needs_segments=True),
    assigns=["doc.cats"],
    scorer="spacy.textcat_scorer.v2",
    score_weights=SCORE_WEIGHTS,
    scored_by=["positive_label"],
)
