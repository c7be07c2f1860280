"""Weights in 8 bits, and the factors that make activations easier to quantise.

A few channels of a trained encoder take values ten times as large as the rest (Dettmers et al., 2022, LLM.int8()). In 8
bits with one scale they would leave little precision for the others. So activations are divided by a factor for each
channel, and weights multiplied by it: SmoothQuant (Xiao et al., 2023). Which channels are large depends much more on
the encoder than on the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spacy_bertft.engines.fused import FusedEngine
from spacy_bertft.engines.net import Layer, Net
from spacy_bertft.types import Floats, Packed

LIMIT = 127
# CPUs with AVX2 or AVX-512 but no VNNI add the products of two neighbouring inputs (each 0 to 255) with their weights
# in 16 bits, and clip the sum. Where the positive and the negative weights of each pair add up to at most 128, nothing
# is ever clipped, and results are the same on every machine. Most pairs of a trained encoder allow nearly all 8 bits:
# the error of MiniLM's hidden rows is 4.7 %, against 4.6 % without this limit and 6.9 % with 7 bits.
PAIR_LIMIT = 128
# How much of the difference between channels moves from activations to weights. With MiniLM, 0.35 and 0.65 are as good.
_STRENGTH = 0.5


@dataclass(frozen=True, slots=True)
class Smoothing:
    """What the inputs of one layer's products are divided by, channel by channel. (D,) each."""

    query_key_value: Floats
    out: Floats
    up: Floats


def quantise_rows(values: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Quantise to integers in [-LIMIT, LIMIT] with one scale per row. (V, E) -> (V, E), (V,)."""
    return _divided(values, np.abs(values).max(axis=1, keepdims=True) / LIMIT, axis=1)


def quantise_weight(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Quantise with one scale per output, within LIMIT and PAIR_LIMIT. (in, out) -> (in, out), (out,)."""
    pairs = np.pad(weight, ((0, len(weight) % 2), (0, 0))).reshape(-1, 2, weight.shape[1])
    sums = [np.maximum(sign * pairs, 0).sum(axis=1) for sign in (1, -1)]
    # Rounding may add a half to each of the two.
    largest = np.maximum(*sums).max(axis=0, keepdims=True) / (PAIR_LIMIT - 1)
    return _divided(weight, np.maximum(largest, np.abs(weight).max(axis=0, keepdims=True) / LIMIT), axis=0)


def _divided(values: Floats, scale: Floats, *, axis: int) -> tuple[NDArray[np.int8], Floats]:
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale.squeeze(axis)


def find_smoothing(net: Net, batches: Iterable[Packed]) -> list[Smoothing]:
    """Run the encoder on batches of sample texts, and find the factors of each layer. Without batches, they are 1.

    Layers that share their weights have the same factors.
    """
    engine = FusedEngine(net)
    watched = {id(layer): _Watched(layer) for layer in net.layers}
    seen = [watched[id(layer)] for layer in net.layers]
    engine.layers = [
        replace(
            layer,
            query_key_value=inputs.query_key_value.watch(layer.query_key_value),
            out=inputs.out.watch(layer.out),
            up=inputs.up.watch(layer.up),
        )
        for layer, inputs in zip(engine.layers, seen, strict=True)
    ]
    for batch in batches:
        engine(batch)
    factors = {key: inputs.smoothing() for key, inputs in watched.items()}
    return [factors[id(layer)] for layer in net.layers]


class _Watched:
    """The inputs of one layer's products."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self.query_key_value, self.out, self.up = _Largest(), _Largest(), _Largest()

    def smoothing(self) -> Smoothing:
        """The factors for what has been seen. `gate` has the same inputs as `up`."""
        layer = self._layer
        ups = [layer.up] if layer.gate is None else [layer.up, layer.gate]
        return Smoothing(
            self.query_key_value.factors([one.weight for one in (layer.query, layer.key, layer.value)]),
            self.out.factors([layer.out.weight]),
            self.up.factors([one.weight for one in ups]),
        )


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

    def factors(self, weights: Sequence[Tensor]) -> Floats:
        """The factor of each channel, with a geometric mean of 1. weights: (out, in), of all products -> (in,)."""
        if self.values is None:
            return np.ones(weights[0].shape[1], dtype=np.float32)
        of_weights = torch.stack([weight.detach().abs().amax(dim=0) for weight in weights]).amax(dim=0)
        factors = self.values.clamp_min(1e-5) ** _STRENGTH / of_weights.clamp_min(1e-5) ** (1 - _STRENGTH)
        found: Floats = (factors / factors.log().mean().exp()).clamp(1e-3, 1e3).numpy()
        return found
