"""LoRA: low-rank updates of fixed weights, by peft."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from spacy_bertft.encoder.adapters import inject, peft, set_dropout, updates_of
from spacy_bertft.engines.low_rank import LowRank
from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.layers import stack_of
from spacy_bertft.learning.tuning import ParameterGroup, Unit

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class LoraTuning:
    """Small matrices beside the layers' linear maps are trained; the encoder's weights stay fixed (Hu et al., 2021).

    A weight W is used as W + alpha / rank * B A, with A of (rank, inputs) and B of (outputs, rank).

    rank: inner width of the matrices.
    alpha: how strongly they act.
    dropout: probability of dropping their inputs in training.
    targets: names of the linear maps that get them, such as ["query", "value"]; None: all in the layers.
    rate_factor: learning rate of the matrices, as a multiple of the encoder's: they need a higher one.
    save: "merged" folds the product into W: a saved pipeline is an ordinary one, loads without peft, and further
        training starts new matrices on top. "adapter" saves the matrices alone, with the name and a hash of the
        encoder that they belong to, which is loaded by that name; further training continues with the same matrices.
        The encoders of several adapters in one pipeline share the weights of their base in memory, on a CPU.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: Sequence[str] | None = None
    rate_factor: float = 5.0
    save: Literal["merged", "adapter"] = "merged"

    learns = True
    unit: ClassVar[Unit] = "steps"

    def __post_init__(self) -> None:
        for name, found, right, expected in (
            ("rank", self.rank, self.rank >= 1, "at least 1"),
            ("alpha", self.alpha, self.alpha > 0, "more than 0"),
            ("dropout", self.dropout, 0 <= self.dropout < 1, "from 0 to below 1"),
            ("rate_factor", self.rate_factor, self.rate_factor > 0, "more than 0"),
        ):
            if not right:
                raise ConfigError(
                    f"The {name} of LoraTuning is {found:g}; expected {expected}. Correct it in the encoder's tuning "
                    "block."
                )

    def begin(self, module: nn.Module, *, std: float) -> None:
        """Check that peft is there, before anything is trained."""
        peft()

    def prepare(self, module: nn.Module) -> None:
        """Add the matrices, unless the module has them: B starts at 0, so that nothing changes at first."""
        names = _linear_names(module)
        if found := updates_of(module):
            self._check(next(iter(found.values())))
            set_dropout(module, self.dropout)
            return
        inject(module, self._chosen(names), rank=self.rank, alpha=self.alpha, dropout=self.dropout)

    def _check(self, found: LowRank) -> None:
        rank, alpha = len(found.down), len(found.down) * found.scale
        if rank != self.rank or not math.isclose(alpha, self.alpha, rel_tol=1e-6):
            raise ConfigError(
                f"The encoder's adapter has rank {rank} and alpha {alpha:g}, but LoraTuning has {self.rank} and "
                f"{self.alpha:g}. Expected the same, because its training continues. Correct them in the encoder's "
                "tuning block, or train a new adapter."
            )

    def _chosen(self, names: Sequence[str]) -> list[str]:
        kinds = sorted({name.rsplit(".", 1)[-1] for name in names})
        for target in self.targets or ():
            if not any(_matches(name, target) for name in names):
                raise ConfigError(
                    f"The target {target!r} of LoraTuning matches no linear map in the encoder's layers. Expected some "
                    f"of: {', '.join(kinds)}. Correct targets, or leave it out to take all."
                )
        return [name for name in names if self.targets is None or any(_matches(name, one) for one in self.targets)]

    def groups(self, module: nn.Module) -> list[ParameterGroup]:
        """One group of all added matrices."""
        added = tuple(parameter for name, parameter in module.named_parameters() if "lora_" in name)
        return [ParameterGroup(added, self.rate_factor, True)] if added else []


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _linear_names(module: nn.Module) -> list[str]:
    """The full names of the linear maps in an encoder's layers."""
    from torch import nn

    list(module.parameters())  # builds an encoder that is built late
    inside = {id(child) for layer in stack_of(module) for child in layer.modules()}
    return [name for name, child in module.named_modules() if isinstance(child, nn.Linear) and id(child) in inside]
