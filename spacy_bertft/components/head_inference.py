"""What heads compute in prediction on a CPU, in numpy: an optional hidden layer, and the output layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from thinc.api import NumpyOps

from spacy_bertft.components.hidden_layer import HiddenLayer
from spacy_bertft.types import Floats

_Float = TypeVar("_Float", bound=np.floating[Any])

HeadWeights: TypeAlias = Mapping[str, Floats]  # by the names that they have in the head's module


def misfit(weights: HeadWeights, layer: HiddenLayer, *, width: int, n_outputs: int) -> str | None:
    """How weights differ from those of a head with these settings, for a message; None if they fit."""
    expected = dict(_shapes(layer, width=width, n_outputs=n_outputs))
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is not expected" for name in weights if name not in expected]
    problems += [
        f"{name} is {weights[name].shape}, not {shape}"
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]
    return "; ".join(problems) or None


def _shapes(layer: HiddenLayer, *, width: int, n_outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "output.weight", (n_outputs, width)
    yield "output.bias", (n_outputs,)
    if layer.activation is not None:
        yield "dense.weight", (width, width)
        if layer.hidden_bias:
            yield "dense.bias", (width,)
    if layer.norm_eps is not None:
        yield "norm.weight", (width,)
        if layer.hidden_bias:
            yield "norm.bias", (width,)


def hidden_vectors(weights: HeadWeights, layer: HiddenLayer, vectors: Floats) -> Floats:
    """The hidden layer's output; the vectors themselves if there is none. (R, D) -> (R, D)."""
    if layer.activation is None:
        return vectors
    values = _ACTIVATIONS[layer.activation](_linear(weights, "dense", vectors))
    return values if layer.norm_eps is None else _normed(weights, values, layer.norm_eps)


def outputs(weights: HeadWeights, vectors: Floats) -> Floats:
    """The output layer's logits. (R, D) -> (R, L)."""
    return _linear(weights, "output", vectors)


def outputs_without_bias(weights: HeadWeights, vectors: Floats) -> Floats:
    """As `outputs`, for vectors that are yet to be pooled. (R, D) -> (R, L)."""
    return _product(vectors, weights["output.weight"])


def _linear(weights: HeadWeights, name: str, vectors: Floats) -> Floats:
    product = _product(vectors, weights[f"{name}.weight"])
    bias = weights.get(f"{name}.bias")
    return product if bias is None else product + bias


_ops = NumpyOps()


def _product(vectors: Floats, weight: Floats) -> Floats:
    """The vectors times the transposed weight. (R, D), (L, D) -> (R, L).

    By spaCy's own library for products (BLIS, or Accelerate on a Mac), which starts no threads: those of numpy's would
    spin after each product, and take the cores from the encoder.
    """
    product: Floats = _ops.gemm(np.ascontiguousarray(vectors), np.ascontiguousarray(weight), trans2=True)
    return product


def _normed(weights: HeadWeights, values: Floats, eps: float) -> Floats:
    """LayerNorm."""
    centred = values - values.mean(axis=1, keepdims=True)
    variance = np.square(centred).mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt(variance + np.float32(eps)) * weights["norm.weight"]
    bias = weights.get("norm.bias")
    normed: Floats = scaled if bias is None else scaled + bias
    return normed


def _relu(x: Floats) -> Floats:
    return np.maximum(x, np.float32(0))


def _gelu(x: Floats) -> Floats:
    """GELU with an error function by Abramowitz & Stegun, 1964, formula 7.1.26, right to 1.5e-7."""
    size = np.abs(x) * np.float32(math.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * size)
    series = np.zeros_like(t)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(factor)) * t
    rest = series * np.exp(-np.square(size))  # 1 - erf(size)
    return np.float32(0.5) * x * np.where(x < 0, rest, 2 - rest)


def _gelu_tanh(x: Floats) -> Floats:
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
    values: Floats = np.float32(0.5) * x * (1 + np.tanh(inner))
    return values


_ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "tanh": np.tanh,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": _relu,
}


def softmax(logits: NDArray[_Float]) -> NDArray[_Float]:
    """Probabilities of exclusive classes, (R, L)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[_Float] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def sigmoid(logits: Floats) -> Floats:
    """Probabilities of independent labels, (R, L); without overflow."""
    powers = np.exp(-np.abs(logits))
    shares: Floats = np.where(logits >= 0, 1, powers) / (1 + powers)
    return shares
