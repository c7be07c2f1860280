"""Targets for rows of logits, and the losses that compare the two."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.classes import Classes, Weighting, class_weights, label_weights

if TYPE_CHECKING:
    from torch import Tensor

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
    classes     what the columns of the logits are for; None if each row chooses among some of the logits
    """

    kind: Kind
    values: Tensor
    mask: Tensor
    candidates: Tensor | None = None
    scale: float = 1.0
    classes: Classes | None = None

    def rows(self, logits: Tensor) -> Tensor:
        """The logits that the targets are for, (R, C); -inf where there is no candidate."""
        if self.candidates is None:
            return logits
        import torch

        chosen = logits.flatten()[self.candidates.clamp(min=0)]
        return chosen.masked_fill(self.candidates < 0, -torch.inf)

    def taught(self, teacher: Tensor, n_columns: int) -> Targets:
        """Targets of the same kind in every row: what another model, the teacher, makes of the same texts.

        teacher: its logits, for the first columns of the logits that are trained. n_columns: those of the latter.
        Columns that the teacher doesn't have get no target: exclusive classes are compared by the softmax over the
        teacher's alone. But where a row's own target is one of the teacher's classes, it is none of the others, so
        their target is 0.
        """
        import torch
        from torch.nn.functional import pad

        columns = torch.arange(n_columns, device=teacher.device)
        known = columns < teacher.shape[1]
        wide = (0, n_columns - teacher.shape[1])
        if self.kind != "exclusive":
            values = pad(teacher.sigmoid() if self.kind == "independent" else teacher, wide)
            return Targets(self.kind, values, known.expand(values.shape), scale=self.scale)
        values, candidates = self.rows(teacher).softmax(dim=1), self.candidates
        if candidates is None:
            values = pad(values, wide)
            if self.values.ndim == 1:
                is_known = self.mask & (self.values < teacher.shape[1])
            else:  # a distribution over all classes, as that of the unknown category, is of new ones too
                is_known = self.mask & (self.values[:, teacher.shape[1] :].sum(dim=1) == 0)
            places = torch.arange(values.numel(), device=teacher.device).view(values.shape)
            candidates = places.masked_fill(~(known | is_known[:, None]), -1)
        return Targets(self.kind, values, values.new_ones(len(values), dtype=torch.bool), candidates, self.scale)


# Logits and targets -> the loss summed over all targets, times their scale. (). Any is torch's Tensor: a saved head
# names its loss, and loads without torch.
Loss = Callable[[Any, Targets], Any]


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of the softmax over exclusive classes, binary cross-entropy of independent labels.

    label_smoothing: how much of each target is replaced by the uniform distribution over its classes or candidates, or
        by the probability 0.5 of an independent label (Szegedy et al., 2016, Rethinking the Inception architecture).
    class_weights: null, "balanced", "effective", or a table of names and weights; see learning/classes.py. Of an
        independent label they weight the positive term. The classes of bertft_ner are its tags, such as "B-PERSON".
    temperature: T of soft targets: the logits are divided by T, and the loss is multiplied by T² (Hinton et al., 2015,
        Distilling the knowledge in a neural network). Soft are distributions and probabilities, so all targets of
        category heads, also those that are 0 and 1; the tags of bertft_ner and the places of bertft_qa are not.
    """

    label_smoothing: float = 0.0
    class_weights: Weighting = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _need(self, "label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1; 0 is none")
        _need(self, "temperature", 0 < self.temperature < math.inf, "more than 0; 1 changes nothing")
        _check_weights(self, self.class_weights)

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """The sum over all targets. ()."""
        if targets.kind == "number":
            raise _unfit(self, "numbers", "spacy-bertft.MeanSquaredError.v1")
        rows, factor = targets.rows(logits), 1.0
        if self.temperature != 1 and targets.values.ndim == 2:
            rows, factor = rows / self.temperature, self.temperature**2
        total = self._of_labels(rows, targets) if targets.kind == "independent" else self._of_classes(rows, targets)
        return total * (targets.scale * factor)

    def _of_labels(self, rows: Tensor, targets: Targets) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        goals = targets.values
        if self.label_smoothing:
            goals = goals + self.label_smoothing * (0.5 - goals)
        positive = both = None
        if self.class_weights is not None:
            positive, both = label_weights(self.class_weights, targets.classes, rows)
        losses = binary_cross_entropy_with_logits(rows, goals, both, pos_weight=positive, reduction="none")
        return losses.masked_fill(~targets.mask, 0.0).sum()

    def _of_classes(self, rows: Tensor, targets: Targets) -> Tensor:
        from torch.nn.functional import cross_entropy

        values, mask = targets.values, targets.mask
        weights = None
        if self.class_weights is not None:
            weights = class_weights(self.class_weights, targets.classes, rows)
        if targets.candidates is not None and (values.ndim == 2 or self.label_smoothing):
            goals = _distributions(targets, rows)
            if self.label_smoothing:
                possible = (targets.candidates[mask] >= 0).to(goals)
                goals = goals + self.label_smoothing * (possible / possible.sum(dim=1, keepdim=True) - goals)
            # Places without a candidate have a logit of -inf, and 0 * -inf is NaN.
            return -(goals * rows[mask].log_softmax(dim=1).masked_fill(goals == 0, 0.0)).sum()
        if values.ndim == 1:
            values = values.masked_fill(~mask, IGNORED)
        else:
            rows, values = rows[mask], values[mask]
        return cross_entropy(
            rows, values, weights, ignore_index=IGNORED, reduction="sum", label_smoothing=self.label_smoothing
        )


@dataclass(frozen=True)
class FocalLoss:
    """Cross-entropy in which targets that are predicted well count less, by the factor (1 - p)^gamma.

    p is the probability of the target (Lin et al., 2017, Focal loss for dense object detection). A target that is a
    distribution or a probability costs the mean over its classes, or over "holds" and "doesn't"; with a gamma above 0
    the lowest cost is then not at the target itself, but nearer to uniform.

    gamma: 0 is cross-entropy.
    class_weights: as those of CrossEntropy.
    """

    gamma: float = 2.0
    class_weights: Weighting = None

    def __post_init__(self) -> None:
        _need(self, "gamma", 0 <= self.gamma < math.inf, "at least 0; 0 is cross-entropy")
        _check_weights(self, self.class_weights)

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """The sum over all targets. ()."""
        if targets.kind == "number":
            raise _unfit(self, "numbers", "spacy-bertft.MeanSquaredError.v1")
        rows = targets.rows(logits)
        total = self._of_labels(rows, targets) if targets.kind == "independent" else self._of_classes(rows, targets)
        return total * targets.scale

    def _of_labels(self, rows: Tensor, targets: Targets) -> Tensor:
        import torch
        from torch.nn.functional import logsigmoid

        positive = both = torch.ones_like(rows[:1])
        if self.class_weights is not None:
            positive, both = label_weights(self.class_weights, targets.classes, rows)
        goals = targets.values
        losses = goals * positive * self._focused(logsigmoid(rows)) + (1 - goals) * self._focused(logsigmoid(-rows))
        return (losses * both).masked_fill(~targets.mask, 0.0).sum()

    def _of_classes(self, rows: Tensor, targets: Targets) -> Tensor:
        goals = _distributions(targets, rows)
        logs = rows[targets.mask].log_softmax(dim=1).masked_fill(goals == 0, 0.0)
        losses = goals * self._focused(logs)
        if self.class_weights is not None:
            losses = losses * class_weights(self.class_weights, targets.classes, rows)
        return losses.sum()

    def _focused(self, logs: Tensor) -> Tensor:
        """The losses of targets whose probabilities have these logarithms."""
        import torch

        # At 1 - p = 0, the gradient of a power below 1 is infinite.
        rest = (-torch.expm1(logs)).clamp(min=torch.finfo(logs.dtype).eps)
        return -(rest**self.gamma) * logs


@dataclass(frozen=True)
class MeanSquaredError:
    """Squared differences between numbers."""

    def __call__(self, logits: Tensor, targets: Targets) -> Tensor:
        """The sum over all targets. ()."""
        if targets.kind != "number":
            raise _unfit(self, "categories", "spacy-bertft.CrossEntropy.v1")
        from torch.nn.functional import mse_loss

        mask = targets.mask
        return mse_loss(targets.rows(logits)[mask], targets.values[mask], reduction="sum") * targets.scale


def _unfit(loss: object, found: str, fix: str) -> ConfigError:
    return ConfigError(
        f"The loss is {type(loss).__name__}, but the head is trained on {found}. Expected a loss for them. Set "
        f'@losses = "{fix}" in the block of its loss.'
    )


def _distributions(targets: Targets, rows: Tensor) -> Tensor:
    """The annotated targets as distributions over the columns of the rows, (annotated, C)."""
    from torch.nn.functional import one_hot

    values = targets.values[targets.mask]
    return values if values.ndim == 2 else one_hot(values, rows.shape[1]).to(rows)


def _need(loss: object, name: str, fits: bool, expected: str) -> None:
    if not fits:
        raise ConfigError(
            f"{name} of {type(loss).__name__} is {getattr(loss, name):g}; expected {expected}. Correct it in the block "
            "of the head's loss."
        )


def _check_weights(loss: object, weighting: Weighting) -> None:
    if isinstance(weighting, dict):
        wrong = [name for name, weight in weighting.items() if not 0 <= weight < math.inf]
        problem = f"of {wrong[0]!r} is {weighting[wrong[0]]:g}; expected at least 0" if wrong else ""
    else:
        known = weighting in (None, "balanced", "effective")
        problem = "" if known else f'is {weighting!r}; expected "balanced", "effective", a table, or null'
    if problem:
        raise ConfigError(
            f"class_weights of {type(loss).__name__} {problem}. Correct it in the block of the head's loss."
        )
