"""Attention in an ONNX graph: windows padded to the longest, in the way of each family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from spacy_bertft.engines.distances import rows_of
from spacy_bertft.engines.fused_attention import rotary_angles
from spacy_bertft.engines.net import Disentangled, Layer, Linear, Net
from spacy_bertft.engines.onnx import MASK
from spacy_bertft.engines.onnx_nodes import INT32, MICROSOFT, Graph


class Attention:
    """Adds the attention of layers to a graph. What depends on no layer is added once."""

    def __init__(self, graph: Graph, net: Net, *, size: str, rows: str, cells: str) -> None:
        """Names in the graph. size: of [batch, sequence]; rows: the row of each cell; cells: the cell of each row."""
        self.graph, self.net = graph, net
        self.size, self.rows, self.cells = size, rows, cells
        self.real = graph.add("Cast", MASK, to=INT32)
        self._made: dict[object, str] = {}

    def attend(self, name: str, layer: Layer, rows: Sequence[str], bias: str = "") -> str:
        """Attention of each window within itself. -> (N, D).

        rows: query, key and value, as one (N, 3D) or three (N, D). bias: what is to be added to them first, (3D,); only
        for attention that has no other use for them than their products.
        """
        add, shape = self.graph.add, self.net.shape
        parts = self._rotated(layer.rotary.base, rows) if layer.rotary else self._padded(rows)
        scores = self._bias(name, layer, parts)
        options: dict[str, Any] = {"num_heads": shape.heads}
        if isinstance(shape.distances, Disentangled):
            options["scale"] = shape.scale
        mixed = add("MultiHeadAttention", *parts, bias, self.real, *scores, domain=MICROSOFT, **options)
        flat = self.graph.ints("wide", [-1, shape.width])
        return add("Gather", add("Reshape", mixed, flat), self.cells)  # (N, D)

    def _parts(self, joint: str, n_parts: int) -> list[str]:
        """Rows (N, n * D) of several parts as n of (batch, sequence, D)."""
        add, ints, width = self.graph.add, self.graph.ints, self.net.shape.width
        wide = add("Concat", self.size, ints(f"width_{n_parts}", [n_parts * width]), axis=0)
        padded = add("Reshape", add("Gather", joint, self.rows), wide)
        if n_parts == 1:
            return [padded]
        names = [f"{padded}.{number}" for number in range(n_parts)]
        add("Split", padded, ints(f"widths_{n_parts}", [width] * n_parts), axis=-1, outputs=names)
        return names

    def _padded(self, rows: Sequence[str]) -> list[str]:
        """Query, key and value. (batch, sequence, D) each."""
        return [part for joint in rows for part in self._parts(joint, 3 // len(rows))]

    def _rotated(self, base: float, rows: Sequence[str]) -> list[str]:
        """Query, key and value, the first two turned by the angles of their positions."""
        if len(rows) == 1:
            (triple,), width = rows, self.net.shape.width
            rows = [f"{triple}.query_key", f"{triple}.value"]
            self.graph.add("Split", triple, self.graph.ints("two_and_one", [2 * width, width]), axis=-1, outputs=rows)
        *turning, value = rows
        n_parts = 2 // len(turning)
        turned = [self._turned(base, joint, n_parts) for joint in turning]
        return [part for joint in turned for part in self._parts(joint, n_parts)] + self._parts(value, 1)

    def _turned(self, base: float, joint: str, n_parts: int) -> str:
        """Rows (N, n * D), turned by the angles of their positions."""
        add, ints, shape = self.graph.add, self.graph.ints, self.net.shape
        angles = rotary_angles(base, shape.width // shape.heads, torch.arange(shape.positions))
        caches = [self.graph.floats(f"{part}_{base:g}", one[:, 0]) for part, one in zip("cs", angles, strict=True)]
        # Each row is a sequence of its own, since the operator limits the length of sequences.
        single = add("Reshape", joint, ints(f"single_{n_parts}", [-1, 1, n_parts * shape.width]))
        turned = add("RotaryEmbedding", single, self._once("places", self._places), *caches, domain=MICROSOFT)
        return add("Squeeze", turned, ints("second_axis", [1]))

    # --- what is added to the scores

    def _bias(self, name: str, layer: Layer, parts: list[str]) -> list[str]:
        """The input of MultiHeadAttention for that, if there is anything. (1 or batch, H, sequence, sequence)."""
        if layer.rotary is not None:
            reach = layer.rotary.reach
            return [] if reach is None else [self._once(("local", reach), lambda: self._local(reach))]
        if self.net.distance_biases is not None:
            biases = self.net.distance_biases
            return [self._once("biases", lambda: self._by_distance(biases))]
        return self._disentangled(name, layer, parts)

    def _once(self, key: object, make: Any) -> str:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _length(self) -> str:
        """The longest window's length, a scalar."""
        return self._once("length", lambda: self.graph.add("Gather", self.size, self.graph.ints("1", 1)))

    def _places(self) -> str:
        """The position of each row. (N, 1)."""
        places = self.graph.add("Mod", self.cells, self._length())
        return self.graph.add("Unsqueeze", places, self.graph.ints("last_axis", [-1]))

    def _distances(self) -> str:
        """The key's position minus the query's. (sequence, sequence)."""

        def make() -> str:
            add, ints = self.graph.add, self.graph.ints
            places = add("Range", ints("0", 0), self._length(), ints("1", 1))
            keys, queries = (add("Unsqueeze", places, ints(f"axis_{axis}", [axis])) for axis in (0, 1))
            return add("Sub", keys, queries)

        return self._once("distances", make)

    def _local(self, reach: int) -> str:
        """-inf beyond the reach."""
        add, floats, ints = self.graph.add, self.graph.floats, self.graph.ints
        far = add("Greater", add("Abs", self._distances()), ints(f"reach_{reach}", reach))
        mask = add("Where", far, floats("minus_infinity", torch.tensor(-torch.inf)), floats("zero", torch.tensor(0.0)))
        heads = add("Concat", ints("heads", [1, self.net.shape.heads]), add("Shape", mask), axis=0)
        return add("Expand", mask, heads)

    def _by_distance(self, biases: Tensor) -> str:
        """MPNet's biases."""
        add, ints = self.graph.add, self.graph.ints
        table = self.graph.floats("distance_biases", biases[self._rows_of_all()])  # (2P - 1, H)
        values = add("Gather", table, add("Add", self._distances(), ints("furthest", self.net.shape.positions - 1)))
        return add("Unsqueeze", add("Transpose", values, perm=[2, 0, 1]), ints("axis_0", [0]))

    def _rows_of_all(self) -> Tensor:
        """The row of each distance between two positions. (2P - 1,)."""
        shape = self.net.shape
        assert shape.distances is not None
        return rows_of(shape.distances, torch.arange(1 - shape.positions, shape.positions))

    def _disentangled(self, name: str, layer: Layer, parts: list[str]) -> list[str]:
        """DeBERTa's scores of contents and distances."""
        sums = []
        if layer.position_key is not None:
            sums.append(self._met(f"{name}.position_key", parts[0], layer.position_key, sign=1))
        if layer.position_query is not None:
            met = self._met(f"{name}.position_query", parts[1], layer.position_query, sign=-1)
            sums.append(self.graph.add("Transpose", met, perm=[0, 1, 3, 2]))
        return [self.graph.add("Add", *sums)] if len(sums) == 2 else sums

    def _met(self, name: str, content: str, project: Linear, *, sign: int) -> str:
        """Products of contents with the distances to all subwords. (batch, H, sequence, sequence).

        Each content meets the distances from 1 - sequence to `sequence` in one product. Without the first numbers, and
        one column narrower, its lines begin where each one's own distances do.
        """
        add, ints, shape, distances = self.graph.add, self.graph.ints, self.net.shape, self.net.distances
        assert distances is not None
        by_head = ints("by_head", [0, 0, shape.heads, shape.width // shape.heads])
        contents = add("Transpose", add("Reshape", content, by_head), perm=[0, 2, 1, 3])  # (batch, H, sequence, D/H)
        table = self.graph.floats(name, linear(distances, project.weight, project.bias) * shape.scale)
        rows = add("Gather", table, self._once(("rows", sign), lambda: self._rows(sign)))  # (2 sequence, D)
        rows = add("Reshape", rows, ints("rows_by_head", [0, shape.heads, shape.width // shape.heads]))
        met = add("MatMul", contents, add("Transpose", rows, perm=[1, 2, 0]))  # (batch, H, sequence, 2 sequence)
        first, last, lines, columns = (self._once(key, self._skew(key)) for key in _SKEW)
        met = add("Slice", add("Reshape", met, ints("flat_lines", [0, 0, -1])), first, last, ints("axis_2", [2]))
        return add("Slice", add("Reshape", met, lines), ints("axis_0", [0]), columns, ints("axis_3", [3]))

    def _rows(self, sign: int) -> str:
        """The rows of the distances from 1 - sequence to `sequence`, times the sign. (2 sequence,)."""
        add, ints, most = self.graph.add, self.graph.ints, self.net.shape.positions - 1
        one = ints("1", 1)
        distances = add("Range", add("Sub", one, self._length()), add("Add", self._length(), one), one)
        distances = add("Mul", distances, ints(f"sign_{sign}", sign))
        within = add("Max", add("Min", distances, ints("furthest", most)), ints("nearest", -most))
        table = self.graph.constant("rows_of_distances", self._rows_of_all().numpy().astype(np.int64))
        return add("Gather", table, add("Add", within, ints("furthest", most)))

    def _skew(self, key: str) -> Any:
        """Makes one of the limits and shapes that _met needs."""
        add, ints = self.graph.add, self.graph.ints

        def make() -> str:
            length, axis = self._length(), ints("axis_0", [0])
            line = add("Unsqueeze", length, axis)
            first = add("Sub", line, ints("one", [1]))
            if key == "first":
                return first
            if key == "columns":
                return line
            narrower = add("Sub", add("Add", line, line), ints("one", [1]))
            if key == "last":
                return add("Add", first, add("Mul", line, narrower))
            return add("Concat", ints("keep", [0, 0]), line, narrower, axis=0)

        return make


_SKEW = ("first", "last", "lines", "columns")
