"""A Net as an ONNX graph, in the operators that ONNX Runtime has fused kernels for on a CPU.

Nothing in it depends on a fixed batch or length. Padding is taken out first: embeddings, products and norms work on
rows of real subwords (N, D), and only attention gets the windows padded to the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spacy_bertft.engines.family_weights import Activation, Layer, Linear, Net, Norm
from spacy_bertft.engines.int8 import Smoothing, quantise_rows
from spacy_bertft.engines.onnx import HIDDEN, IDS, MASK, ROWS, SEGMENTS
from spacy_bertft.engines.onnx_int8 import Int8Layer
from spacy_bertft.errors import EncoderError, how_to_install

# Versions of ONNX's operators and of ONNX Runtime's own; every ONNX Runtime that we support has both.
_OPSET, _MICROSOFT_OPSET, _IR_VERSION = 17, 1, 9
_MICROSOFT = "com.microsoft"
# A model file is one protobuf message, which can't be larger.
SIZE_LIMIT = 2**31 - 1

# ONNX's type codes.
_FLOAT, _INT32, _INT64 = 1, 6, 7

_ACTIVATIONS = {"gelu": ("Gelu", _MICROSOFT), "gelu_tanh": ("FastGelu", _MICROSOFT), "relu": ("Relu", "")}


def build(net: Net, smoothing: Sequence[Smoothing] | None = None) -> NDArray[np.uint8]:
    """The encoder as the bytes of a model.onnx.

    Inputs: input_ids and attention_mask, (batch, sequence) int64; the mask is 1 at real subwords, 0 at padding. If
    the encoder distinguishes segments, also token_type_ids of the same shape: 1 in the second segment, else 0.
    Outputs: last_hidden_state, (batch, sequence, D) float32, with zeros at padding; packed_hidden_state, (N, D)
    float32, only the real subwords, window by window.

    smoothing: of each layer, for int8; None for float32. In int8, the weights of the layers' products use 8 bits with a
    scale per output channel, their inputs 8 bits with a scale per row, and word embeddings 8 bits with a scale per
    subword. Everything else stays float32.
    """
    try:
        from onnx import helper, numpy_helper
    except ImportError:
        raise EncoderError(
            "Exporting an encoder to ONNX needs the package onnx, which is not installed. Expected it beside "
            f"onnxruntime: {how_to_install('onnx')}."
        ) from None
    graph = Graph(int8=smoothing is not None)
    _encoder(graph, net, smoothing)
    size = sum(array.nbytes for array in graph.constants.values())
    if size > SIZE_LIMIT - 2**20:  # the rest of the graph takes far less
        smaller = "" if graph.int8 else " With int8 its weights take about a quarter: try --int8."
        raise EncoderError(
            f"The encoder's weights take {size / 2**30:.1f} GiB; expected less than 2 GiB, the most that one ONNX file "
            f"can hold (weights in separate files are not supported).{smaller}"
        )
    cells, rows = ["batch", "sequence"], ["subwords"]
    inputs = (IDS, MASK, SEGMENTS) if len(net.positions) > 1 else (IDS, MASK)
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


class Graph:
    """Collects the nodes and constants of a graph."""

    microsoft = _MICROSOFT

    def __init__(self, *, int8: bool) -> None:
        self.int8 = int8
        self.nodes: list[dict[str, Any]] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.added: set[str] = set()  # the outputs of all nodes

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
        self.added.update(outputs)
        return outputs[0]

    def linear(self, name: str, rows: str, one: Linear) -> str:
        """Add a product with bias in float32. (N, in) -> (N, out)."""
        weight = self.constant(f"{name}.weight", _numpy(one.weight).T)
        return self.add("Gemm", rows, weight, self.floats(f"{name}.bias", one.bias))

    def activate(self, activation: Activation, rows: str) -> str:
        """Add the activation between `up` and `down`."""
        kind, domain = _ACTIVATIONS[activation]
        return self.add(kind, rows, domain=domain)

    def embed(self, name: str, ids: str, table: Tensor) -> str:
        """Look up rows of a table. (N,) -> (N, E)."""
        if not self.int8:
            return self.add("Gather", self.floats(name, table), ids)
        whole, scale = quantise_rows(_numpy(table))
        values = self.add("Gather", self.constant(name, whole), ids)
        scales = self.add("Gather", self.constant(f"{name}.scales", scale[:, None]), ids)  # (N, 1)
        return self.add("Mul", self.add("Cast", values, to=_FLOAT), scales)

    def normalise(self, name: str, rows: str, norm: Norm, eps: float) -> str:
        """Add a LayerNorm. (N, D)."""
        weight, bias = self.floats(f"{name}.weight", norm.weight), self.floats(f"{name}.bias", norm.bias)
        return self.add("LayerNormalization", rows, weight, bias, epsilon=eps)


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array


def _encoder(graph: Graph, net: Net, smoothing: Sequence[Smoothing] | None) -> None:
    """Add all nodes, from ids and mask to hidden rows."""
    add, ints, shape = graph.add, graph.ints, net.shape
    flat = ints("flat", [-1])
    size = add("Shape", IDS)  # batch, sequence
    mask = add("Reshape", MASK, flat)
    cells = add("Squeeze", add("NonZero", mask), ints("first_axis", [0]))  # (N,) the cell of each row
    # The row of each cell; padding gets the row of a neighbour, which is masked.
    rows = add("Max", add("Sub", add("CumSum", mask, ints("0", 0)), ints("1", 1)), "0")

    hidden = graph.embed("words", add("Gather", add("Reshape", IDS, flat), cells), net.words)  # (N, E)
    places = _positions(graph, shape.first_position, size, cells)
    if len(net.positions) > 1:  # in the table, the rows of the second segment follow the first's
        segments = add("Gather", add("Reshape", SEGMENTS, flat), cells)
        places = add("Add", places, add("Mul", segments, ints("n_positions", net.positions.shape[1])))
    table = graph.floats("positions", net.positions.flatten(0, 1))
    hidden = add("Add", hidden, add("Gather", table, places))
    hidden = graph.normalise("norm", hidden, net.norm, shape.eps)
    if net.project is not None:
        hidden = graph.linear("project", hidden, net.project)  # (N, D)

    windows = add("Concat", size, ints("width", [shape.width]), axis=0)
    real = add("Cast", MASK, to=_INT32)
    wide = ints("wide", [-1, shape.width])
    row_count = add("Shape", cells)
    for number, weights in enumerate(net.layers):
        name = f"layer.{number}"
        layer: _FloatLayer | Int8Layer = _FloatLayer(graph, name, weights)
        if smoothing is not None:
            layer = Int8Layer(graph, name, weights, smoothing[number], row_count=row_count)
        parts, bias = layer.query_key_value(hidden)
        parts = [add("Reshape", add("Gather", part, rows), windows) for part in parts]  # (batch, sequence, D) each
        mixed = add("MultiHeadAttention", *parts, bias, real, domain=_MICROSOFT, num_heads=shape.heads)
        mixed = add("Gather", add("Reshape", mixed, wide), cells)  # (N, D)
        # Sum and norm as two nodes: ONNX Runtime's fused ones are several times slower on a CPU.
        hidden = graph.normalise(f"{name}.out_norm", layer.out(mixed, hidden), weights.out_norm, shape.eps)
        inner = layer.feed_forward(hidden, shape.activation)
        hidden = graph.normalise(f"{name}.down_norm", inner, weights.down_norm, shape.eps)

    add("Identity", hidden, outputs=[ROWS])
    padded = add("Reshape", add("Gather", hidden, rows), windows)
    is_real = add("Unsqueeze", add("Cast", MASK, to=_FLOAT), ints("last_axis", [-1]))
    add("Mul", padded, is_real, outputs=[HIDDEN])


class _FloatLayer:
    """Adds the products of one layer in float32."""

    def __init__(self, graph: Graph, name: str, layer: Layer) -> None:
        self.graph = graph
        self.name = name
        self.layer = layer

    def query_key_value(self, hidden: str) -> tuple[list[str], str]:
        """Queries, keys and values (N, D), and the bias that attention is to add: none."""
        parts = {"query": self.layer.query, "key": self.layer.key, "value": self.layer.value}
        return [self.graph.linear(f"{self.name}.{part}", hidden, one) for part, one in parts.items()], ""

    def out(self, mixed: str, hidden: str) -> str:
        """The sum of attention's output and its input. (N, D)."""
        return self.graph.add("Add", self.graph.linear(f"{self.name}.out", mixed, self.layer.out), hidden)

    def feed_forward(self, hidden: str, activation: Activation) -> str:
        """The sum of the feed-forward part's output and its input. (N, D)."""
        inner = self.graph.activate(activation, self.graph.linear(f"{self.name}.up", hidden, self.layer.up))
        return self.graph.add("Add", self.graph.linear(f"{self.name}.down", inner, self.layer.down), hidden)


def _positions(graph: Graph, first: int, size: str, cells: str) -> str:
    """The position of each row, as in text/batches.positions. (N,)."""
    if not first:
        return graph.add("Mod", cells, graph.add("Gather", size, graph.ints("1", 1)))
    padding = graph.ints("padding", first - 1)
    other = graph.add("Cast", graph.add("Not", graph.add("Equal", IDS, padding)), to=_INT64)
    so_far = graph.add("CumSum", other, graph.ints("1", 1))
    places = graph.add("Add", graph.add("Mul", other, so_far), padding)
    return graph.add("Gather", graph.add("Reshape", places, "flat"), cells)
