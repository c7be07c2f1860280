"""Engines that turn packed windows into hidden rows: transformers' own model, our fused forward, ONNX Runtime."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from spacy_bertft.types import Packed


class Engine(Protocol):
    """What runs the encoder."""

    padded: bool  # whether windows of unlike length cost padding
    budget: int  # rows in one forward at most, unless the user says otherwise; by measurement

    def __call__(self, packed: Packed) -> Tensor:
        """One forward; attention stays within each window. -> (N, D) float32."""
