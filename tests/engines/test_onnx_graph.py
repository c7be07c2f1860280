"""The ONNX graph itself: its inputs and outputs, and its numbers of 8 bits. What it computes: test_onnx.py."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from encoders import KNOWN, encoder_of, net_of, outliers_of
from tiny import WIDTH

from spacy_bertft.engines import onnx_graph as graph_module
from spacy_bertft.engines.onnx_graph import EMBEDDING_LIMIT, WEIGHT_LIMIT, build, quantise
from spacy_bertft.errors import EncoderError

pytestmark = pytest.mark.touches_transformers


def graph_of(encoder, outliers=None):
    return onnx.load_from_string(build(net_of(encoder), outliers).tobytes())


def test_the_graph_is_valid_and_bound_to_no_shape(tiny_bert):
    model = graph_of(encoder_of(tiny_bert))
    onnx.checker.check_model(model)
    shapes = {
        value.name: [place.dim_param or place.dim_value for place in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "input_ids": ["batch", "sequence"],
        "attention_mask": ["batch", "sequence"],
        "token_type_ids": ["batch", "sequence"],
        "last_hidden_state": ["batch", "sequence", WIDTH],
        "packed_hidden_state": ["subwords", WIDTH],
    }


@pytest.mark.parametrize("family", KNOWN)
def test_segments_are_asked_for_where_the_encoder_tells_them_apart(tiny_encoder, family):
    inputs = {value.name for value in graph_of(encoder_of(tiny_encoder(family))).graph.input}
    tells = family in ("albert", "bert-uncased", "bert-cased", "electra")
    assert inputs == {"input_ids", "attention_mask"} | ({"token_type_ids"} if tells else set())


def test_an_encoder_too_large_for_one_file_is_refused(tiny_bert, monkeypatch):
    monkeypatch.setattr(graph_module, "SIZE_LIMIT", 2**20)
    with pytest.raises(EncoderError, match=r"expected less than 2 GiB.*try --int8"):
        build(net_of(encoder_of(tiny_bert)))


def test_int8_is_not_advised_to_those_who_have_it(tiny_bert, monkeypatch):
    encoder = encoder_of(tiny_bert)
    outliers = outliers_of(encoder)
    monkeypatch.setattr(graph_module, "SIZE_LIMIT", 2**20)
    with pytest.raises(EncoderError, match=r"expected less than 2 GiB[^-]*$"):
        build(net_of(encoder), outliers)


# --- int8


@pytest.mark.parametrize(("limit", "axis"), [(WEIGHT_LIMIT, 0), (EMBEDDING_LIMIT, 1)])
def test_quantised_values_are_within_half_a_step(limit, axis):
    values = np.random.default_rng(0).normal(size=(12, 7)).astype(np.float32)
    values[:, 3] = values[5] = 0
    whole, scale = quantise(values, limit, axis=axis)
    assert np.abs(whole).max() == limit
    steps = np.expand_dims(scale, axis)
    assert (np.abs(whole * steps - values) <= steps / 2 + 1e-6).all()


def test_lines_of_zeros_stay_zeros():
    whole, scale = quantise(np.zeros((3, 2), dtype=np.float32), WEIGHT_LIMIT, axis=0)
    assert not whole.any()
    assert scale.tolist() == [1, 1]


def test_two_products_of_int8_fit_in_16_bits(tiny_bert):
    """CPUs without VNNI cut off sums that don't: results would depend on the machine."""
    encoder = encoder_of(tiny_bert)
    model = graph_of(encoder, outliers_of(encoder))
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    products = [constants[node.input[1]] for node in model.graph.node if node.op_type == "DynamicQuantizeMatMul"]
    assert len(products) == 4 * len(net_of(encoder).layers)
    for weight in products:
        assert weight.dtype == np.int8
        assert 2 * 255 * np.abs(weight.astype(np.int64)).max() < 2**15
    assert constants["words"].dtype == np.int8
