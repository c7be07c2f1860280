"""A Net as an ONNX graph, in the operators that ONNX Runtime has fused kernels for on a CPU.

Nothing in it depends on a fixed batch or length. Padding is taken out first: embeddings, products and norms work on
rows of real subwords (N, D), and only attention gets the windows padded to the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spacy_bertft.engines.int8_outliers import Outliers
from spacy_bertft.engines.net import Activation, Layer, Linear, Net, Norm
from spacy_bertft.engines.onnx import HIDDEN, IDS, MASK, ROWS, SEGMENTS
from spacy_bertft.engines.onnx_attention import Attention
from spacy_bertft.errors import EncoderError, how_to_install

# Versions of ONNX's operators and of ONNX Runtime's own; every ONNX Runtime that we support has both.
_OPSET, _MICROSOFT_OPSET, _IR_VERSION = 17, 1, 9
_MICROSOFT = "com.microsoft"
# The largest weight of an int8 product. CPUs with AVX2 or AVX-512 but no VNNI add two products of an activation (0 to
# 255) and a weight in 16 bits and clip the sum: 2 * 255 * 64 still fits, so results are the same on every machine. With
# VNNI, all 8 bits would be no faster; the mean error of MiniLM's hidden values would fall from 0.016 to 0.013.
WEIGHT_LIMIT = 64
EMBEDDING_LIMIT = 127
# A model file is one protobuf message, which can't be larger.
SIZE_LIMIT = 2**31 - 1

# ONNX's type codes.
_FLOAT, _INT64 = 1, 7

_ACTIVATIONS = {"gelu": ("Gelu", _MICROSOFT), "gelu_tanh": ("FastGelu", _MICROSOFT), "relu": ("Relu", "")}
# An outlier among the inputs of `up` is split into this many equal channels, so that it doesn't need a wider scale.
_SHARES = 8


def build(net: Net, outliers: Sequence[Outliers] | None = None) -> NDArray[np.uint8]:
    """The encoder as the bytes of a model.onnx.

    Inputs: input_ids and attention_mask, (batch, sequence) int64; the mask is 1 at real subwords, 0 at padding. If
    the encoder distinguishes segments, also token_type_ids of the same shape: 1 in the second segment, else 0.
    Outputs: last_hidden_state, (batch, sequence, D) float32, with zeros at padding; packed_hidden_state, (N, D)
    float32, only the real subwords, window by window.

    outliers: of each layer, for int8; None for float32. In int8, the weights of products use 7 of 8 bits with a scale
    per output channel, their inputs 8 bits with a scale per call (except outliers), and word embeddings 8 bits with a
    scale per subword. Everything else stays float32.
    """
    try:
        from onnx import helper, numpy_helper
    except ImportError:
        raise EncoderError(
            "Exporting an encoder to ONNX needs the package onnx, which is not installed. Expected it beside "
            f"onnxruntime: {how_to_install('export')}."
        ) from None
    graph = _Graph(int8=outliers is not None)
    _encoder(graph, net, outliers)
    size = sum(array.nbytes for array in graph.constants.values())
    if size > SIZE_LIMIT - 2**20:  # the rest of the graph takes far less
        smaller = "" if graph.int8 else " With int8 its weights take about a quarter: try --int8."
        raise EncoderError(
            f"The encoder's weights take {size / 2**30:.1f} GiB; expected less than 2 GiB, the most that one ONNX file "
            f"can hold (weights in separate files are not supported).{smaller}"
        )
    cells, rows = ["batch", "sequence"], ["subwords"]
    inputs = (IDS, MASK, SEGMENTS) if net.n_segments > 1 else (IDS, MASK)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(**node) for node in graph.nodes],
            net.shape.family,
            [helper.make_tensor_value_info(name, _INT64, cells) for name in inputs],
            [
                helper.make_tensor_value_info(name, _FLOAT, [*places, net.shape.width])
                for name, places in ((HIDDEN, cells), (ROWS, rows))
            ],
            [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, _MICROSOFT_OPSET)],
        ir_version=_IR_VERSION,
        producer_name="spacy-bertft",
    )
    return np.frombuffer(model.SerializeToString(), dtype=np.uint8)


class _Graph:
    """Collects the nodes and constants of a graph."""

    def __init__(self, *, int8: bool) -> None:
        self.int8 = int8
        self.nodes: list[dict[str, Any]] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def constant(self, name: str, values: Any) -> str:
        """Add a constant, unless it exists already, and return its name."""
        self.constants.setdefault(name, np.asarray(values, order="C"))
        return name

    def floats(self, name: str, tensor: Tensor) -> str:
        """Add a float32 constant."""
        return self.constant(name, _numpy(tensor))

    def ints(self, name: str, values: int | list[int]) -> str:
        """Add an int64 constant."""
        return self.constant(name, np.array(values, dtype=np.int64))

    def add(
        self, kind: str, *inputs: str, domain: str = "", outputs: list[str] | None = None, **attributes: Any
    ) -> str:
        """Add a node and return the name of its first output. outputs: their names, if they need special ones."""
        name = f"{kind}_{len(self.nodes)}"
        outputs = outputs or [name]
        self.nodes.append(
            {"op_type": kind, "inputs": inputs, "outputs": outputs, "name": name, "domain": domain, **attributes}
        )
        return outputs[0]

    def linear(self, name: str, rows: str, one: Linear, *, exact: bool = False) -> str:
        """Add a product with bias. (N, in) -> (N, out). exact: in float32 even if others are in int8."""
        weight, bias = _numpy(one.weight).T, self.floats(f"{name}.bias", one.bias)
        if exact or not self.int8:
            return self.add("Gemm", rows, self.constant(f"{name}.weight", weight), bias)
        whole, scales = quantise(weight, WEIGHT_LIMIT, axis=0)
        return self.add(
            "DynamicQuantizeMatMul",
            rows,
            self.constant(f"{name}.weight", whole),
            self.constant(f"{name}.scales", scales),
            "",  # the zero point is 0
            bias,
            domain=_MICROSOFT,
        )

    def activate(self, activation: Activation, rows: str) -> str:
        """Add the activation between `up` and `down`."""
        kind, domain = _ACTIVATIONS[activation]
        return self.add(kind, rows, domain=domain)

    def embed(self, name: str, ids: str, table: Tensor) -> str:
        """Look up rows of a table. (N,) -> (N, E)."""
        if not self.int8:
            return self.add("Gather", self.floats(name, table), ids)
        whole, scale = quantise(_numpy(table), EMBEDDING_LIMIT, axis=1)
        values = self.add("Gather", self.constant(name, whole), ids)
        scales = self.add("Gather", self.constant(f"{name}.scales", scale[:, None]), ids)  # (N, 1)
        return self.add("Mul", self.add("Cast", values, to=_FLOAT), scales)

    def normalise(self, name: str, rows: str, norm: Norm | None, eps: float) -> str:
        """Add a LayerNorm, if there is one. (N, D)."""
        if norm is None:
            return rows
        weight, bias = self.floats(f"{name}.weight", norm.weight), self.floats(f"{name}.bias", norm.bias)
        return self.add("LayerNormalization", rows, weight, bias, epsilon=eps)


def quantise(values: NDArray[np.float32], limit: int, *, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise `values` to integers in [-limit, limit], with one scale for each line along `axis`."""
    largest = np.abs(values).max(axis=axis, keepdims=True)
    scale = np.where(largest > 0, largest / limit, 1).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale.squeeze(axis)


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array


def _encoder(graph: _Graph, net: Net, outliers: Sequence[Outliers] | None) -> None:
    """Add all nodes, from ids and mask to hidden rows."""
    add, ints, shape = graph.add, graph.ints, net.shape
    flat = ints("flat", [-1])
    size = add("Shape", IDS)  # batch, sequence
    mask = add("Reshape", MASK, flat)
    cells = add("Squeeze", add("NonZero", mask), ints("first_axis", [0]))  # (N,) the cell of each row
    # The row of each cell; padding gets the row of a neighbour, which is masked.
    rows = add("Max", add("Sub", add("CumSum", mask, ints("0", 0)), ints("1", 1)), "0")

    hidden = graph.embed("words", add("Gather", add("Reshape", IDS, flat), cells), net.words)  # (N, E)
    if net.positions is not None:
        hidden = add("Add", hidden, _embedded_positions(graph, net, net.positions, size, cells))
    hidden = graph.normalise("norm", hidden, net.norm, shape.eps)
    if net.project is not None:
        hidden = graph.linear("project", hidden, net.project)  # (N, D)

    attention = Attention(graph, net, size=size, rows=rows, cells=cells)
    first = {id(layer): number for number, layer in reversed(list(enumerate(net.layers)))}
    for number, layer in enumerate(net.layers):
        hidden = _layer(graph, f"layer.{first[id(layer)]}", net, layer, attention, hidden,
                        outliers[number] if outliers else None)  # fmt: skip
    hidden = graph.normalise("final_norm", hidden, net.final_norm, shape.eps)

    add("Identity", hidden, outputs=[ROWS])
    wide_cells = add("Concat", size, ints("width", [shape.width]), axis=0)
    padded = add("Reshape", add("Gather", hidden, rows), wide_cells)
    is_real = add("Unsqueeze", add("Cast", MASK, to=_FLOAT), ints("last_axis", [-1]))
    add("Mul", padded, is_real, outputs=[HIDDEN])


def _embedded_positions(graph: _Graph, net: Net, positions: Tensor, size: str, cells: str) -> str:
    """The embedding of each row's position and segment. (N, E)."""
    places = _positions(graph, net.shape.first_position, size, cells)
    if net.n_segments > 1:  # in the table, the rows of the second segment follow the first's
        segments = graph.add("Gather", graph.add("Reshape", SEGMENTS, "flat"), cells)
        places = graph.add("Add", places, graph.add("Mul", segments, graph.ints("n_positions", positions.shape[1])))
    return graph.add("Gather", graph.floats("positions", positions.flatten(0, 1)), places)


def _layer(
    graph: _Graph, name: str, net: Net, layer: Layer, attention: Attention, hidden: str, outliers: Outliers | None
) -> str:
    """Add one layer. name: the same for layers that share their weights. (N, D) -> (N, D)."""
    add, shape = graph.add, net.shape
    rows = graph.normalise(f"{name}.attention_norm", hidden, layer.attention_norm, shape.eps)
    triple = graph.linear(f"{name}.query_key_value", rows, layer.query_key_value())  # (N, 3D)
    mixed = attention.attend(name, layer, triple)
    # Sum and norm as two nodes: ONNX Runtime's fused ones are several times slower on a CPU.
    hidden = add("Add", graph.linear(f"{name}.out", mixed, layer.out), hidden)
    hidden = graph.normalise(f"{name}.out_norm", hidden, layer.out_norm, shape.eps)
    rows = graph.normalise(f"{name}.up_norm", hidden, layer.up_norm, shape.eps)
    if outliers is None or not len(outliers.down) or layer.gate is not None:
        inner = graph.activate(shape.activation, graph.linear(f"{name}.up", rows, layer.up))
        if layer.gate is not None:
            inner = add("Mul", inner, graph.linear(f"{name}.gate", rows, layer.gate))
        out = graph.linear(f"{name}.down", inner, layer.down)
    else:
        out = _up_and_down(graph, name, rows, layer, outliers, shape.activation)
    return graph.normalise(f"{name}.down_norm", add("Add", out, hidden), layer.down_norm, shape.eps)


def _up_and_down(
    graph: _Graph, name: str, hidden: str, layer: Layer, outliers: Outliers, activation: Activation
) -> str:
    """Add `up` and `down` in int8; outliers of `up` are split, outliers of `down` stay float32. (N, D).

    Splitting: outlier channel splitting (Zhao et al., 2019).
    """
    weight, bias = layer.up.weight.detach().clone(), layer.up.bias.detach().clone()
    far, above = torch.from_numpy(outliers.up), torch.from_numpy(outliers.down)
    # The outliers of `down` take a separate path in float32. On the int8 path they are 0, and activations leave 0 as 0.
    few = graph.linear(f"{name}.few_up", hidden, Linear(weight[above], bias[above]), exact=True)
    down = layer.down.weight.detach().clone()
    few_down = Linear(down[:, above], layer.down.bias)
    few = graph.linear(f"{name}.few_down", graph.activate(activation, few), few_down, exact=True)
    weight[above], bias[above], down[:, above] = 0.0, 0.0, 0.0

    shares = np.ones(weight.shape[1], dtype=np.float32)
    shares[outliers.up] /= _SHARES
    shared = graph.add("Mul", hidden, graph.constant(f"{name}.shares", shares))
    again = graph.add("Gather", shared, graph.constant(f"{name}.far", outliers.up), axis=1)
    wider = graph.add("Concat", shared, *[again] * (_SHARES - 1), axis=1)  # (N, D + copies of outliers)
    weight = torch.cat([weight, *[weight[:, far]] * (_SHARES - 1)], dim=1)
    inner = graph.linear(f"{name}.up", wider, Linear(weight, bias))
    most = Linear(down, torch.zeros_like(layer.down.bias))
    return graph.add("Add", graph.linear(f"{name}.down", graph.activate(activation, inner), most), few)


def _positions(graph: _Graph, first: int, size: str, cells: str) -> str:
    """The position of each row, as in text/batches.positions. (N,)."""
    if not first:
        return graph.add("Mod", cells, graph.add("Gather", size, graph.ints("1", 1)))
    padding = graph.ints("padding", first - 1)
    other = graph.add("Cast", graph.add("Not", graph.add("Equal", IDS, padding)), to=_INT64)
    so_far = graph.add("CumSum", other, graph.ints("1", 1))
    places = graph.add("Add", graph.add("Mul", other, so_far), padding)
    return graph.add("Gather", graph.add("Reshape", places, "flat"), cells)
