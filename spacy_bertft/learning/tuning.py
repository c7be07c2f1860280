"""Which weights of a module are trained, from when, and at what rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.layers import Layers, layers_of, reinitialize, stack_of

if TYPE_CHECKING:
    from torch import nn

Unit = Literal["steps", "epochs"]


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that are trained alike."""

    parameters: tuple[nn.Parameter, ...]
    rate_factor: float  # their learning rate, as a multiple of the module's
    decays: bool  # whether weight decay applies
    start: int = 0  # the step or epoch (`Tuning.unit`) from which they are trained


@runtime_checkable  # spaCy checks the values of settings
class Tuning(Protocol):
    """A way to fine-tune, named in a component's config, and so saved with it."""

    @property
    def learns(self) -> bool:
        """Whether any weight is trained; if none is, no gradient reaches the module."""

    @property
    def unit(self) -> Unit:
        """What `ParameterGroup.start` counts."""

    def begin(self, module: nn.Module, *, std: float) -> None:
        """Change a pretrained module before its training begins. std: of its random weights, as its config says."""

    def prepare(self, module: nn.Module) -> None:
        """Change a module before its first update, unless that was done."""

    def groups(self, module: nn.Module) -> list[ParameterGroup]:
        """The parameters that are trained, none of the groups empty. All others get no gradient."""


def saves_adapter(tuning: Tuning) -> bool:
    """Whether a tuning leaves the encoder's weights as they are and saves an adapter beside them."""
    return getattr(tuning, "save", None) == "adapter"


@dataclass(frozen=True)
class FullTuning:
    """All weights are trained.

    layer_decay: the learning rate of each layer is that of the layer above times this (Howard & Ruder, 2018, ULMFiT:
        discriminative fine-tuning); 1 for the same rate everywhere. The embeddings are below the lowest layer.
    embeddings_factor: the learning rate of the embeddings, times this; 0 keeps them fixed.
    reinitialize_layers: the number of top layers that start from random weights (Zhang et al., 2021, Revisiting
        few-sample BERT fine-tuning).
    """

    layer_decay: float = 1.0
    embeddings_factor: float = 1.0
    reinitialize_layers: int = 0

    learns = True

    @property
    def unit(self) -> Unit:
        """Steps."""
        return "steps"

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise _out_of_range("layer_decay", self.layer_decay, "more than 0 and at most 1")
        if self.embeddings_factor < 0:
            raise _out_of_range("embeddings_factor", self.embeddings_factor, "at least 0")
        if self.reinitialize_layers < 0:
            raise _out_of_range("reinitialize_layers", self.reinitialize_layers, "at least 0")

    def begin(self, module: nn.Module, *, std: float) -> None:
        """Set the top layers back to random weights, where the settings say so."""
        if self.reinitialize_layers:
            layers_of(module).at_least(self.reinitialize_layers, "reinitialize_layers")
            reinitialize(stack_of(module)[-self.reinitialize_layers :], std)

    def prepare(self, module: nn.Module) -> None:
        """Nothing."""

    def groups(self, module: nn.Module) -> list[ParameterGroup]:
        """A group per layer, or a single one if all layers have the same rate."""
        if self.layer_decay == 1 and self.embeddings_factor == 1:
            return _split(tuple(module.parameters()), 1.0)
        return [group for stage in self._stages(layers_of(module)) for group in stage]

    def _stages(self, found: Layers) -> list[list[ParameterGroup]]:
        """The groups of each layer from the top down; those of the embeddings are the last."""
        stages = [_split(layer, self.layer_decay**depth) for depth, layer in enumerate(reversed(found.layers))]
        stages[0] = _split(found.top, 1.0) + stages[0]
        factor = self.embeddings_factor * self.layer_decay ** len(found.layers)
        return [*stages, _split(found.embeddings, factor) if factor else []]


@dataclass(frozen=True)
class TopLayersTuning(FullTuning):
    """Only the top layers are trained; no gradient is computed for those below, and no activations are kept.

    layers: the number of layers trained, counted from the top.
    """

    layers: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers < 1:
            raise _out_of_range("layers", self.layers, "at least 1 (spacy-bertft.FrozenTuning.v1 trains none)")

    def groups(self, module: nn.Module) -> list[ParameterGroup]:
        """Groups of the top layers."""
        found = layers_of(module)
        found.at_least(self.layers, "layers")
        return [group for stage in self._stages(found)[: self.layers] for group in stage]


@dataclass(frozen=True)
class GradualTuning(FullTuning):
    """The top layer is trained first, then one more layer at a time, the embeddings last (Howard & Ruder, 2018).

    every: steps or epochs until the next layer is trained too.
    unit: "steps" or "epochs".
    """

    every: int = 1
    unit: Unit = "epochs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise _out_of_range("every", self.every, "at least 1")

    def groups(self, module: nn.Module) -> list[ParameterGroup]:
        """The groups of all layers, each with its start."""
        return [
            ParameterGroup(group.parameters, group.rate_factor, group.decays, start=number * self.every)
            for number, stage in enumerate(self._stages(layers_of(module)))
            for group in stage
        ]


@dataclass(frozen=True)
class FrozenTuning:
    """No weight of the encoder is trained, only the heads. It runs as in prediction: no dropout, the fastest engine.

    The encoder's output for the training and development texts is kept, so that later epochs don't compute it again.

    cache_mb: MiB that it may take; 0 to compute it in every epoch.
    cache: "memory" or "disk" (a temporary file).
    """

    cache_mb: int = 2048
    cache: Literal["memory", "disk"] = "memory"

    learns = False
    unit: ClassVar[Unit] = "steps"

    def begin(self, module: nn.Module, *, std: float) -> None:
        """Nothing."""

    def prepare(self, module: nn.Module) -> None:
        """Nothing."""

    def groups(self, module: nn.Module) -> list[ParameterGroup]:
        """None."""
        return []


def _split(parameters: Sequence[nn.Parameter], rate_factor: float) -> list[ParameterGroup]:
    """Those that require a gradient, by whether they decay: biases and norms (one dimension) don't."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    decaying = tuple(parameter for parameter in learning if parameter.ndim >= 2)
    others = tuple(parameter for parameter in learning if parameter.ndim < 2)
    groups = (ParameterGroup(decaying, rate_factor, True), ParameterGroup(others, rate_factor, False))
    return [group for group in groups if group.parameters]


def _out_of_range(setting: str, found: float, expected: str) -> ConfigError:
    return ConfigError(
        f"The {setting} of the encoder's tuning is {found:g}; expected {expected}. Correct it in the block "
        "[components.encoder.tuning]."
    )
