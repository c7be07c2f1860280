"""Numbers of 8 bits, and the factors that make activations easier to quantise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from encoders import SENTENCE, encoder_of, inputs_of, net_of, sums_of_pairs
from random_nets import net_of_model, random_model, windows_of

from spacy_bertft.engines.int8 import LIMIT, PAIR_LIMIT, find_inputs, quantise_rows, quantise_weight
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


def related(channels, rows):
    """Moments of inputs that mostly go together."""
    random = np.random.default_rng(2)
    inputs = (
        random.normal(size=(rows, 5)) @ random.normal(size=(5, channels)) + random.normal(size=(rows, channels)) / 9
    )
    return (inputs.T @ inputs).astype(np.float32)


@pytest.mark.parametrize("rounded_together", [False, True])
@pytest.mark.parametrize("size", [(64, 50), (7, 300)])
def test_two_products_fit_in_16_bits(size, rounded_together):
    """CPUs without VNNI clip sums that don't: results would depend on the machine."""
    values = np.random.default_rng(1).normal(size=size).astype(np.float32)
    values[0], values[1] = 4, np.linspace(-4, 4, size[1])  # pairs of equal and of opposite signs
    moments = related(values.shape[0], 50) if rounded_together else None
    whole, _ = quantise_weight(values, moments)
    assert sums_of_pairs(whole).max() <= PAIR_LIMIT
    assert 255 * PAIR_LIMIT < 2**15


def test_errors_of_inputs_that_go_together_cancel():
    weight = np.random.default_rng(3).normal(size=(96, 40)).astype(np.float32)
    moments = related(96, 3000)
    errors = []
    for known in (None, moments):
        whole, scale = quantise_weight(weight, known)
        error = whole * scale - weight
        errors.append(np.einsum("io,ij,jo->o", error, moments, error))
    assert errors[1].mean() < 0.2 * errors[0].mean()


def test_inputs_that_have_nothing_in_common_are_rounded_alone(values):
    assert np.array_equal(quantise_weight(values, np.diag(np.arange(12.0)))[0], quantise_weight(values)[0])


@pytest.mark.parametrize("channels", [31, 32, 33, 80])
def test_weights_are_rounded_as_in_the_paper(channels):
    """GPTQ in plain steps: the inverse of what is left after each input says how its error spreads."""
    weight = np.random.default_rng(4).uniform(-1, 1, size=(channels, 6)).astype(np.float32)
    moments = related(channels, 200)
    whole, scale = quantise_weight(weight, moments)
    left = weight / scale.astype(np.float64)
    damped = moments + 0.3 * moments.trace() / channels * np.eye(channels)
    expected = np.empty_like(left)
    for i, row in enumerate(left):
        before = expected[i - 1] if i % 2 else np.zeros(6)
        expected[i] = [round_within(value, beside) for value, beside in zip(row, before, strict=True)]
        inverse = np.linalg.inv(damped[i:, i:])
        left[i:] -= np.outer(inverse[:, 0], row - expected[i]) / inverse[0, 0]
    assert (whole == expected).mean() > 0.98  # float32 rounds a few halves the other way


def round_within(value, beside):
    """The nearest whole number in 8 bits that, with a neighbour of the same sign, is within the limit of pairs."""
    limit = min(LIMIT, PAIR_LIMIT - abs(beside)) if value * beside > 0 else LIMIT
    return np.sign(value) * min(abs(np.rint(value)), limit)


def test_large_weights_of_opposite_signs_may_use_all_8_bits():
    whole, _ = quantise_weight(np.array([[1.0], [-1.0], [0.1], [0.1]], dtype=np.float32))
    assert whole.ravel().tolist() == [127, -127, 13, 13]


def test_large_channels_get_large_factors(tiny_bert):
    encoder = encoder_of(tiny_bert)
    with torch.no_grad():
        encoder.model.encoder.layer[0].attention.output.LayerNorm.bias[[3, 11]] = torch.tensor([50.0, -40.0])
        encoder.model.encoder.layer[0].output.LayerNorm.bias[7] = 90.0
        encoder.model.encoder.layer[1].attention.self.value.bias[5] = 60.0
    first, second = inputs_of(encoder)[:2]
    assert set(np.argsort(first.up.factors)[-2:].tolist()) == {3, 11}
    assert np.argmax(second.query_key_value.factors) == 7
    assert np.argmax(second.out.factors) == 5
    for inputs in (first.query_key_value, first.out, first.up):
        assert np.log(inputs.factors).mean() == pytest.approx(0, abs=1e-5)


def test_each_batch_counts_and_their_order_does_not(tiny_bert):
    encoder = encoder_of(tiny_bert)
    net, batches = net_of(encoder), encoder.batches(["Anna", "12,345.67 €!", SENTENCE], budget=1)
    assert len(batches) == 3
    found, backwards, alone = (find_inputs(net, some) for some in (batches, batches[::-1], batches[:1]))
    for one, other, third in zip(found, backwards, alone, strict=True):
        assert np.array_equal(one.up.factors, other.up.factors)
        assert not np.array_equal(one.up.factors, third.up.factors)
        np.testing.assert_allclose(one.down.moments, other.down.moments, rtol=1e-4, atol=1e-4)
        assert not np.allclose(one.down.moments, third.down.moments)


def test_layers_that_share_their_weights_share_their_factors():
    net = net_of_model(random_model("albert"))
    found = find_inputs(net, [windows_of([20, 5])])
    assert len(found) == 4
    assert all(one is found[0] for one in found)
    apart = replace(net, layers=tuple(replace(layer) for layer in net.layers))
    layers = find_inputs(apart, [windows_of([20, 5])])
    assert not np.allclose(layers[0].up.factors, layers[1].up.factors)


def test_a_gate_counts_among_the_products_of_its_inputs():
    net = net_of_model(random_model("modernbert"))
    batches = [windows_of([20, 5])]
    before = find_inputs(net, batches)
    with torch.no_grad():
        net.layers[0].gate.weight[:, 7] = 9.0  # a view of the joint matrix
    after = find_inputs(net, batches)
    assert np.argmin(after[0].up.factors) == 7
    assert np.argmin(before[0].up.factors) != 7


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
            for factors in (inputs_of(encoder), inputs_of(encoder, texts=()))
        )
    assert smooth < 0.75 * plain
