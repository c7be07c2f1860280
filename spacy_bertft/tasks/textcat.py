"""`bertft_textcat` and `bertft_textcat_multilabel`: categories of a whole Doc."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from spacy.tokens import Doc
from spacy.training import Example

from spacy_bertft.components.head_factory import head_factory
from spacy_bertft.components.head_inference import HeadWeights, hidden_vectors, outputs, sigmoid, softmax
from spacy_bertft.components.hidden_layer import PooledHiddenLayer
from spacy_bertft.components.task import HeadOutput, not_learned
from spacy_bertft.encoder.pooling import DocPooling, doc_vectors
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.learning.classes import Classes
from spacy_bertft.learning.losses import Targets
from spacy_bertft.tasks.calibration import fit_temperature, fit_threshold
from spacy_bertft.types import Features, Floats

if TYPE_CHECKING:
    from torch import Tensor, nn

    from spacy_bertft.components.head_modules import Head


@dataclass(frozen=True)
class CategoryTask(PooledHiddenLayer):
    """Categories of a Doc, of which exactly one (exclusive) or any number apply.

    One exclusive category may be the unknown one, for texts of none of the others. The head has no output for it: its
    logit in the softmax is a threshold, so its probability is a logistic function of the text's energy (Liu et al.,
    2020, Energy-based out-of-distribution detection), and it wins if no other logit reaches the threshold.

    pooling: what represents a Doc: its "cls" subword, the "mean" of its subwords, or that of its subwords and the
        special ones ("mean_all").
    positive_label: with two labels, the one whose F-score is the component's score.
    threshold: minimum score for the scorer to count a category as predicted.
    unknown_label: the category of texts that belong to none of the others; training texts of this category teach the
        head to predict a uniform distribution.
    unknown_threshold: threshold for the logits divided by the temperature; `bertft calibrate` fits it.
    temperature: divisor of the logits (Guo et al., 2017, On calibration of modern neural networks); `bertft calibrate`
        fits it.
    """

    exclusive: bool = True
    pooling: DocPooling = "cls"
    positive_label: str | None = None
    threshold: float = 0.0
    unknown_label: str | None = None
    unknown_threshold: float = 0.0
    temperature: float = 1.0
    needs_segments: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < math.inf:
            raise ConfigError(
                f"The temperature is {self.temperature:g}; expected more than 0. 1 leaves the scores unchanged."
            )
        if self.unknown_label is not None and self.positive_label is not None:
            raise ConfigError(
                f"Found positive_label = {self.positive_label!r} and unknown_label = {self.unknown_label!r}; expected "
                "one of them at most: a positive label is one of two. Leave one out (null)."
            )

    def labels_in(self, examples: Sequence[Example]) -> Iterable[str]:
        """The categories in the gold annotations, whatever their value, except the unknown one."""
        return (label for eg in examples for label in eg.reference.cats if label != self.unknown_label)

    def check(self, labels: Sequence[str]) -> None:
        """Require at least two exclusive categories, with the positive one among them and without the unknown one."""
        found = f"Found {len(labels)}: {', '.join(labels)}."
        if self.exclusive and len(labels) < 2:
            raise ConfigError(
                f"Exclusive categories need at least two labels. {found} Add the other label to the training data, or "
                "use bertft_textcat_multilabel, where a single label means yes or no."
            )
        if self.positive_label is not None and (self.positive_label not in labels or len(labels) != 2):
            raise ConfigError(
                f"positive_label is {self.positive_label!r}; expected one of exactly two labels. {found} Correct it in "
                "the component's config, or leave it out (null)."
            )
        if self.unknown_label in labels:
            raise ConfigError(
                f"unknown_label is {self.unknown_label!r}, which is also a label to learn. {found} Take it out of the "
                "label file, or name another unknown_label."
            )

    def prepare(self, examples: Sequence[Example]) -> dict[str, Any]:
        """How many texts are of each category, and how many are annotated for it if others can apply too."""
        counts: dict[str, float] = defaultdict(float)
        annotated: dict[str, int] = defaultdict(int)
        for eg in examples:
            for label, value in eg.reference.cats.items():
                counts[label] += value
                annotated[label] += 1
        found = {"counts": dict(sorted(counts.items()))}
        return found if self.exclusive else {**found, "annotated": dict(sorted(annotated.items()))}

    def n_outputs(self, n_labels: int) -> int:
        """One for each label."""
        return n_labels

    def logits(self, weights: HeadWeights, features: Features) -> Floats:
        """Logits of all Docs (B, L)."""
        return doc_logits(weights, self, self.pooling, features)

    def build(self, width: int, n_labels: int, pooler: nn.Linear | None) -> Head:
        """A new DocHead."""
        from spacy_bertft.tasks.modules import DocHead

        return DocHead(width, n_labels, self.pooling, pooler, self)

    def start(self, module: Head, labels: Sequence[str], statistics: Mapping[str, Any]) -> None:
        """Let the biases predict the share of each category in the training data (Lin et al., 2017, section 4.1)."""
        import torch

        classes = self._classes(labels, statistics)
        with torch.no_grad():
            module.output.bias.copy_(classes.log_shares() if self.exclusive else classes.log_odds())

    def _classes(self, labels: Sequence[str], statistics: Mapping[str, Any]) -> Classes:
        if self.exclusive:
            return Classes.exclusive(labels, statistics, shared=self.unknown_label)
        return Classes.independent(labels, statistics)

    def targets(self, output: HeadOutput[Tensor], examples: Sequence[Example]) -> Targets:
        """A distribution over the labels of each Doc, or the probability of each label if they are not exclusive.

        The target of a text of the unknown category is the uniform distribution (Hendrycks et al., 2019, Deep anomaly
        detection with outlier exposure).
        """
        import torch

        found = torch.from_numpy(self._targets(examples, output)).to(output.logits.device)  # (B, L)
        values = found.nan_to_num(0.0)
        classes = self._classes(output.labels, output.statistics)
        if self.exclusive:
            # If one label is true, labels not mentioned are false; without a true one, the text is not annotated.
            return Targets("exclusive", values, values.sum(dim=1) > 0, classes=classes)
        return Targets("independent", values, ~found.isnan(), scale=1 / len(output.labels), classes=classes)

    def _targets(
        self, examples: Sequence[Example], output: HeadOutput[Tensor]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The gold values (B, L), NaN where there is none."""
        place = {label: number for number, label in enumerate(output.labels)}
        targets = np.full((len(examples), len(place)), np.nan, dtype=np.float32)
        for row, eg in zip(targets, examples, strict=True):
            cats = {label: value for label, value in eg.reference.cats.items() if label in (*place, self.unknown_label)}
            others = sorted(set(eg.reference.cats) - set(cats))
            if others and not output.labels_given:
                raise not_learned("category", others[0], output.labels)
            wrong = [label for label, value in cats.items() if not 0 <= value <= 1]
            if wrong:
                raise DataError(
                    f"The gold category {wrong[0]!r} of a text is {cats[wrong[0]]:g} ({eg.reference.text[:60]!r}). "
                    "Expected 0 to 1. Correct the annotation."
                )
            if self.exclusive and sum(cats.values()) > 1.001:
                raise DataError(
                    f"A text has several exclusive categories: {dict(cats)} ({eg.reference.text[:60]!r}). Expected "
                    "values that sum to 1. Correct the annotation, or use bertft_textcat_multilabel."
                )
            for label, value in cats.items():
                if label in place:
                    row[place[label]] = value
            if cats.get(self.unknown_label or "", 0.0) > 0.5:
                row[:] = 1 / len(place)
        return targets

    def annotate(self, docs: Sequence[Doc], output: HeadOutput[Floats]) -> None:
        """Set doc.cats; categories of other components stay."""
        labels = output.labels
        logits = output.logits / np.float32(self.temperature)
        if self.unknown_label is not None:
            labels = (*labels, self.unknown_label)
            logits = np.pad(logits, ((0, 0), (0, 1)), constant_values=self.unknown_threshold)
        scores = softmax(logits) if self.exclusive else sigmoid(logits)
        for doc, row in zip(docs, scores.tolist(), strict=True):
            doc.cats.update(zip(labels, row, strict=True))

    def evidence(self, output: HeadOutput[Floats], examples: Sequence[Example]) -> list[tuple[Any, int]]:
        """The logits (L,) of each annotated Doc, and the index of its category: L for the unknown one."""
        places = {label: place for place, label in enumerate([*output.labels, self.unknown_label])}
        found = []
        for row, eg in zip(output.logits, examples, strict=True):
            cats = {label: value for label, value in eg.reference.cats.items() if label in places and value > 0.5}
            if cats:
                found.append((row, places[max(cats, key=lambda label: cats[label])]))
        return found

    def fit(self, evidence: Sequence[tuple[Any, int]]) -> dict[str, float]:
        """The temperature that maximises the likelihood of the categories, and the unknown_threshold.

        The threshold maximises the mean of the accuracy on texts of known categories and the recall of unknown texts.
        """
        if not self.exclusive:
            return {}
        logits, gold = np.array([row for row, _ in evidence]), np.array([number for _, number in evidence])
        known = gold < logits.shape[-1]
        if not known.any() or (self.unknown_label is not None and known.all()):
            wanted = "known categories" + ("" if self.unknown_label is None else f" and of {self.unknown_label!r}")
            raise DataError(
                f"Found {int(known.sum())} texts of known categories and {int((~known).sum())} others to fit on. "
                f"Expected texts of {wanted}. Add annotated ones to the data."
            )
        temperature = fit_temperature(logits[known], gold[known])
        fitted = {"temperature": temperature}
        if self.unknown_label is not None:
            best = logits.max(axis=1) / temperature
            right = best[known][logits[known].argmax(axis=1) == gold[known]]
            fitted["unknown_threshold"] = round(fit_threshold(right, best[~known], n_known=int(known.sum())), 4)
        return fitted


def doc_logits(weights: HeadWeights, layer: PooledHiddenLayer, pooling: DocPooling, features: Features) -> Floats:
    """Logits of all Docs (B, L); one longer than a window is pooled over its windows."""
    return outputs(weights, hidden_vectors(weights, layer, doc_vectors(features, pooling)))


SCORE_WEIGHTS = {
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
# The score of spaCy's scorer for several categories is an AUC, which stays high if no category reaches the threshold.
_MULTILABEL_WEIGHTS = {
    **SCORE_WEIGHTS,
    "cats_score": None,
    "cats_micro_f": 0.5,
    "cats_macro_f": 0.5,
    "cats_macro_auc": 0.0,
}


@dataclass(frozen=True)
class _ExclusiveSettings(PooledHiddenLayer):
    """The settings of bertft_textcat; CategoryTask explains them."""

    pooling: DocPooling = "cls"
    positive_label: str | None = None
    threshold: float = 0.0
    unknown_label: str | None = None
    unknown_threshold: float = 0.0
    temperature: float = 1.0


@dataclass(frozen=True)
class _MultilabelSettings(PooledHiddenLayer):
    """The settings of bertft_textcat_multilabel; CategoryTask explains them."""

    pooling: DocPooling = "cls"
    threshold: float = 0.5


make_textcat = head_factory(
    "bertft_textcat",
    _ExclusiveSettings,
    CategoryTask,
    assigns=["doc.cats"],
    scorer="spacy-bertft.textcat_scorer.v1",
    score_weights=SCORE_WEIGHTS,
    scored_by=["threshold", "positive_label", "unknown_label"],
)
make_textcat_multilabel = head_factory(
    "bertft_textcat_multilabel",
    _MultilabelSettings,
    partial(CategoryTask, exclusive=False),
    assigns=["doc.cats"],
    scorer="spacy.textcat_multilabel_scorer.v2",
    score_weights=_MULTILABEL_WEIGHTS,
    scored_by=["threshold"],
)
