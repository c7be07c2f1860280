"""`bertft_regression`: one number per text or pair of texts, such as a rating or the similarity of two sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import registry

from spacy_bertft.components.doc_values import set_value, value_of
from spacy_bertft.components.head_factory import head_factory
from spacy_bertft.components.head_inference import HeadWeights
from spacy_bertft.components.hidden_layer import PooledHiddenLayer
from spacy_bertft.components.metric_kinds import ERROR
from spacy_bertft.components.task import HeadOutput
from spacy_bertft.encoder.pooling import DocPooling
from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.losses import Targets
from spacy_bertft.tasks.textcat import doc_logits
from spacy_bertft.types import Features, Floats

if TYPE_CHECKING:
    from torch import Tensor, nn

    from spacy_bertft.components.head_modules import Head

LABEL = "VALUE"


@dataclass(frozen=True)
class RegressionTask(PooledHiddenLayer):
    """One number per Doc, learned as its deviation from the mean of the training data, in standard deviations.

    pooling: what represents a Doc: its "cls" subword, the "mean" of its subwords, or that of its subwords and the
        special ones ("mean_all").
    """

    pooling: DocPooling = "cls"
    needs_segments = False

    def labels_in(self, examples: Sequence[Example]) -> Iterable[str]:
        """One label for all numbers."""
        return (LABEL for eg in examples if value_of(eg.reference) is not None)

    def check(self, labels: Sequence[str]) -> None:
        """Accept only the one label."""
        if list(labels) != [LABEL]:
            raise ConfigError(
                f"bertft_regression got the labels {', '.join(labels)}; expected only {LABEL}. Leave the labels out: "
                "the head has no others."
            )

    def prepare(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Mean and standard deviation of the gold numbers."""
        found = [value for value in (value_of(eg.reference) for eg in examples) if value is not None]
        mean = float(np.mean(found)) if found else 0.0
        deviation = float(np.std(found)) if found else 0.0
        return {"mean": mean, "scale": deviation or 1.0}

    def n_outputs(self, n_labels: int) -> int:
        """One."""
        return 1

    def logits(self, weights: HeadWeights, features: Features) -> Floats:
        """The output of each Doc (B, 1)."""
        return doc_logits(weights, self, self.pooling, features)

    def build(self, width: int, n_labels: int, pooler: nn.Linear | None) -> Head:
        """A new DocHead with one output."""
        from spacy_bertft.tasks.modules import DocHead

        return DocHead(width, 1, self.pooling, pooler, self)

    def targets(self, output: HeadOutput[Tensor], examples: Sequence[Example]) -> Targets:
        """The gold number of each Doc, on the scale of the output."""
        import torch

        found = [value_of(eg.reference) for eg in examples]
        values = torch.tensor([0.0 if value is None else value for value in found], device=output.logits.device)
        mask = torch.tensor([value is not None for value in found], device=output.logits.device)
        mean, scale = output.statistics["mean"], output.statistics["scale"]
        return Targets("number", ((values - mean) / scale)[:, None], mask[:, None])

    def rescaled(self, logits: Tensor, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Tensor:
        """The same numbers, as deviations from another mean in other standard deviations."""
        factor, shift = found["scale"] / wanted["scale"], (found["mean"] - wanted["mean"]) / wanted["scale"]
        return logits.mul(factor).add(shift)

    def annotate(self, docs: Sequence[Doc], output: HeadOutput[Floats]) -> None:
        """Set doc._.value."""
        values = output.logits[:, 0].astype(np.float64) * output.statistics["scale"] + output.statistics["mean"]
        for doc, value in zip(docs, values.tolist(), strict=True):
            set_value(doc, value)


def score_values(examples: Iterable[Example], **_: Any) -> dict[str, float | None]:
    """Correlations in [-1, 1], and errors in the unit of the numbers; None where no Doc has a gold number.

    value_pearson, value_spearman: 0 if all gold or all predicted numbers are the same. value_mae: mean absolute
    error. value_rmse: root of the mean squared error. Docs without a gold number are left out.
    """
    pairs = [(value_of(eg.reference), value_of(eg.predicted)) for eg in examples]
    rows = np.array([(gold, found) for gold, found in pairs if gold is not None and found is not None])
    if not len(rows):
        return dict.fromkeys(("value_pearson", "value_spearman", "value_mae", "value_rmse"))
    gold, found = rows.T
    return {
        "value_pearson": _correlation(gold, found),
        "value_spearman": _correlation(_ranks(gold), _ranks(found)),
        "value_mae": float(np.abs(gold - found).mean()),
        "value_rmse": float(np.sqrt(np.square(gold - found).mean())),
    }


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    left, right = one - one.mean(), other - other.mean()
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norms if norms else 0.0


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank of each number; equal numbers share the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


@registry.scorers("spacy-bertft.value_scorer.v1")
def create_value_scorer() -> Callable[..., dict[str, float | None]]:
    """The scorer of bertft_regression."""
    return score_values


make_regression = head_factory(
    "bertft_regression",
    RegressionTask,
    RegressionTask,
    assigns=["doc.spans"],
    loss="spacy-bertft.MeanSquaredError.v1",
    scorer="spacy-bertft.value_scorer.v1",
    score_weights={"value_pearson": 1.0, "value_spearman": 0.0, "value_mae": None, "value_rmse": None},
    score_kinds={"value_mae": ERROR, "value_rmse": ERROR},
)
