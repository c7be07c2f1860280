"""The ONNX graph itself: its inputs and outputs, and its size. What it computes: test_onnx.py."""

from __future__ import annotations

import onnx
import pytest
from encoders import KNOWN, encoder_of, inputs_of, net_of
from tiny import WIDTH

from spacy_bertft.engines import onnx_graph as graph_module
from spacy_bertft.engines.onnx_graph import build
from spacy_bertft.errors import EncoderError

pytestmark = pytest.mark.touches_transformers


def graph_of(encoder):
    return onnx.load_from_string(build(net_of(encoder)).tobytes())


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
    inputs = inputs_of(encoder)
    monkeypatch.setattr(graph_module, "SIZE_LIMIT", 2**20)
    with pytest.raises(EncoderError, match=r"expected less than 2 GiB[^-]*$"):
        build(net_of(encoder), inputs)
