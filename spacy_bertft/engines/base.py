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
