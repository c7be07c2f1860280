"""What sets one kind of head apart from another: the Task, and what passes between it and its HeadPipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from spacy.tokens import Doc
from spacy.training import Example
from torch import Tensor, nn

from spacy_bertft.errors import DataError
from spacy_bertft.learning.losses import Targets
from spacy_bertft.types import Features


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """What a head says of B docs."""

    logits: Tensor  # (T, L) or (B, L), as the task has them
    features: Features  # what they were computed from
    labels: tuple[str, ...]
    statistics: Mapping[str, Any] = field(default_factory=dict)  # what `Task.prepare` found in the training data
    labels_given: bool = False  # by the user: gold labels beside them are another head's


class Head(nn.Module):
    """A head's module, Features -> logits. Its last layer is `output`."""

    output: nn.Linear

    def n_outputs(self, n_labels: int) -> int:
        """How many logits there are for so many labels; labels that come later add theirs at the end."""
        return n_labels

    def grow(self, n_labels: int) -> None:
        """Make room for labels that came later; those known keep their weights, the new ones start at random."""
        old = self.output
        new = new_linear(old.in_features, self.n_outputs(n_labels)).to(old.weight.device)
        with torch.no_grad():
            new.weight[: old.out_features] = old.weight
            new.bias[: old.out_features] = old.bias
        self.output = new


class Task(Protocol):
    """What a head predicts, and how it learns it."""

    @property
    def needs_segments(self) -> bool:
        """Whether it can't do without Docs of two segments."""

    def labels_in(self, examples: Sequence[Example]) -> Iterable[str]:
        """The labels that the gold annotations use, repeats allowed."""

    def check(self, labels: Sequence[str]) -> None:
        """Raise a ConfigError if the task can't work with these labels."""

    def prepare(self, examples: Sequence[Example]) -> dict[str, Any]:
        """What the head needs to know of its training data; saved with it, so JSON.

        "targets_per_doc", where given, is what the summed loss of a Doc is divided by: how many targets it has on
        average.
        """

    def build(self, width: int, n_labels: int, pooler: nn.Linear | None) -> Head:
        """A new module. pooler: the encoder's pretrained one, if it has any."""

    def targets(self, output: HeadOutput, examples: Sequence[Example]) -> Targets:
        """What the logits should be; targets without gold annotation are masked."""

    def annotate(self, docs: Sequence[Doc], output: HeadOutput) -> None:
        """Set the annotations that the logits mean."""


@runtime_checkable
class Calibrated(Protocol):
    """A Task with settings that `bertft calibrate` can fit."""

    def evidence(self, output: HeadOutput, examples: Sequence[Example]) -> list[Any]:
        """What `fit` needs to know of each annotated Doc."""

    def fit(self, evidence: Sequence[Any]) -> dict[str, float]:
        """The settings of the component that fit the evidence best; none if there are none to fit."""


def new_linear(width: int, n_outputs: int) -> nn.Linear:
    """A linear layer that starts as BERT's do: normal weights of deviation 0.02, biases 0."""
    layer = nn.Linear(width, n_outputs)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def not_learned(kind: str, label: str, known: Sequence[str]) -> DataError:
    """The error for a gold label that a head was not made for."""
    return DataError(
        f"A gold {kind} is {label!r}, which the head doesn't know. Expected one of: {', '.join(known)}. Add it with "
        "add_label() before training goes on, or initialise the head with examples that have it."
    )
