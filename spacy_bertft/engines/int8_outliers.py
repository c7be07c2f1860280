"""Channels that run far beyond all others, which one scale for all can't serve.

A few channels of a trained encoder take values ten times as large as the rest (Dettmers et al., 2022, LLM.int8()). In
8 bits with one scale they would leave little for the others, so onnx_graph.py keeps them apart. Which they are is a
matter of the encoder, much more than of the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from spacy_bertft.engines.family_weights import Net
from spacy_bertft.engines.fused import FusedEngine
from spacy_bertft.types import Ints, Packed

# Kept apart of each product's inputs. With MiniLM four of `up` and four of `down` halve the error of int8; more of
# them, and those of the other two products, bring little.
CHANNELS = 4


@dataclass(frozen=True, slots=True)
class Outliers:
    """Channels with the largest values in one layer, in order."""

    up: Ints  # of D, what goes into `up`
    down: Ints  # of F, what goes into `down`


def find_outliers(net: Net, batches: Iterable[Packed]) -> list[Outliers]:
    """Run the encoder on batches of sample texts and note the largest values, layer by layer."""
    engine = FusedEngine(net)
    largest = [{"up": _Largest(), "down": _Largest()} for _ in engine.layers]
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

    def watch(self, product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The same product, its inputs noted."""

        def watched(rows: Tensor) -> Tensor:
            now = rows.abs().amax(dim=0)
            self.values = now if self.values is None else self.values.maximum(now)
            return product(rows)

        return watched

    def channels(self) -> Ints:
        """Those with the largest values, in order; none before anything was seen."""
        if self.values is None:
            return np.zeros(0, dtype=np.int64)
        return np.sort(self.values.topk(min(CHANNELS, len(self.values))).indices.numpy())
