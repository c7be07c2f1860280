"""Numbers of 8 bits, and the factors that make activations easier to quantise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from encoders import SENTENCE, encoder_of, net_of, smoothing_of, sums_of_pairs
from random_nets import net_of_model, random_model, windows_of

from spacy_bertft.engines.int8 import LIMIT, PAIR_LIMIT, find_smoothing, quantise_rows, quantise_weight
from spacy_bertft.engines.onnx import OnnxEngine
from spacy_bertft.engines.onnx_graph import build

pytestmark = pytest.mark.touches_transformers


@pytest.fixture
def values():
    """Random values with a row and a column of zeros."""
    values = np.random.default_rng(0).normal(size=(12, 7)).astype(np.float32)
    values[:, 3] = values[5] = 0
    return values


def test_rows_are_within_half_a_step(values):
    whole, scale = quantise_rows(values)
    assert np.abs(whole).max() == LIMIT
    assert (np.abs(whole * scale[:, None] - values) <= scale[:, None] / 2 + 1e-6).all()
    assert scale[5] == 1
    assert not whole[5].any()


def test_weights_are_within_half_a_step(values):
    whole, scale = quantise_weight(values)
    assert whole.dtype == np.int8
    assert (np.abs(whole * scale - values) <= scale / 2 + 1e-6).all()
    assert scale[3] == 1
    assert not whole[:, 3].any()


@pytest.mark.parametrize("size", [(64, 50), (7, 300)])
def test_two_products_fit_in_16_bits(size):
    """CPUs without VNNI clip sums that don't: results would depend on the machine."""
    values = np.random.default_rng(1).normal(size=size).astype(np.float32)
    values[0], values[1] = 4, np.linspace(-4, 4, size[1])  # pairs of equal and of opposite signs
    whole, _ = quantise_weight(values)
    assert sums_of_pairs(whole).max() <= PAIR_LIMIT
    assert 255 * PAIR_LIMIT < 2**15


def test_large_weights_of_opposite_signs_may_use_all_8_bits():
    whole, _ = quantise_weight(np.array([[1.0], [-1.0], [0.1], [0.1]], dtype=np.float32))
    assert whole.ravel().tolist() == [127, -127, 13, 13]


def test_large_channels_get_large_factors(tiny_bert):
    encoder = encoder_of(tiny_bert)
    with torch.no_grad():
        encoder.model.encoder.layer[0].attention.output.LayerNorm.bias[[3, 11]] = torch.tensor([50.0, -40.0])
        encoder.model.encoder.layer[0].output.LayerNorm.bias[7] = 90.0
        encoder.model.encoder.layer[1].attention.self.value.bias[5] = 60.0
    first, second = smoothing_of(encoder)[:2]
    assert set(np.argsort(first.up)[-2:].tolist()) == {3, 11}
    assert np.argmax(second.query_key_value) == 7
    assert np.argmax(second.out) == 5
    for factors in (first.query_key_value, first.out, first.up):
        assert np.log(factors).mean() == pytest.approx(0, abs=1e-5)


def test_each_batch_counts_and_their_order_does_not(tiny_bert):
    encoder = encoder_of(tiny_bert)
    net, batches = net_of(encoder), encoder.batches(["Anna", "12,345.67 €!", SENTENCE], budget=1)
    assert len(batches) == 3
    found, backwards, alone = (find_smoothing(net, some) for some in (batches, batches[::-1], batches[:1]))
    for one, other, third in zip(found, backwards, alone, strict=True):
        assert np.array_equal(one.up, other.up)
        assert not np.array_equal(one.up, third.up)


def test_layers_that_share_their_weights_share_their_factors():
    net = net_of_model(random_model("albert"))
    found = find_smoothing(net, [windows_of([20, 5])])
    assert len(found) == 4
    assert all(one is found[0] for one in found)
    apart = replace(net, layers=tuple(replace(layer) for layer in net.layers))
    layers = find_smoothing(apart, [windows_of([20, 5])])
    assert not np.allclose(layers[0].up, layers[1].up)


def test_a_gate_counts_among_the_products_of_its_inputs():
    net = net_of_model(random_model("modernbert"))
    batches = [windows_of([20, 5])]
    before = find_smoothing(net, batches)
    with torch.no_grad():
        net.layers[0].gate.weight[:, 7] = 9.0  # a view of the joint matrix
    after = find_smoothing(net, batches)
    assert np.argmin(after[0].up) == 7
    assert np.argmin(before[0].up) != 7


def test_smoothing_pays_and_without_texts_the_graph_works(tiny_bert):
    encoder = encoder_of(tiny_bert)
    with torch.no_grad():
        for layer in encoder.model.encoder.layer:
            layer.attention.output.LayerNorm.bias[3] = 30.0
            layer.output.LayerNorm.bias[5] = 30.0
        (batch,) = encoder.batches([SENTENCE], budget=100)
        expected = encoder.engine()(batch)
        net = net_of(encoder)
        smooth, plain = (
            np.abs(OnnxEngine(build(net, factors), padding=0)(batch) - expected.numpy()).mean()
            for factors in (smoothing_of(encoder), smoothing_of(encoder, texts=()))
        )
    assert smooth < 0.75 * plain
