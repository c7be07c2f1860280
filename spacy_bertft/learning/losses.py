"""Targets for rows of logits, and the losses that compare the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from spacy_bertft.errors import ConfigError

IGNORED = -100  # cross_entropy leaves these targets out
# "exclusive": one of C classes per row; "independent": each of C labels holds or not; "number": regression.
Kind = Literal["exclusive", "independent", "number"]


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets for R rows of logits.

    values      exclusive: (R,) int64, the class; or (R, C) float32, a distribution over the classes
                independent: (R, C) float32, the probability of each label
                number: (R, C) float32, numbers
    mask        bool, (R,), or (R, C) for independent labels and numbers: False where nothing is annotated
    candidates  (R, C) int64, if each row chooses among some of the logits: their indices in the flattened logits,
                -1 for no candidate. None: the rows are the logits' rows.
    scale       factor of the sum over all targets
    """

    kind: Kind
    values: Tensor
    mask: Tensor
    candidates: Tensor | None = None
    scale: float = 1.0

    def rows(self, logits: Tensor) -> Tensor:
        """The logits that the targets are for, (R, C); -inf where there is no candidate."""
        if self.candidates is None:
            return logits
        chosen = logits.flatten()[self.candidates.clamp(min=0)]
        return chosen.masked_fill(self.candidates < 0, -torch.inf)


# Logits and targets -> the loss summed over all targets, times their scale. ().
Loss = Callable[[Tensor, Targets], Tensor]


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of the softmax over exclusive classes, binary cross-entropy of independent labels."""

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """The sum over all targets. ()."""
        rows, values, mask = targets.rows(logits), targets.values, targets.mask
        if targets.kind == "number":
            raise _unfit(self, "numbers", "spacy-bertft.MeanSquaredError.v1")
        if targets.kind == "independent":
            losses = binary_cross_entropy_with_logits(rows, values, reduction="none")
            total = losses.masked_fill(~mask, 0.0).sum()
        elif values.ndim == 2 and targets.candidates is not None:
            # Places without a candidate have a logit of -inf, and 0 * -inf is NaN.
            logs = rows[mask].log_softmax(dim=1).masked_fill(values[mask] == 0, 0.0)
            total = -(values[mask] * logs).sum()
        elif values.ndim == 1:
            goal = values.masked_fill(~mask, IGNORED)
            total = cross_entropy(rows, goal, ignore_index=IGNORED, reduction="sum")
        else:
            total = cross_entropy(rows[mask], values[mask], reduction="sum")
        return total * targets.scale


@dataclass(frozen=True)
class MeanSquaredError:
    """Squared differences between numbers."""

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """The sum over all targets. ()."""
        if targets.kind != "number":
            raise _unfit(self, "categories", "spacy-bertft.CrossEntropy.v1")
        mask = targets.mask
        return mse_loss(targets.rows(logits)[mask], targets.values[mask], reduction="sum") * targets.scale


def _unfit(loss: object, found: str, fix: str) -> ConfigError:
    return ConfigError(
        f"The loss is {type(loss).__name__}, but the head is trained on {found}. Expected a loss for them. Set "
        f'@losses = "{fix}" in the block of its loss.'
    )
