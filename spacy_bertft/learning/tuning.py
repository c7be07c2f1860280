"""Which weights of a module learn, and at what rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters that learn alike."""

    parameters: tuple[nn.Parameter, ...]
    rate_factor: float  # their learning rate, as a multiple of the module's
    decays: bool  # whether weight decay applies


@runtime_checkable  # spaCy checks the values of settings
class Tuning(Protocol):
    """A way to fine-tune, named in a component's config, and so saved with it."""

    @property
    def learns(self) -> bool:
        """Whether any weight does; if none does, no gradient reaches the module."""

    def groups(self, module: nn.Module) -> list[ParameterGroup]:
        """The parameters that learn, none of the groups empty."""


@dataclass(frozen=True)
class FullTuning:
    """All weights learn. Biases and norms (parameters of one dimension) do not decay."""

    learns = True

    def groups(self, module: nn.Module) -> list[ParameterGroup]:
        """Those that decay and those that don't; a parameter that does not require a gradient is left out."""
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        decaying = tuple(parameter for parameter in parameters if parameter.ndim >= 2)
        others = tuple(parameter for parameter in parameters if parameter.ndim < 2)
        groups = (ParameterGroup(decaying, 1.0, True), ParameterGroup(others, 1.0, False))
        return [group for group in groups if group.parameters]


@dataclass(frozen=True)
class FrozenTuning:
    """No weight learns, only the heads' do. The encoder runs as in prediction: no dropout, and the fastest engine."""

    learns = False

    def groups(self, module: nn.Module) -> list[ParameterGroup]:
        """None."""
        return []
