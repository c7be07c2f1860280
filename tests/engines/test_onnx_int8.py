"""Products in int8: what is stored, that no row depends on the others, and that all around them is exact.

How close whole encoders are: test_onnx.py, too.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from encoders import KNOWN, LONG, MIXED, encoder_of, error_of, exported, rows_of, sums_of_pairs
from random_nets import SETTINGS, net_of_model, random_model, rows_of_model, windows_of

from spacy_bertft.encoder.exported import load_exported
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.engines import onnx_int8, onnx_nodes
from spacy_bertft.engines.int8 import PAIR_LIMIT, Inputs, LayerInputs, find_inputs
from spacy_bertft.engines.onnx import OnnxEngine
from spacy_bertft.engines.onnx_graph import build

pytestmark = pytest.mark.touches_transformers


@pytest.mark.parametrize(("family", "per_layer"), [("bert", 6), ("mpnet", 6), ("deberta-v2", 6), ("modernbert", 7)])
def test_all_products_of_the_layers_are_in_int8(family, per_layer):
    net = net_of_model(random_model(family))
    model = onnx.load_from_string(build(net, find_inputs(net, [windows_of([20, 5])])).tobytes())
    onnx.checker.check_model(model)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    products = [constants[node.input[1]] for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) == per_layer * len(net.layers)
    for weight in products:
        assert weight.dtype == np.int8
        assert sums_of_pairs(weight).max() <= PAIR_LIMIT
    assert constants["words"].dtype == np.int8
    assert not {"Gemm", "DynamicQuantizeMatMul"} & {node.op_type for node in model.graph.node}


def test_layers_that_share_their_weights_have_them_once():
    nets = [net_of_model(random_model("albert", num_hidden_layers=layers)) for layers in (1, 12)]
    sizes = [len(build(net, find_inputs(net, []))) for net in nets]
    assert sizes[1] < 3 * sizes[0]  # nodes alone take most of so small a graph
    names = [tensor.name for tensor in onnx.load_from_string(build(nets[1], find_inputs(nets[1], [])).tobytes())
             .graph.initializer]  # fmt: skip
    assert sum(name.endswith(".up.weight") for name in names) == 1


class Exact:
    """A product in float32, in place of one in int8."""

    def __init__(self, graph, name, weight, inputs):
        self.graph, self.weight = graph, graph.constant(f"{name}.weight", (weight * inputs.factors).T)

    def __call__(self, rows):
        return self.graph.add("MatMul", rows, self.weight)


@pytest.mark.parametrize(("family", "settings"), [("bert", {}), *SETTINGS], ids=str)
def test_moved_factors_and_biases_change_nothing(family, settings, monkeypatch):
    """Were products exact, the graph would give the numbers of transformers, whatever the factors."""
    monkeypatch.setattr(onnx_int8, "_Product", Exact)
    monkeypatch.setattr(onnx_int8.Quantiser, "quantise", lambda self, rows, activated=False: rows)
    monkeypatch.setattr(onnx_nodes, "quantise_rows", lambda table: (table, np.ones(len(table), dtype=np.float32)))
    model = random_model(family, **settings)
    net = net_of_model(model)
    random = np.random.default_rng(0)
    down = Inputs(np.ones(net.shape.inner, dtype=np.float32))

    def random_inputs():
        return LayerInputs(*map(Inputs, random.uniform(0.2, 5, (3, net.shape.width)).astype(np.float32)), down)

    of_layer = {id(layer): random_inputs() for layer in net.layers}
    engine = OnnxEngine(build(net, [of_layer[id(layer)] for layer in net.layers]), padding=1)
    packed = windows_of([40, 9, 9, 1])
    torch.testing.assert_close(torch.from_numpy(engine(packed)), rows_of_model(model, packed), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("family", "settings"), SETTINGS, ids=str)
def test_all_ways_of_attention_stay_close(family, settings):
    model = random_model(family, **settings)
    net, packed = net_of_model(model), windows_of([40, 9, 9, 1])
    engine = OnnxEngine(build(net, find_inputs(net, [windows_of([50, 30], seed=1)])), padding=1)
    assert 0 < error_of(torch.from_numpy(engine(packed)), rows_of_model(model, packed)) < 0.05


@pytest.mark.parametrize("family", KNOWN)
@pytest.mark.parametrize("budget", [1, 50])
def test_a_text_alone_has_the_values_that_it_has_in_a_batch(tiny_encoder, tmp_path, family, budget):
    whole = exported(encoder_of(tiny_encoder(family)), tmp_path, int8=True)
    few = load_exported(tmp_path, EncoderSettings(backend="onnxruntime", batch_subwords=budget))
    texts = [*MIXED, LONG]
    torch.testing.assert_close(rows_of(few, texts), rows_of(whole, texts), rtol=0, atol=1e-4)
