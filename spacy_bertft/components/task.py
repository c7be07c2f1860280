"""The Task, which defines a kind of head, and the data that it exchanges with its HeadPipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from spacy.tokens import Doc
from spacy.training import Example

from spacy_bertft.components.head_inference import HeadWeights
from spacy_bertft.errors import DataError
from spacy_bertft.learning.losses import Targets
from spacy_bertft.types import Features, Floats

if TYPE_CHECKING:
    from torch import Tensor, nn

    from spacy_bertft.components.head_modules import Head

Logits = TypeVar("Logits")  # Floats of a prediction, torch's Tensor in training


@dataclass(frozen=True, slots=True)
class HeadOutput(Generic[Logits]):
    """The output of a head for B docs."""

    logits: Logits  # (T, L), (B, L) or (T + B, 2), depending on the task
    features: Features  # input of the head
    labels: tuple[str, ...]
    statistics: Mapping[str, Any] = field(default_factory=dict)  # what `Task.prepare` found in the training data
    labels_given: bool = False  # by the user: other gold labels belong to another head


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

    def targets(self, output: HeadOutput[Tensor], examples: Sequence[Example]) -> Targets:
        """The targets of the logits; those without gold annotation are masked."""

    def annotate(self, docs: Sequence[Doc], output: HeadOutput[Floats]) -> None:
        """Set the annotations that the logits mean."""


@runtime_checkable
class InNumpy(Protocol):
    """A Task that predicts on a CPU without its module, and so without torch, as all heads of this package do.

    It is a HiddenLayer, and its module a HiddenHead; the tests hold both to the same logits.
    """

    def n_outputs(self, n_labels: int) -> int:
        """The number of logits for `n_labels` labels."""

    def logits(self, weights: HeadWeights, features: Features) -> Floats:
        """What the module computes in prediction. features: with numpy's arrays."""


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

    def evidence(self, output: HeadOutput[Floats], examples: Sequence[Example]) -> list[Any]:
        """The data on each annotated Doc that `fit` needs."""

    def fit(self, evidence: Sequence[Any]) -> dict[str, float]:
        """The component's settings that fit the evidence best; empty if there are none to fit."""


def not_learned(kind: str, label: str, known: Sequence[str]) -> DataError:
    """The error for a gold label that the head does not have."""
    return DataError(
        f"A gold {kind} is {label!r}, which the head doesn't know. Expected one of: {', '.join(known)}. Add it with "
        "add_label() before training continues, or initialise the head with examples that have it."
    )
