"""A layer's products in int8, as nodes of the ONNX graph.

Activations are quantised row by row, so a text's values don't depend on the texts beside it. A row's scale comes from
its largest value. ONNX Runtime's products take a single scale for all rows: they get 1, and their results are
multiplied by the scales of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spacy_bertft.engines.int8 import Inputs, LayerInputs, quantise_weight
from spacy_bertft.engines.net import Layer, Norm, Shape
from spacy_bertft.engines.onnx_nodes import MICROSOFT, Graph, as_floats
from spacy_bertft.types import Floats

# What stands for 0 among the values 0 to 255 of a quantised row. After the activation, hardly any value is negative.
_MIDDLE, _LOW = 128, 16
# The lowest value of GELU is -0.17 (of ReLU, 0): a step of at least a sixteenth of it.
_LOWEST = 0.17
_TINY = 1e-12  # the smallest scale of a row, so that zeros stay zeros


@dataclass(frozen=True, slots=True)
class _Rows:
    """The nodes of quantised rows."""

    whole: str  # (N, in) uint8
    scales: str  # (N, 1)
    zero_point: str


class Quantiser:
    """Adds what makes rows whole numbers. What depends on no layer is added once."""

    def __init__(self, graph: Graph, cells: str) -> None:
        """cells: name of a node with an entry for each row, (N,)."""
        self.graph = graph
        self._row_count = graph.add("Shape", cells)
        self._zeros: dict[int, str] = {}

    def quantise(self, rows: str, *, activated: bool = False) -> _Rows:
        """Quantise rows (N, in). activated: they come from the activation, and nothing has changed them since."""
        graph, add = self.graph, self.graph.add
        zero, lowest = (_LOW, _LOWEST / _LOW) if activated else (_MIDDLE, _TINY)
        largest = add("ReduceMax", rows if activated else add("Abs", rows), axes=[1], keepdims=0)  # (N,)
        step = add("Mul", largest, graph.constant(f"step_{zero}", np.float32(1 / (255 - zero))))
        scales = add("Max", step, graph.constant(f"lowest_{zero}", np.float32(lowest)))
        zero_point = graph.constant(f"zero_{zero}", np.uint8(zero))
        if zero not in self._zeros:
            self._zeros[zero] = add("Expand", zero_point, self._row_count)  # (N,)
        whole = add("QuantizeLinear", rows, scales, self._zeros[zero], axis=0)
        return _Rows(whole, add("Unsqueeze", scales, graph.ints("last_axis", [-1])), zero_point)


class _Product:
    """A product without bias. (N, in) -> (N, out)."""

    def __init__(self, graph: Graph, name: str, weight: Floats, inputs: Inputs) -> None:
        """weight: (out, in), of the inputs before they are divided by their factors."""
        whole, scales = quantise_weight(np.ascontiguousarray((weight * inputs.factors).T), inputs.moments)
        self._graph = graph
        self._weight = graph.constant(f"{name}.weight", whole)
        self._scales = graph.constant(f"{name}.scales", scales)

    def __call__(self, rows: _Rows) -> str:
        one = self._graph.constant("one_float", np.float32(1))
        inputs = (rows.whole, self._weight, one, self._scales, rows.zero_point)
        return self._graph.add("Mul", self._graph.add("MatMulIntegerToFloat", *inputs, domain=MICROSOFT), rows.scales)


class Int8Layer:
    """Adds the products of one layer, with the norms before them.

    Smoothing changes no result except for rounding, whatever the attention: it only mixes the values of each channel by
    weights that don't depend on them, so what divides the values may be multiplied into `out`.
    """

    def __init__(self, quantiser: Quantiser, name: str, weights: Layer, shape: Shape, inputs: LayerInputs) -> None:
        self.name, self.weights = name, weights
        self._quantiser, self._graph = quantiser, quantiser.graph
        self._shape, self._inputs = shape, inputs
        attention, up = inputs.query_key_value, inputs.up
        self._query = self._product("query", as_floats(weights.query.weight), attention)
        self._key = self._product("key", as_floats(weights.key.weight), attention)
        values = as_floats(weights.value.weight) / inputs.out.factors[:, None]
        self._value = self._product("value", values, attention)
        self._out = self._product("out", as_floats(weights.out.weight), inputs.out)
        self._up = self._product("up", as_floats(weights.up.weight), up)
        self._gate = None if weights.gate is None else self._product("gate", as_floats(weights.gate.weight), up)
        self._down = self._product("down", as_floats(weights.down.weight), inputs.down)

    def query_key_value(self, hidden: str) -> tuple[list[str], str]:
        """Query, key and value (N, D), and the bias that attention is to add, (3D,), or "".

        The values are divided by the factors of `out`. Attention's weights add up to 1, so the bias of the values
        passes through it: `out` adds it. Attention doesn't change if all keys have the same vector added, unless it
        turns them by their positions or compares them with distances.
        """
        weights, factors = self.weights, self._inputs.query_key_value.factors
        rows = self._quantiser.quantise(self._smooth("attention_norm", hidden, weights.attention_norm, factors))
        query, key, value = self._query(rows), self._key(rows), self._value(rows)
        bias = as_floats(weights.query.bias)
        if weights.rotary or weights.position_key or weights.position_query:
            query = self._plus(query, "query.bias", bias)
            return [query, self._plus(key, "key.bias", as_floats(weights.key.bias)), value], ""
        joint = np.concatenate([bias, np.zeros(2 * len(bias), dtype=np.float32)])
        return [query, key, value], self._constant("query.bias", joint) if bias.any() else ""

    def out(self, mixed: str, hidden: str) -> str:
        """The sum of attention's output and its input. (N, D)."""
        out = self.weights.out
        bias = as_floats(out.bias) + as_floats(out.weight) @ as_floats(self.weights.value.bias)
        return self._sum("out", self._out(self._quantiser.quantise(mixed)), hidden, bias)

    def feed_forward(self, hidden: str) -> str:
        """The sum of the feed-forward part's output and its input. (N, D)."""
        weights, graph = self.weights, self._graph
        rows = self._quantiser.quantise(self._smooth("up_norm", hidden, weights.up_norm, self._inputs.up.factors))
        # Two nodes: ONNX Runtime's fused BiasGelu takes longer on a CPU.
        inner = graph.activate(
            self._shape.activation, self._plus(self._up(rows), "up.bias", as_floats(weights.up.bias))
        )
        if self._gate is not None and weights.gate is not None:
            inner = graph.add("Mul", inner, self._plus(self._gate(rows), "gate.bias", as_floats(weights.gate.bias)))
        whole = self._quantiser.quantise(inner, activated=self._gate is None)
        return self._sum("down", self._down(whole), hidden, as_floats(weights.down.bias))

    def _product(self, part: str, weight: Floats, inputs: Inputs) -> _Product:
        return _Product(self._graph, f"{self.name}.{part}", weight, inputs)

    def _constant(self, name: str, values: Floats) -> str:
        return self._graph.constant(f"{self.name}.{name}", values)

    def _plus(self, rows: str, name: str, bias: Floats) -> str:
        """Rows plus a bias, if it isn't 0."""
        return self._graph.add("Add", rows, self._constant(name, bias)) if bias.any() else rows

    def _sum(self, part: str, product: str, hidden: str, bias: Floats) -> str:
        return self._graph.add("Add", product, self._plus(hidden, f"{part}.bias", bias))

    def _smooth(self, part: str, hidden: str, norm: Norm | None, factors: Floats) -> str:
        """The inputs of products divided by factors: by the norm before them, if there is one."""
        if norm is None:
            return self._graph.add("Mul", hidden, self._constant(f"{part}.smoothing", np.float32(1) / factors))
        divisor = torch.from_numpy(factors)
        divided = Norm(_over(norm.weight, divisor), _over(norm.bias, divisor))
        return self._graph.normalise(f"{self.name}.{part}", hidden, divided, self._shape.eps)


def _over(values: Tensor, divisor: Tensor) -> Tensor:
    return values.detach().float().cpu() / divisor
