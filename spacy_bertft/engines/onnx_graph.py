"""A Net as an ONNX graph, in the operators that ONNX Runtime has fused kernels for on a CPU.

Nothing in it depends on a fixed batch or length. Padding is taken out first: embeddings, products and norms work on
rows of real subwords (N, D), and only attention gets the windows padded to the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spacy_bertft.engines.int8 import LayerInputs
from spacy_bertft.engines.net import Layer, Linear, Net, Norm, Shape
from spacy_bertft.engines.onnx import HIDDEN, IDS, MASK, ROWS, SEGMENTS
from spacy_bertft.engines.onnx_attention import Attention
from spacy_bertft.engines.onnx_int8 import Int8Layer, Quantiser
from spacy_bertft.engines.onnx_nodes import FLOAT, INT64, MICROSOFT, Graph
from spacy_bertft.errors import EncoderError, how_to_install

# Versions of ONNX's operators and of ONNX Runtime's own; every ONNX Runtime that we support has both.
_OPSET, _MICROSOFT_OPSET, _IR_VERSION = 17, 1, 9
# A model file is one protobuf message, which can't be larger.
SIZE_LIMIT = 2**31 - 1


def build(net: Net, layer_inputs: Sequence[LayerInputs] | None = None) -> NDArray[np.uint8]:
    """The encoder as the bytes of a model.onnx.

    Inputs: input_ids and attention_mask, (batch, sequence) int64; the mask is 1 at real subwords, 0 at padding. If
    the encoder distinguishes segments, also token_type_ids of the same shape: 1 in the second segment, else 0.
    Outputs: last_hidden_state, (batch, sequence, D) float32, with zeros at padding; packed_hidden_state, (N, D)
    float32, only the real subwords, window by window.

    layer_inputs: from find_inputs, for int8; None for float32. In int8, the weights of the layers' products use 8 bits
    with a scale per output channel, their inputs 8 bits with a scale per row, and word embeddings 8 bits with a scale
    per subword. Everything else stays float32.
    """
    try:
        from onnx import helper, numpy_helper
    except ImportError:
        raise EncoderError(
            "Exporting an encoder to ONNX needs the package onnx, which is not installed. Expected it beside "
            f"onnxruntime: {how_to_install('export')}."
        ) from None
    graph = Graph(int8=layer_inputs is not None)
    _encoder(graph, net, layer_inputs)
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
            [helper.make_tensor_value_info(name, INT64, cells) for name in inputs],
            [
                helper.make_tensor_value_info(name, FLOAT, [*places, net.shape.width])
                for name, places in ((HIDDEN, cells), (ROWS, rows))
            ],
            [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, _MICROSOFT_OPSET)],
        ir_version=_IR_VERSION,
        producer_name="spacy-bertft",
    )
    return np.frombuffer(model.SerializeToString(), dtype=np.uint8)


def _encoder(graph: Graph, net: Net, layer_inputs: Sequence[LayerInputs] | None) -> None:
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
    for layer in _layers(graph, net, layer_inputs, cells):
        mixed = attention.attend(layer.name, layer.weights, *layer.query_key_value(hidden))
        # Sum and norm as two nodes: ONNX Runtime's fused ones are several times slower on a CPU.
        hidden = graph.normalise(f"{layer.name}.out_norm", layer.out(mixed, hidden), layer.weights.out_norm, shape.eps)
        out = layer.feed_forward(hidden)
        hidden = graph.normalise(f"{layer.name}.down_norm", out, layer.weights.down_norm, shape.eps)
    hidden = graph.normalise("final_norm", hidden, net.final_norm, shape.eps)

    add("Identity", hidden, outputs=[ROWS])
    wide_cells = add("Concat", size, ints("width", [shape.width]), axis=0)
    padded = add("Reshape", add("Gather", hidden, rows), wide_cells)
    is_real = add("Unsqueeze", add("Cast", MASK, to=FLOAT), ints("last_axis", [-1]))
    add("Mul", padded, is_real, outputs=[HIDDEN])


def _embedded_positions(graph: Graph, net: Net, positions: Tensor, size: str, cells: str) -> str:
    """The embedding of each row's position and segment. (N, E)."""
    places = _positions(graph, net.shape.first_position, size, cells)
    if net.n_segments > 1:  # in the table, the rows of the second segment follow the first's
        segments = graph.add("Gather", graph.add("Reshape", SEGMENTS, "flat"), cells)
        places = graph.add("Add", places, graph.add("Mul", segments, graph.ints("n_positions", positions.shape[1])))
    return graph.add("Gather", graph.floats("positions", positions.flatten(0, 1)), places)


def _layers(
    graph: Graph, net: Net, layer_inputs: Sequence[LayerInputs] | None, cells: str
) -> Sequence[_FloatLayer] | Sequence[Int8Layer]:
    """What adds each layer's products; layers that share their weights have it in common."""
    names = {id(layer): f"layer.{number}" for number, layer in reversed(list(enumerate(net.layers)))}
    if layer_inputs is None:
        return [_FloatLayer(graph, names[id(layer)], layer, net.shape) for layer in net.layers]
    quantiser = Quantiser(graph, cells)
    made: dict[int, Int8Layer] = {}
    for layer, its in zip(net.layers, layer_inputs, strict=True):
        if id(layer) not in made:
            made[id(layer)] = Int8Layer(quantiser, names[id(layer)], layer, net.shape, its)
    return [made[id(layer)] for layer in net.layers]


class _FloatLayer:
    """Adds the products of one layer in float32, with the norms before them."""

    def __init__(self, graph: Graph, name: str, weights: Layer, shape: Shape) -> None:
        self.graph, self.name, self.weights, self.shape = graph, name, weights, shape

    def query_key_value(self, hidden: str) -> tuple[list[str], str]:
        """Query, key and value as one (N, 3D), and the bias that attention is to add: none."""
        rows = self._normalise("attention_norm", hidden, self.weights.attention_norm)
        return [self._linear("query_key_value", rows, self.weights.query_key_value())], ""

    def out(self, mixed: str, hidden: str) -> str:
        """The sum of attention's output and its input. (N, D)."""
        return self.graph.add("Add", self._linear("out", mixed, self.weights.out), hidden)

    def feed_forward(self, hidden: str) -> str:
        """The sum of the feed-forward part's output and its input. (N, D)."""
        weights = self.weights
        rows = self._normalise("up_norm", hidden, weights.up_norm)
        inner = self.graph.activate(self.shape.activation, self._linear("up", rows, weights.up))
        if weights.gate is not None:
            inner = self.graph.add("Mul", inner, self._linear("gate", rows, weights.gate))
        return self.graph.add("Add", self._linear("down", inner, weights.down), hidden)

    def _linear(self, part: str, rows: str, one: Linear) -> str:
        return self.graph.linear(f"{self.name}.{part}", rows, one)

    def _normalise(self, part: str, rows: str, norm: Norm | None) -> str:
        return self.graph.normalise(f"{self.name}.{part}", rows, norm, self.shape.eps)


def _positions(graph: Graph, first: int, size: str, cells: str) -> str:
    """The position of each row, as in text/batches.positions. (N,)."""
    if not first:
        return graph.add("Mod", cells, graph.add("Gather", size, graph.ints("1", 1)))
    padding = graph.ints("padding", first - 1)
    other = graph.add("Cast", graph.add("Not", graph.add("Equal", IDS, padding)), to=INT64)
    so_far = graph.add("CumSum", other, graph.ints("1", 1))
    places = graph.add("Add", graph.add("Mul", other, so_far), padding)
    return graph.add("Gather", graph.add("Reshape", places, "flat"), cells)
