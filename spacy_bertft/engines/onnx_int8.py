"""A layer's products in int8, as nodes of the ONNX graph.

Activations are quantised row by row, so a text's values don't depend on the texts beside it. A row's scale comes from
its largest value. ONNX Runtime's products take a single scale for all rows: they get 1, and their results are
multiplied by the scales of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spacy_bertft.engines.family_weights import Activation, Layer
from spacy_bertft.engines.int8 import Floats, Smoothing, quantise_weight

if TYPE_CHECKING:
    from spacy_bertft.engines.onnx_graph import Graph

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


class Int8Layer:
    """Adds the products of one layer."""

    def __init__(self, graph: Graph, name: str, layer: Layer, smoothing: Smoothing, *, row_count: str) -> None:
        """row_count: the node that says how many rows there are, (1,) int64."""
        self.graph = graph
        self.name = name
        self.layer = layer
        self.smoothing = smoothing
        self.row_count = row_count

    def query_key_value(self, hidden: str) -> tuple[list[str], str]:
        """Queries, keys and values (N, D) without bias, and the bias that attention is to add (3D,).

        The values are divided by the factors of `out`. Attention doesn't change if all keys have the same vector added,
        and its weights add up to 1, so the bias of the values passes through it: `out` adds it.
        """
        smoothing, layer = self.smoothing, self.layer
        rows = self._quantise(self._smooth("query_key_value", hidden, smoothing.query_key_value))
        weights = [_numpy(one.weight) * smoothing.query_key_value for one in (layer.query, layer.key, layer.value)]
        weights[2] /= smoothing.out[:, None]
        parts = zip(("query", "key", "value"), weights, strict=True)
        bias = np.concatenate([_numpy(layer.query.bias), np.zeros(2 * len(smoothing.out), dtype=np.float32)])
        return [self._multiply(part, rows, weight) for part, weight in parts], self._constant("query.bias", bias)

    def out(self, mixed: str, hidden: str) -> str:
        """The sum of attention's output and its input. (N, D)."""
        weight = _numpy(self.layer.out.weight)
        bias = _numpy(self.layer.out.bias) + weight @ _numpy(self.layer.value.bias)
        product = self._multiply("out", self._quantise(mixed), weight * self.smoothing.out)
        return self._sum("out", product, hidden, bias)

    def feed_forward(self, hidden: str, activation: Activation) -> str:
        """The sum of the feed-forward part's output and its input. (N, D)."""
        up, down, factors = self.layer.up, self.layer.down, self.smoothing.up
        inner = self._multiply("up", self._quantise(self._smooth("up", hidden, factors)), _numpy(up.weight) * factors)
        # Two nodes: ONNX Runtime's fused BiasGelu takes longer on a CPU.
        inner = self.graph.activate(
            activation, self.graph.add("Add", inner, self._constant("up.bias", _numpy(up.bias)))
        )
        product = self._multiply("down", self._quantise(inner, activated=True), _numpy(down.weight))
        return self._sum("down", product, hidden, _numpy(down.bias))

    def _constant(self, name: str, values: Floats | NDArray[np.int8]) -> str:
        return self.graph.constant(f"{self.name}.{name}", values)

    def _sum(self, part: str, product: str, hidden: str, bias: Floats) -> str:
        add = self.graph.add
        return add("Add", product, add("Add", hidden, self._constant(f"{part}.bias", bias)))

    def _smooth(self, part: str, rows: str, factors: Floats) -> str:
        return self.graph.add("Mul", rows, self._constant(f"{part}.smoothing", np.float32(1) / factors))

    def _quantise(self, rows: str, *, activated: bool = False) -> _Rows:
        """Quantise rows (N, in). activated: they come from the activation."""
        graph, add = self.graph, self.graph.add
        zero, lowest = (_LOW, _LOWEST / _LOW) if activated else (_MIDDLE, _TINY)
        largest = add("ReduceMax", rows if activated else add("Abs", rows), axes=[1], keepdims=0)  # (N,)
        step = add("Mul", largest, graph.constant(f"step_{zero}", np.float32(1 / (255 - zero))))
        scales = add("Max", step, graph.constant(f"lowest_{zero}", np.float32(lowest)))
        zero_point = graph.constant(f"zero_{zero}", np.uint8(zero))
        of_rows = f"zeros_{zero}"  # (N,); one node for the whole graph
        if of_rows not in graph.added:
            add("Expand", zero_point, self.row_count, outputs=[of_rows])
        whole = add("QuantizeLinear", rows, scales, of_rows, axis=0)
        return _Rows(whole, add("Unsqueeze", scales, graph.ints("last_axis", [-1])), zero_point)

    def _multiply(self, part: str, rows: _Rows, weight: Floats) -> str:
        """(N, in) -> (N, out), without bias. weight: (out, in)."""
        whole, scales = quantise_weight(np.ascontiguousarray(weight.T))
        product = self.graph.add(
            "MatMulIntegerToFloat",
            rows.whole,
            self._constant(f"{part}.weight", whole),
            self.graph.constant("one", np.float32(1)),
            self._constant(f"{part}.scales", scales),
            rows.zero_point,
            domain=self.graph.microsoft,
        )
        return self.graph.add("Mul", product, rows.scales)


def _numpy(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().float().cpu().numpy()
    return array
