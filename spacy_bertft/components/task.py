"""The Task, which defines a kind of head, and the data that it exchanges with its HeadPipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from spacy.tokens import Doc
from spacy.training import Example
from torch import Tensor, nn

from spacy_bertft.errors import DataError
from spacy_bertft.learning.losses import Targets
from spacy_bertft.types import Features


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """The output of a head for B docs."""

    logits: Tensor  # (T, L), (B, L) or (T + B, 2), depending on the task
    features: Features  # input of the head
    labels: tuple[str, ...]
    statistics: Mapping[str, Any] = field(default_factory=dict)  # what `Task.prepare` found in the training data
    labels_given: bool = False  # by the user: other gold labels belong to another head


class Head(nn.Module):
    """A head's module, Features -> logits. Its last layer is `output`.

    rows: what the rows of its logits are for: each token, each Doc, or first all tokens and then all Docs.
    """

    rows: ClassVar[tuple[Literal["tokens", "docs"], ...]] = ("docs",)
    output: nn.Linear
    n_trained: int | None = None  # outputs that are not of labels added since the last step; None: none were added

    def n_outputs(self, n_labels: int) -> int:
        """The number of logits for `n_labels` labels; labels added later add theirs at the end."""
        return n_labels

    def columns(self, labels: Sequence[str]) -> tuple[str, ...]:
        """What the columns of its logits are for."""
        return tuple(labels)

    def grow(self, n_labels: int) -> None:
        """Make room for added labels: known labels keep their weights, new ones start at random.

        Their biases start at the lowest known one, as if they were the rarest labels: from 0, a label that doesn't
        exclude the others would at first be assigned to every second text.
        """
        old = self.output
        self.n_trained = old.out_features if self.n_trained is None else self.n_trained
        new = new_linear(old.in_features, self.n_outputs(n_labels)).to(old.weight.device)
        with torch.no_grad():
            new.bias.copy_(old.bias.min().clamp(max=0.0))
            new.weight[: old.out_features] = old.weight
            new.bias[: old.out_features] = old.bias
        self.output = new


class Task(Protocol):
    """Definition of what a head predicts, and how it is trained."""

    @property
    def needs_segments(self) -> bool:
        """Whether it requires Docs of two segments."""

    def labels_in(self, examples: Sequence[Example]) -> Iterable[str]:
        """The labels that the gold annotations use, repeats allowed."""

    def check(self, labels: Sequence[str]) -> None:
        """Raise a ConfigError if the task can't work with these labels."""

    def prepare(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Statistics of the training data that the head needs; saved with it as JSON.

        "targets_per_doc", if given, divides the summed loss: the average number of targets per Doc.
        """

    def build(self, width: int, n_labels: int, pooler: nn.Linear | None) -> Head:
        """Build a new module. pooler: the encoder's pretrained one, if it has one."""

    def targets(self, output: HeadOutput, examples: Sequence[Example]) -> Targets:
        """The targets of the logits; those without gold annotation are masked."""

    def annotate(self, docs: Sequence[Doc], output: HeadOutput) -> None:
        """Set the annotations that the logits mean."""


@runtime_checkable
class Started(Protocol):
    """A Task whose new heads start from statistics of the training data."""

    def start(self, module: Head, labels: Sequence[str], statistics: Mapping[str, Any]) -> None:
        """Set the weights of a new module that follow from the statistics."""


@runtime_checkable
class Scaled(Protocol):
    """A Task whose logits are numbers on a scale that its statistics define."""

    def rescaled(self, logits: Tensor, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Tensor:
        """The same numbers on another scale. found, wanted: the statistics that define the two."""


@runtime_checkable
class Calibrated(Protocol):
    """A Task with settings that `bertft calibrate` can fit."""

    def evidence(self, output: HeadOutput, examples: Sequence[Example]) -> list[Any]:
        """The data on each annotated Doc that `fit` needs."""

    def fit(self, evidence: Sequence[Any]) -> dict[str, float]:
        """The component's settings that fit the evidence best; empty if there are none to fit."""


def new_linear(width: int, n_outputs: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer initialised like BERT's: normal weights of standard deviation 0.02, biases 0."""
    layer = nn.Linear(width, n_outputs, bias=bias)
    nn.init.normal_(layer.weight, std=0.02)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def not_learned(kind: str, label: str, known: Sequence[str]) -> DataError:
    """The error for a gold label that the head does not have."""
    return DataError(
        f"A gold {kind} is {label!r}, which the head doesn't know. Expected one of: {', '.join(known)}. Add it with "
        "add_label() before training continues, or initialise the head with examples that have it."
    )
