"""What runs a batch of windows, whatever the engine."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from spacy_bertft.types import Packed

Precision = Literal["auto", "float32", "bfloat16"]
Form = Literal["weights", "onnx"]  # what an encoder at rest is kept as


class Engine(Protocol):
    """What runs the encoder."""

    padded: bool  # whether windows of unlike length cost padding
    budget: int  # rows in one forward at most, unless the user says otherwise; by measurement

    def __call__(self, packed: Packed) -> Tensor:
        """One forward; attention stays within each window. -> (N, D) float32."""
