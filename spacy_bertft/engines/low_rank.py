"""Low-rank updates of weights (LoRA), and the weights that several sets of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from spacy_bertft.engines.fused import FusedEngine


@dataclass(frozen=True, slots=True)
class LowRank:
    """An update of a linear map's weight W, which is used as W + scale * up @ down."""

    down: Tensor  # (rank, in)
    up: Tensor  # (out, rank)
    scale: float

    def delta(self) -> Tensor:
        """What it adds to W. (out, in)."""
        return self.scale * (self.up @ self.down)

    def to(self, dtype: torch.dtype) -> LowRank:
        """The same in another precision."""
        return LowRank(self.down.to(dtype), self.up.to(dtype), self.scale)

    def split(self, parts: int) -> list[LowRank]:
        """The updates of as many linear maps that are one."""
        return [LowRank(self.down, up, self.scale) for up in self.up.chunk(parts)]


Updates = Mapping[str, LowRank]  # name of a linear map -> its update


@dataclass(frozen=True, slots=True)
class UpdatedRows:
    """An update of some outputs of a product: those from `start` on."""

    start: int
    update: LowRank


def add_updates(hidden: Tensor, product: Tensor, updates: Sequence[UpdatedRows]) -> Tensor:
    """Add updates to a product in place.

    hidden: its input (N, in), in the precision of the updates; product: (N, out), in that precision or float32.
    """
    for one in updates:
        low = hidden @ one.update.down.T  # (N, rank)
        part = product[:, one.start : one.start + len(one.update.up)]
        if part.dtype == low.dtype:
            part.addmm_(low, one.update.up.T, alpha=one.update.scale)
        else:
            part.add_(low @ one.update.up.T, alpha=one.update.scale)
    return product


class SharedWeights(dict[str, "Tensor"]):
    """Weights by name that the encoders of several adapters have in common, and that nobody changes.

    digest: a hash of them.
    engines: run them without any adapter, by whether in bfloat16; those of the adapters build on them.
    """

    digest: str = ""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self.engines: dict[bool, FusedEngine] = {}

    def __deepcopy__(self, memo: Any) -> SharedWeights:
        return self
