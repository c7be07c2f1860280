"""Outlier channels, whose values are too large to share an int8 scale with the others.

A few channels of a trained encoder take values ten times as large as the rest (Dettmers et al., 2022, LLM.int8()). In
8 bits with one scale they would leave little precision for the others, so onnx_graph.py treats them separately. Which
channels they are depends much more on the encoder than on the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from spacy_bertft.engines.fused import FusedEngine
from spacy_bertft.engines.net import Net
from spacy_bertft.types import Ints, Packed

# Outlier channels per product. With MiniLM, four inputs of `up` and four of `down` halve the error of int8; more
# channels, or outliers of the other two products, improve little.
CHANNELS = 4


@dataclass(frozen=True, slots=True)
class Outliers:
    """Channels with the largest values in one layer, in ascending order."""

    up: Ints  # among the D inputs of `up`
    down: Ints  # among the F inputs of `down`


def find_outliers(net: Net, batches: Iterable[Packed]) -> list[Outliers]:
    """Run the encoder on batches of sample texts and find the channels with the largest values in each layer."""
    engine = FusedEngine(net)
    of_weights = {id(layer): {"up": _Largest(), "down": _Largest()} for layer in net.layers}  # layers may share them
    largest = [of_weights[id(layer)] for layer in net.layers]
    engine.layers = [
        replace(layer, up=seen["up"].watch(layer.up), down=seen["down"].watch(layer.down))
        for layer, seen in zip(engine.layers, largest, strict=True)
    ]
    for batch in batches:
        engine(batch)
    return [Outliers(seen["up"].channels(), seen["down"].channels()) for seen in largest]


class _Largest:
    """The largest absolute value of each channel so far."""

    def __init__(self) -> None:
        self.values: Tensor | None = None

    def watch(self, product: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Wrap a product so that the largest values of its inputs are recorded."""

        def watched(rows: Tensor, *others: Tensor) -> Tensor:
            now = rows.abs().amax(dim=0)
            self.values = now if self.values is None else self.values.maximum(now)
            return product(rows, *others)

        return watched

    def channels(self) -> Ints:
        """The channels with the largest values, in ascending order; empty before the first input."""
        if self.values is None:
            return np.zeros(0, dtype=np.int64)
        return np.sort(self.values.topk(min(CHANNELS, len(self.values))).indices.numpy())
