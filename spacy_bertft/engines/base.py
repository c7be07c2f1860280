"""The interface that all engines implement."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from spacy_bertft.types import Packed

Precision = Literal["auto", "float32", "bfloat16"]
Form = Literal["weights", "onnx"]  # what a saved encoder holds


class Engine(Protocol):
    """Runs the encoder on batches of windows."""

    padded: bool  # whether windows of different length are padded
    budget: int  # most rows in one forward pass if the user sets none; measured

    def __call__(self, packed: Packed) -> Tensor:
        """Run one forward pass; attention stays within each window. -> (N, D) float32."""
