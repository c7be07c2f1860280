"""`bertft_textcat` and `bertft_textcat_multilabel`: categories of a whole Doc."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.head_pipe import HeadPipe, new_linear, unknown_label
from spacy_bertft.pooling import DocPooling, doc_vectors
from spacy_bertft.types import Features


class DocHead(nn.Module):
    """BERT's classification head: dropout, dense layer with tanh, dropout, linear. Features -> logits (B, L).

    The dense layer starts as the checkpoint's pooler where it has one (Devlin et al., 2019, section 3).
    """

    def __init__(self, width: int, n_outputs: int, pooling: DocPooling, pooler: nn.Linear | None) -> None:
        super().__init__()
        self.pooling = pooling
        self.dropout = nn.Dropout()
        self.dense = new_linear(width, width)
        self.output = new_linear(width, n_outputs)
        if pooler is not None and pooling == "cls":
            self.dense.load_state_dict(pooler.state_dict())

    def forward(self, features: Features) -> Tensor:
        """Logits of all Docs; one longer than a window is the mean of its windows."""
        pooled = torch.tanh(self.dense(doc_vectors(features, self.pooling)))
        logits: Tensor = self.output(self.dropout(pooled))
        return logits


@dataclass(frozen=True)
class CategoryTask:
    """Categories, of which one ("exclusive") or any number hold."""

    exclusive: bool
    pooling: DocPooling = "cls"
    positive_label: str | None = None

    def labels_in(self, examples: Sequence[Example]) -> Iterable[str]:
        """The categories named in the gold annotations, with whatever value."""
        return (label for eg in examples for label in eg.reference.cats)

    def check(self, labels: Sequence[str]) -> None:
        """At least two exclusive categories; the positive one is among them."""
        found = f"Found {len(labels)}: {', '.join(labels)}."
        if self.exclusive and len(labels) < 2:
            raise ConfigError(
                f"Exclusive categories need at least two labels. {found} Add the other label to the training data, or "
                "use bertft_textcat_multilabel, where one label alone is a yes or no."
            )
        if self.positive_label is not None and (self.positive_label not in labels or len(labels) != 2):
            raise ConfigError(
                f"positive_label is {self.positive_label!r}; expected one of exactly two labels. {found} Correct it in "
                "the component's config, or leave it out (null)."
            )

    def n_outputs(self, n_labels: int) -> int:
        """One a label."""
        return n_labels

    def targets_per_doc(self, examples: Sequence[Example]) -> float:
        """One: the loss of a Doc is already a mean over its labels."""
        return 1.0

    def build(self, width: int, n_outputs: int, pooler: nn.Linear | None) -> DocHead:
        """A new DocHead."""
        return DocHead(width, n_outputs, self.pooling, pooler)

    def loss(self, logits: Tensor, examples: Sequence[Example], features: Features, labels: Sequence[str]) -> Tensor:
        """Cross-entropy summed over the Docs, binary and averaged over the labels if they are not exclusive."""
        targets = torch.from_numpy(self._targets(examples, labels)).to(logits.device)  # (B, L), NaN where missing
        missing = targets.isnan()
        if self.exclusive:
            # A label that is not mentioned beside the true one is false; without a true one nothing is known.
            targets = targets.nan_to_num(0.0)
            known = targets.sum(dim=1) > 0
            return cross_entropy(logits[known], targets[known], reduction="sum")
        losses = binary_cross_entropy_with_logits(logits, targets.nan_to_num(0.0), reduction="none")
        return losses.masked_fill(missing, 0.0).sum() / len(labels)

    def _targets(self, examples: Sequence[Example], labels: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        place = {label: number for number, label in enumerate(labels)}
        targets = np.full((len(examples), len(labels)), np.nan, dtype=np.float32)
        for row, eg in zip(targets, examples, strict=True):
            cats = eg.reference.cats
            unknown = sorted(set(cats) - set(place))
            if unknown:
                raise unknown_label("category", unknown[0], labels)
            for label, value in cats.items():
                row[place[label]] = value
            if self.exclusive and np.nansum(row) > 1.001:
                raise DataError(
                    f"A text has several exclusive categories: {dict(cats)} ({eg.reference.text[:60]!r}). Expected "
                    "values that sum to 1. Correct the annotation, or use bertft_textcat_multilabel."
                )
        return targets

    def annotate(self, docs: Sequence[Doc], logits: Tensor, features: Features, labels: Sequence[str]) -> None:
        """Set doc.cats; categories of other components stay."""
        scores = logits.float().softmax(dim=1) if self.exclusive else logits.float().sigmoid()
        for doc, row in zip(docs, scores.tolist(), strict=True):  # sync
            doc.cats.update(zip(labels, row, strict=True))


_SCORE_WEIGHTS = {
    "cats_score": 1.0,
    "cats_score_desc": None,
    "cats_micro_p": None,
    "cats_micro_r": None,
    "cats_micro_f": None,
    "cats_macro_p": None,
    "cats_macro_r": None,
    "cats_macro_f": None,
    "cats_macro_auc": None,
    "cats_f_per_type": None,
}


@Language.factory(
    "bertft_textcat",
    assigns=["doc.cats"],
    default_config={
        "encoder": None,
        "pooling": "cls",
        "positive_label": None,
        "threshold": 0.0,
        "learn_rate_factor": 1.0,
        "scorer": {"@scorers": "spacy.textcat_scorer.v2"},
    },
    default_score_weights=_SCORE_WEIGHTS,
)
def make_textcat(
    nlp: Language,
    name: str,
    encoder: str | None,
    pooling: DocPooling,
    positive_label: str | None,
    threshold: float,
    learn_rate_factor: float,
    scorer: Callable[..., dict[str, Any]] | None,
) -> HeadPipe:
    """The component for exclusive categories: their scores in doc.cats sum to 1.

    encoder: name of the encoder component to read; None: the nearest before this one.
    pooling: a Doc is its "cls" subword, or the "mean" of its subwords.
    positive_label: of two labels, the one whose F-score is the component's score.
    threshold: score from which the scorer counts a category as predicted.
    learn_rate_factor: learn rate of this head, as a multiple of the optimizer's.
    """
    task = CategoryTask(True, pooling, positive_label)
    return _pipe(nlp, name, task, encoder, threshold, learn_rate_factor, scorer)


@Language.factory(
    "bertft_textcat_multilabel",
    assigns=["doc.cats"],
    default_config={
        "encoder": None,
        "pooling": "cls",
        "threshold": 0.5,
        "learn_rate_factor": 1.0,
        "scorer": {"@scorers": "spacy.textcat_multilabel_scorer.v2"},
    },
    default_score_weights=_SCORE_WEIGHTS,
)
def make_textcat_multilabel(
    nlp: Language,
    name: str,
    encoder: str | None,
    pooling: DocPooling,
    threshold: float,
    learn_rate_factor: float,
    scorer: Callable[..., dict[str, Any]] | None,
) -> HeadPipe:
    """The component for categories of which any number hold: each score in doc.cats stands alone.

    The settings are those of bertft_textcat.
    """
    task = CategoryTask(False, pooling)
    return _pipe(nlp, name, task, encoder, threshold, learn_rate_factor, scorer)


def _pipe(
    nlp: Language,
    name: str,
    task: CategoryTask,
    encoder: str | None,
    threshold: float,
    learn_rate_factor: float,
    scorer: Callable[..., dict[str, Any]] | None,
) -> HeadPipe:
    # The scorer and `spacy find-threshold` read these from cfg.
    cfg = {"threshold": threshold, "positive_label": task.positive_label}
    return HeadPipe(
        nlp.vocab, task, name, scorer=scorer, upstream=encoder, learn_rate_factor=learn_rate_factor, cfg=cfg
    )
