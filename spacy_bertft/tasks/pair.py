"""`bertft_pair`: one category of two texts, such as a paraphrase or an entailment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from torch import Tensor

from spacy_bertft.head_pipe import HeadPipe
from spacy_bertft.pooling import DocPooling
from spacy_bertft.segments import SEGMENTS_KEY, need_segments
from spacy_bertft.tasks.textcat import SCORE_WEIGHTS, CategoryTask, category_pipe
from spacy_bertft.types import Features


@dataclass(frozen=True)
class PairTask(CategoryTask):
    """Exclusive categories of Docs of two segments."""

    segments_key: str = SEGMENTS_KEY

    def labels_in(self, examples: Sequence[Example]) -> Iterable[str]:
        """The categories named in the gold annotations."""
        self._check_docs([eg.predicted for eg in examples])
        return super().labels_in(examples)

    def loss(self, logits: Tensor, examples: Sequence[Example], features: Features, labels: Sequence[str]) -> Tensor:
        """Cross-entropy summed over the Docs."""
        self._check_docs([eg.predicted for eg in examples])
        return super().loss(logits, examples, features, labels)

    def annotate(self, docs: Sequence[Doc], logits: Tensor, features: Features, labels: Sequence[str]) -> None:
        """Set doc.cats; categories of other components stay."""
        self._check_docs(docs)
        super().annotate(docs, logits, features, labels)

    def _check_docs(self, docs: Sequence[Doc]) -> None:
        need_segments(docs, self.segments_key, component="bertft_pair")


@Language.factory(
    "bertft_pair",
    assigns=["doc.cats"],
    default_config={
        "encoder": None,
        "pooling": "cls",
        "positive_label": None,
        "threshold": 0.0,
        "temperature": 1.0,
        "segments_key": SEGMENTS_KEY,
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
    threshold: float,
    temperature: float,
    segments_key: str,
    learn_rate_factor: float,
    scorer: Callable[..., dict[str, Any]] | None,
) -> HeadPipe:
    """The component for categories of two texts: [CLS] first [SEP] second [SEP] (Devlin et al., 2019, section 4.1).

    segments_key: key of doc.spans where the two segments stand; the encoder's must be the same.
    The other settings are those of bertft_textcat.
    """
    task = PairTask(True, pooling, positive_label, temperature=temperature, segments_key=segments_key)
    return category_pipe(nlp, name, task, encoder, threshold, learn_rate_factor, scorer)
