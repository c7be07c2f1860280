"""Nodes and constants of a graph: their names, and that equal ones are stored once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spacy_bertft.engines.net import Norm
from spacy_bertft.engines.onnx_nodes import Graph, as_floats


@pytest.fixture
def graph():
    return Graph(int8=False)


def test_a_constant_is_stored_once(graph):
    assert graph.ints("axis", [1]) == graph.ints("axis", [1]) == "axis"
    assert list(graph.constants) == ["axis"]
    assert graph.constants["axis"].dtype == np.int64


def test_nodes_get_names_of_their_own_or_those_asked_for(graph):
    first, second = graph.add("Abs", "x"), graph.add("Abs", "x")
    assert first != second
    assert graph.add("Split", "x", outputs=["left", "right"], axis=0) == "left"
    assert [node["outputs"] for node in graph.nodes] == [[first], [second], ["left", "right"]]


def test_without_a_norm_rows_stay_what_they_are(graph):
    assert graph.normalise("norm", "rows", None, 1e-5) == "rows"
    assert not graph.nodes
    graph.normalise("norm", "rows", Norm(torch.ones(2), torch.zeros(2)), 1e-5)
    assert [node["op_type"] for node in graph.nodes] == ["LayerNormalization"]


@pytest.mark.parametrize(("int8", "stored"), [(False, np.float32), (True, np.int8)])
def test_tables_take_8_bits_where_asked(int8, stored):
    graph = Graph(int8=int8)
    graph.embed("words", "ids", torch.randn(5, 3))
    assert graph.constants["words"].dtype == stored


def test_values_become_float32():
    weight = torch.nn.Parameter(torch.tensor([1.5], dtype=torch.bfloat16))
    assert as_floats(weight).tolist() == [1.5]
    assert as_floats(weight).dtype == np.float32
