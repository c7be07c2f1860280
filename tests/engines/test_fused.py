"""The fused forward: each run of windows, each activation, with and without oneDNN."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from encoders import KNOWN, LONG, MIXED, encoder_of, error_of, net_of, rewrite, texts_of
from tiny import WIDTH
from torch.nn import functional

from spacy_bertft import compat
from spacy_bertft.engines.fused import FusedEngine
from spacy_bertft.types import Packed

pytestmark = pytest.mark.touches_transformers


@pytest.fixture
def encoder(tiny_bert):
    return encoder_of(tiny_bert)


def packed_of(lengths, seed=0):
    lengths = np.sort(np.array(lengths, dtype=np.int64))[::-1].copy()
    ids = np.random.default_rng(seed).integers(5, 100, lengths.sum())
    positions = np.concatenate([np.arange(length) for length in lengths])
    return Packed(ids, positions, lengths)


@pytest.mark.parametrize(
    "lengths",
    [
        [1],
        [2, 2],
        [15],
        [16],
        [17],
        [33, 33, 33],
        [64, 48, 16],
        [40, 9, 9, 9, 3, 1],
        [5] * 20,
        [20, 18, 17, 16, 15, 14],
    ],
    ids=str,
)
@torch.no_grad()
def test_windows_of_all_lengths_equal_the_model(encoder, tiny_bert, lengths):
    packed = packed_of(lengths)
    plain = encoder_of(tiny_bert, batching="padded").engine()
    torch.testing.assert_close(encoder.engine()(packed), plain(packed), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"])
@torch.no_grad()
def test_activations_equal_the_model_s(tiny_bert, tmp_path, activation):
    encoder_of(tiny_bert).save(tmp_path)
    rewrite(tmp_path / "config.json", hidden_act=activation)
    encoder = encoder_of(tmp_path)
    assert isinstance(encoder.engine(), FusedEngine)
    expected = encoder_of(tmp_path, batching="padded")(texts_of(MIXED))
    found = encoder(texts_of(MIXED))
    torch.testing.assert_close(found.hidden[found.rows], expected.hidden[expected.rows], rtol=1e-4, atol=1e-4)


# --- products


PRECISIONS = {torch.float32: {}, torch.bfloat16: {"rtol": 0.02, "atol": 0.05}}


@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_products_are_the_same_with_and_without_onednn(monkeypatch, activation, rows, dtype):
    weight, bias, x = (torch.randn(*size).to(dtype) for size in ((24, WIDTH), (24,), (rows, WIDTH)))
    finish = {
        "none": lambda y: y,
        "gelu": functional.gelu,
        "gelu_tanh": lambda y: functional.gelu(y, approximate="tanh"),
        "relu": functional.relu,
    }[activation]
    expected = finish(functional.linear(x, weight, bias))
    with torch.no_grad():
        found = compat.fast_linear(weight, bias, activation, rows=64)(x)
        torch.testing.assert_close(found, expected, **PRECISIONS[dtype])
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        torch.testing.assert_close(compat.fast_linear(weight, bias, activation, rows=64)(x), expected)


@pytest.mark.parametrize("rows", [1, 7, 300])
def test_sums_are_the_same_with_and_without_onednn(monkeypatch, rows):
    weight, bias, x, other = torch.randn(24, WIDTH), torch.randn(24), torch.randn(rows, WIDTH), torch.randn(rows, 24)
    expected, before = functional.linear(x, weight, bias) + other, other.clone()
    with torch.no_grad():
        torch.testing.assert_close(compat.fast_linear_with("add", weight, bias, rows=64)(x, other), expected)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        torch.testing.assert_close(compat.fast_linear_with("add", weight, bias, rows=64)(x, other), expected)
    assert torch.equal(other, before)


def test_idle_rows_bound_the_numbers_of_rows_that_products_meet(encoder):
    met = set()

    def watched(product):
        def run(rows):
            met.add(len(rows))
            return product(rows)

        return run

    with torch.no_grad():
        engine = encoder.engine()
        engine.layers = [replace(layer, up=watched(layer.up)) for layer in engine.layers]
        for length in range(1, 65):
            hidden = engine(packed_of([length, 1]))
            assert hidden.isfinite().all()
            assert len(hidden) == length + 1
    assert met == {32, 64, 96}


@torch.no_grad()
def test_the_budget_does_not_change_the_rows(tiny_bert):
    texts = texts_of([*MIXED, LONG])
    rows = []
    for budget in (1, 40, None):
        features = encoder_of(tiny_bert, batch_subwords=budget)(texts)
        rows.append(features.hidden[features.rows])
    torch.testing.assert_close(rows[0], rows[2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rows[1], rows[2], rtol=1e-4, atol=1e-5)


# --- bfloat16


@pytest.mark.parametrize("family", KNOWN)
@torch.no_grad()
def test_rows_in_bfloat16_are_float32_and_close(tiny_encoder, family):
    encoder = encoder_of(tiny_encoder(family))
    packed = packed_of([40, 33, 33, 9, 3, 1])
    full, half = (FusedEngine(net_of(encoder), half=half)(packed) for half in (False, True))
    assert half.dtype == torch.float32
    assert 0 < error_of(half, full) < 0.02


@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-6), ("bfloat16", 2e-3)])
@torch.no_grad()
def test_a_text_gets_the_same_rows_alone_and_in_a_batch(tiny_bert, precision, bound):
    encoder = encoder_of(tiny_bert, precision=precision)
    assert encoder.engine().dtype == getattr(torch, precision)
    together = encoder(texts_of([*MIXED, LONG]))
    alone = [encoder(texts_of([text])) for text in [*MIXED, LONG]]
    rows = torch.cat([features.hidden[features.rows] for features in alone])
    assert error_of(rows, together.hidden[together.rows]) < bound


@torch.no_grad()
def test_an_engine_in_bfloat16_holds_its_weights_once_and_in_half_the_memory(encoder, monkeypatch):
    laid_out = []
    fast_linear = compat.fast_linear

    def watched(weight, bias, activation, *, rows):
        laid_out.append(weight)
        return fast_linear(weight, bias, activation, rows=rows)

    monkeypatch.setattr(compat, "fast_linear", watched)
    net = net_of(encoder)
    FusedEngine(net, half=True)
    assert {weight.dtype for weight in laid_out} == {torch.bfloat16}
    assert len(laid_out) == 4 * net.shape.layers


@torch.no_grad()
def test_training_and_copies_get_new_engines_in_bfloat16(tiny_bert):
    encoder, texts = encoder_of(tiny_bert, precision="bfloat16"), texts_of(MIXED)
    before = encoder(texts).hidden
    twin = copy.deepcopy(encoder)
    encoder.model.encoder.layer[0].output.dense.weight.mul_(2.0)
    assert error_of(encoder(texts).hidden, before) > 0.01
    assert torch.equal(twin(texts).hidden, before)
