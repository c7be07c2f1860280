"""`bertft_textcat` and `bertft_textcat_multilabel`: categories of a whole Doc."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from spacy.language import Language
from spacy.pipeline.textcat import textcat_score
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import registry
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from spacy_bertft.components.head_pipe import HeadPipe, new_linear, not_learned
from spacy_bertft.encoder.pooling import DocPooling, doc_vectors
from spacy_bertft.errors import ConfigError, DataError
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
    """Categories, of which one ("exclusive") or any number hold.

    An exclusive category may be the unknown one: none of the others. It has no logit of its own; its place in the
    softmax is taken by a threshold, so its probability is a logistic function of the text's energy (Liu et al., 2020,
    Energy-based out-of-distribution detection), and it wins where no other logit reaches the threshold.
    """

    exclusive: bool
    pooling: DocPooling = "cls"
    positive_label: str | None = None
    unknown_label: str | None = None
    unknown_threshold: float = 0.0  # on the scale of the logits over the temperature
    temperature: float = 1.0  # logits are divided by it (Guo et al., 2017, On calibration of modern neural networks)
    needs_segments: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(
                f"The temperature is {self.temperature:g}; expected more than 0. 1 leaves the scores alone."
            )
        if self.unknown_label is not None and self.positive_label is not None:
            raise ConfigError(
                f"Found positive_label = {self.positive_label!r} and unknown_label = {self.unknown_label!r}; expected "
                "one of them at most: a positive label is one of two. Leave one out (null)."
            )

    def labels_in(self, examples: Sequence[Example]) -> Iterable[str]:
        """The categories named in the gold annotations, with whatever value, but for the unknown one."""
        return (label for eg in examples for label in eg.reference.cats if label != self.unknown_label)

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
        if self.unknown_label in labels:
            raise ConfigError(
                f"unknown_label is {self.unknown_label!r}, which is also a label to learn. {found} Take it out of the "
                "label file, or name another unknown_label."
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
        """Cross-entropy summed over the Docs, binary and averaged over the labels if they are not exclusive.

        A text of the unknown category is as much of one category as of any other (Hendrycks et al., 2019, Deep anomaly
        detection with outlier exposure).
        """
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
            unknown = sorted(set(cats) - {*place, self.unknown_label})
            if unknown:
                raise not_learned("category", unknown[0], labels)
            if self.exclusive and sum(cats.values()) > 1.001:
                raise DataError(
                    f"A text has several exclusive categories: {dict(cats)} ({eg.reference.text[:60]!r}). Expected "
                    "values that sum to 1. Correct the annotation, or use bertft_textcat_multilabel."
                )
            for label, value in cats.items():
                if label in place:
                    row[place[label]] = value
            if cats.get(self.unknown_label or "", 0.0) > 0.5:
                row[:] = 1 / len(labels)
        return targets

    def annotate(self, docs: Sequence[Doc], logits: Tensor, features: Features, labels: Sequence[str]) -> None:
        """Set doc.cats; categories of other components stay."""
        logits = logits.float() / self.temperature
        if self.unknown_label is not None:
            labels = [*labels, self.unknown_label]
            logits = torch.nn.functional.pad(logits, (0, 1), value=self.unknown_threshold)
        scores = logits.softmax(dim=1) if self.exclusive else logits.sigmoid()
        for doc, row in zip(docs, scores.tolist(), strict=True):  # sync
            doc.cats.update(zip(labels, row, strict=True))

    def evidence(
        self, logits: Tensor, examples: Sequence[Example], features: Features, labels: Sequence[str]
    ) -> list[tuple[Any, int]]:
        """The logits (L,) of each annotated Doc, and the number of its category: L if it is the unknown one."""
        places = {label: place for place, label in enumerate([*labels, self.unknown_label])}
        found = []
        for row, eg in zip(logits.float().cpu().numpy(), examples, strict=True):  # sync
            cats = {label: value for label, value in eg.reference.cats.items() if label in places and value > 0.5}
            if cats:
                found.append((row, places[max(cats, key=lambda label: cats[label])]))
        return found

    def fit(self, evidence: Sequence[tuple[Any, int]]) -> dict[str, float]:
        """The temperature with the likeliest categories, and the threshold with the best mean of two shares.

        These are the share of texts of known categories that get the right one, and that of unknown texts found.
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


def fit_temperature(logits: np.ndarray[Any, Any], gold: np.ndarray[Any, Any]) -> float:
    """What logits (B, L) are divided by for the highest likelihood of the gold numbers (B,).

    The gold is smoothed as in Platt, 1999, Probabilistic outputs for support vector machines, so that a few texts that
    are all right make nothing certain.
    """
    smoothing = 1 / (len(gold) + 2)

    def loss(log_temperature: float) -> float:
        scaled = torch.from_numpy(logits) / math.exp(log_temperature)
        return float(cross_entropy(scaled, torch.from_numpy(gold), label_smoothing=smoothing))

    # In 1/T the loss is convex, so it has one minimum in log T too.
    low, high = math.log(0.05), math.log(20.0)
    for _ in range(40):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return round(math.exp((low + high) / 2), 4)


def fit_threshold(right: np.ndarray[Any, Any], unknown: np.ndarray[Any, Any], *, n_known: int) -> float:
    """The border between the scores of texts that are `right` and of `unknown` ones with the best mean of two shares.

    Those of the `n_known` texts of known categories that are right and above it, and of the unknown ones below it.
    """
    values = np.unique(np.concatenate([right, unknown]))  # in order
    borders = np.concatenate([values[:1] - 1, (values[1:] + values[:-1]) / 2, values[-1:] + 1])
    kept = 1 - np.searchsorted(np.sort(right), borders) / max(1, len(right))
    found = np.searchsorted(np.sort(unknown), borders) / len(unknown)
    return float(borders[np.argmax(kept * len(right) / n_known + found)])


def score_categories(
    examples: Iterable[Example], *, labels: Sequence[str], unknown_label: str | None = None, **cfg: Any
) -> dict[str, Any]:
    """spaCy's scores of exclusive categories; with an unknown one also how well it is told from the others.

    cats_known_acc: share of texts of known categories that get the right one. cats_unknown_r: share of unknown texts
    found. cats_unknown_auc: area under the ROC curve of the unknown category's probability. Texts without gold
    annotation are left out.
    """
    if unknown_label is None:
        return textcat_score(examples, labels=labels, **cfg)
    own = [*labels, unknown_label]
    examples = [eg for eg in examples if any(eg.reference.cats.get(label, 0.0) > 0.5 for label in own)]
    scores: dict[str, Any] = textcat_score(examples, labels=own, **cfg)
    pairs = [[_best(doc.cats, own) for doc in (eg.reference, eg.predicted)] for eg in examples]
    right = [gold == found for gold, found in pairs if gold != unknown_label]
    missed = [found != unknown_label for gold, found in pairs if gold == unknown_label]
    scores["cats_known_acc"] = sum(right) / len(right) if right else None
    scores["cats_unknown_r"] = 1 - sum(missed) / len(missed) if missed else None
    scores["cats_unknown_auc"] = scores["cats_auc_per_type"][unknown_label]
    return scores


def _best(cats: dict[str, float], labels: Sequence[str]) -> str:
    return max((label for label in cats if label in labels), key=lambda label: cats[label], default="")


@registry.scorers("spacy-bertft.textcat_scorer.v1")
def create_textcat_scorer() -> Callable[..., dict[str, Any]]:
    """The scorer of bertft_textcat."""
    return score_categories


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


@Language.factory(
    "bertft_textcat",
    assigns=["doc.cats"],
    default_config={
        "encoder": None,
        "pooling": "cls",
        "positive_label": None,
        "threshold": 0.0,
        "unknown_label": None,
        "unknown_threshold": 0.0,
        "temperature": 1.0,
        "learn_rate_factor": 1.0,
        "scorer": {"@scorers": "spacy-bertft.textcat_scorer.v1"},
    },
    default_score_weights=SCORE_WEIGHTS,
)
def make_textcat(
    nlp: Language,
    name: str,
    encoder: str | None,
    pooling: DocPooling,
    positive_label: str | None,
    threshold: float,
    unknown_label: str | None,
    unknown_threshold: float,
    temperature: float,
    learn_rate_factor: float,
    scorer: Callable[..., dict[str, Any]] | None,
) -> HeadPipe:
    """The component for exclusive categories: their scores in doc.cats sum to 1.

    encoder: name of the encoder component to read; None: the nearest before this one.
    pooling: a Doc is its "cls" subword, or the "mean" of its subwords.
    positive_label: of two labels, the one whose F-score is the component's score.
    threshold: score from which the scorer counts a category as predicted.
    unknown_label: the category of texts that are of none of the others; those in the training data teach the head to
        be sure of nothing.
    unknown_threshold, temperature: how easily a text is unknown, and how sure the scores are; `bertft calibrate` fits
        both.
    learn_rate_factor: learn rate of this head, as a multiple of the optimizer's.
    """
    task = CategoryTask(True, pooling, positive_label, unknown_label, unknown_threshold, temperature)
    return category_pipe(nlp, name, task, encoder, threshold, learn_rate_factor, scorer)


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
    default_score_weights=SCORE_WEIGHTS,
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

    The settings are those of bertft_textcat that it has too.
    """
    task = CategoryTask(False, pooling)
    return category_pipe(nlp, name, task, encoder, threshold, learn_rate_factor, scorer)


def category_pipe(
    nlp: Language,
    name: str,
    task: CategoryTask,
    encoder: str | None,
    threshold: float,
    learn_rate_factor: float,
    scorer: Callable[..., dict[str, Any]] | None,
) -> HeadPipe:
    """A HeadPipe for categories."""
    # The scorer and `spacy find-threshold` read these from cfg.
    cfg = {"threshold": threshold, "positive_label": task.positive_label, "unknown_label": task.unknown_label}
    return HeadPipe(
        nlp.vocab, task, name, scorer=scorer, upstream=encoder, learn_rate_factor=learn_rate_factor, cfg=cfg
    )
