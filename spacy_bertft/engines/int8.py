"""Weights in 8 bits, and the factors that make activations easier to quantise.

A few channels of a trained encoder take values ten times as large as the rest (Dettmers et al., 2022, LLM.int8()). In 8
bits with one scale they would leave little precision for the others. So activations are divided by a factor for each
channel, and weights multiplied by it: SmoothQuant (Xiao et al., 2023). Which channels are large depends much more on
the encoder than on the texts. Weights are not rounded one by one, but so that the errors of the products stay small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spacy_bertft.engines.fused import FusedEngine, FusedLayer
from spacy_bertft.engines.net import Layer, Linear, Net
from spacy_bertft.types import Floats, Packed

LIMIT = 127
# CPUs with AVX2 or AVX-512 but no VNNI add the products of two neighbouring inputs (each 0 to 255) with their weights
# in 16 bits, and clip the sum. Where the positive and the negative weights of each pair add up to at most 128, nothing
# is ever clipped, and results are the same on every machine. Most pairs of a trained encoder allow nearly all 8 bits.
PAIR_LIMIT = 128
# How much of the difference between channels moves from activations to weights: where queries, keys and values are
# made, whose inputs have the largest channels, and elsewhere. Errors are 3 % larger with 0.65 for all.
_STRENGTH_OF_ATTENTION, _STRENGTH = 0.8, 0.65
# Added to the moments of each channel, in shares of their mean. The method's authors use 0.01; with more, few texts do
# for many channels, and errors in the inputs are allowed for.
_DAMPING = 0.3
_BLOCK = 32  # inputs whose errors are spread to the later ones together


@dataclass(frozen=True, slots=True)
class Inputs:
    """What sample texts showed of the inputs of a product, which has C of them."""

    factors: Floats  # (C,) what they are to be divided by, channel by channel
    moments: Floats | None = None  # (C, C) the sums of the divided inputs' products with each other; None: unknown


@dataclass(frozen=True, slots=True)
class LayerInputs:
    """The inputs of one layer's products. `gate` has those of `up`."""

    query_key_value: Inputs
    out: Inputs
    up: Inputs
    down: Inputs


def quantise_rows(values: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Quantise to integers in [-LIMIT, LIMIT] with one scale per row. (V, E) -> (V, E), (V,)."""
    scale = _positive(np.abs(values).max(axis=1, keepdims=True) / LIMIT)
    return np.rint(values / scale).astype(np.int8), scale.squeeze(1)


def quantise_weight(weight: Floats, moments: Floats | None = None) -> tuple[NDArray[np.int8], Floats]:
    """Quantise with one scale per output, within LIMIT and PAIR_LIMIT. (in, out) -> (in, out), (out,).

    moments: of the inputs, (in, in), to let the errors of an output's weights cancel; None: round to the nearest.
    """
    pairs = np.pad(weight, ((0, len(weight) % 2), (0, 0))).reshape(-1, 2, weight.shape[1])
    sums = [np.maximum(sign * pairs, 0).sum(axis=1) for sign in (1, -1)]
    # Rounding may add a half to each of the two.
    largest = np.maximum(*sums).max(axis=0) / (PAIR_LIMIT - 1)
    scale = _positive(np.maximum(largest, np.abs(weight).max(axis=0) / LIMIT))
    return (np.rint(weight / scale).astype(np.int8) if moments is None else _round(weight / scale, moments)), scale


def _positive(scale: Floats) -> Floats:
    found: Floats = np.where(scale > 0, scale, 1).astype(np.float32)
    return found


def _round(values: Floats, moments: Floats) -> NDArray[np.int8]:
    """Round input by input; the inputs that follow make up for each error as far as they go together with this one.

    The method is GPTQ (Frantar et al., 2023). (in, out), (in, in) -> (in, out).
    """
    mean = moments.trace() / len(moments) or 1.0  # 0 if all inputs were
    damped = moments + _DAMPING * mean * np.eye(len(moments))
    # Row i tells how an error at input i spreads to the later ones, if the earlier ones are fixed.
    spread = np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
    left, whole = values.copy(), np.empty(values.shape, dtype=np.int8)
    none = np.zeros(values.shape[1], dtype=np.int64)
    for start in range(0, len(values), _BLOCK):
        block = left[start : start + _BLOCK]
        errors, stop = np.empty_like(block), start + len(block)
        for i, row in enumerate(block, start):
            neighbour = whole[i - 1].astype(np.int64) if i % 2 else none
            most = np.minimum(LIMIT, PAIR_LIMIT - np.maximum(neighbour, 0))
            least = -np.minimum(LIMIT, PAIR_LIMIT + np.minimum(neighbour, 0))
            whole[i] = np.clip(np.rint(row), least, most)
            errors[i - start] = (row - whole[i]) / spread[i, i]
            left[i + 1 : stop] -= spread[i, i + 1 : stop, None] * errors[i - start]
        left[stop:] -= spread[start:stop, stop:].T @ errors
    return whole


def find_inputs(net: Net, batches: Iterable[Packed]) -> list[LayerInputs]:
    """Run the encoder on batches of sample texts, and look at what its products get.

    Without batches, factors are 1. Layers that share their weights have the same.
    """
    engine = FusedEngine(net)
    watched = {id(layer): _WatchedLayer(layer) for layer in net.layers}
    engine.layers = [
        watched[id(layer)].watch(products) for layer, products in zip(net.layers, engine.layers, strict=True)
    ]
    for batch in batches:
        engine(batch)
    found = {key: layer.inputs() for key, layer in watched.items()}
    return [found[id(layer)] for layer in net.layers]


class _WatchedLayer:
    """The inputs of one layer's products."""

    def __init__(self, layer: Layer) -> None:
        ups = [layer.up] if layer.gate is None else [layer.up, layer.gate]
        self._query_key_value = _Watched([layer.query, layer.key, layer.value], _STRENGTH_OF_ATTENTION)
        self._out, self._up = _Watched([layer.out], _STRENGTH), _Watched(ups, _STRENGTH)
        # These inputs come from the activation, which can't be divided by anything beforehand.
        self._down = _Watched([layer.down], None)

    def watch(self, products: FusedLayer) -> FusedLayer:
        """Wrap the products so that their inputs are seen."""
        return replace(
            products,
            query_key_value=self._query_key_value.watch(products.query_key_value),
            out=self._out.watch(products.out),
            up=self._up.watch(products.up),
            down=self._down.watch(products.down),
        )

    def inputs(self) -> LayerInputs:
        """What has been seen."""
        return LayerInputs(self._query_key_value.inputs(), self._out.inputs(), self._up.inputs(), self._down.inputs())


class _Watched:
    """The largest absolute value of each channel so far, and the sums of the channels' products with each other."""

    def __init__(self, products: Sequence[Linear], strength: float | None) -> None:
        """products: those that have these inputs. strength: of smoothing; None: they are not divided."""
        self._strength = strength
        self._weights = torch.stack([one.weight.detach().abs().amax(dim=0) for one in products]).amax(dim=0)
        self._largest: Tensor | None = None
        self._moments = torch.zeros(())

    def watch(self, product: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Wrap a product so that its inputs are seen."""

        def watched(rows: Tensor, *others: Tensor) -> Tensor:
            now = rows.abs().amax(dim=0)
            self._largest = now if self._largest is None else self._largest.maximum(now)
            self._moments = self._moments + rows.T @ rows
            return product(rows, *others)

        return watched

    def inputs(self) -> Inputs:
        """What has been seen."""
        factors, largest = torch.ones(len(self._weights)), self._largest
        if largest is None:
            return Inputs(factors.numpy())
        if self._strength is not None:
            factors = largest.clamp_min(1e-5) ** self._strength
            factors /= self._weights.clamp_min(1e-5) ** (1 - self._strength)
            factors = (factors / factors.log().mean().exp()).clamp(1e-3, 1e3)  # their geometric mean is 1
        return Inputs(factors.numpy(), (self._moments / torch.outer(factors, factors)).numpy())
