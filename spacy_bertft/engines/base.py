"""The interface that all engines implement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from spacy_bertft.types import Packed

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["auto", "float32", "bfloat16"]


class Engine(Protocol):
    """Runs the encoder on batches of windows."""

    padded: bool  # whether windows of different length are padded
    budget: int  # most rows in one forward pass if the user sets none; measured

    def __call__(self, packed: Packed) -> Tensor:
        """Run one forward pass; attention stays within each window. -> (N, D) float32."""


class LayeredEngine(Engine, Protocol):
    """An engine that can also tell what each layer makes."""

    def layer_rows(self, packed: Packed, depth: int | None = None) -> list[Tensor]:
        """Run one forward pass like `__call__`, but return what the lowest layer reads, then the rows after each layer.

        (N, D) each. depth: how many layers to run; None: all.
        """
