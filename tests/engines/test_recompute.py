"""Large updates: the same gradients with a fraction of the memory."""

from __future__ import annotations

import pytest
import torch
from encoders import assert_near, encoder_of, texts_of
from torch.autograd.graph import saved_tensors_hooks

from spacy_bertft.encoder import encoder as encoder_module

pytestmark = pytest.mark.touches_transformers
TEXTS = ["the small cat sat on the mat " * 40, "a dog", "where is my parcel " * 25]


def learn(encoder, *, seed=0, between=None):
    """Gradients of one update by parameter, and how many bytes autograd kept for it."""
    kept = []

    def keep(tensor):
        kept.append(tensor.nbytes)
        return tensor

    encoder.zero_grad()
    encoder.train()
    torch.manual_seed(seed)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = encoder(texts_of(TEXTS)).hidden
    if between:
        between()
    hidden.backward(torch.linspace(-1, 1, hidden.numel()).view(hidden.shape))
    return {name: value.grad.clone() for name, value in encoder.named_parameters() if value.grad is not None}, sum(kept)


@pytest.mark.parametrize("batching", ["auto", "padded"])
@pytest.mark.parametrize("family", ["bert-uncased", "roberta", "distilbert"])
def test_gradients_are_those_of_kept_activations(tiny_encoder, monkeypatch, family, batching):
    encoder = encoder_of(tiny_encoder(family), batching=batching, batch_subwords=64)
    expected, all_kept = learn(encoder)
    monkeypatch.setattr(encoder_module, "KEPT_SUBWORDS", 100)
    found, kept = learn(encoder)
    assert found
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_near(found[name], gradient)
    assert kept < all_kept / 10


def test_dropout_of_the_backward_pass_is_that_of_the_forward(tiny_encoder, monkeypatch):
    """Even where a prediction has come between them, which switches dropout off."""
    encoder = encoder_of(tiny_encoder("bert-uncased"), batch_subwords=64)
    expected, _ = learn(encoder, seed=1)
    other, _ = learn(encoder, seed=2)
    weight = next(name for name in expected if name.endswith("output.dense.weight"))
    assert not torch.allclose(expected[weight], other[weight])
    monkeypatch.setattr(encoder_module, "KEPT_SUBWORDS", 100)
    found, _ = learn(encoder, seed=1, between=lambda: encoder.predict(texts_of(["a dog"])))
    for name, gradient in expected.items():
        assert_near(found[name], gradient)
    assert not encoder.model.training  # as the prediction has left it


def test_usual_updates_keep_their_activations(tiny_encoder):
    encoder = encoder_of(tiny_encoder("bert-uncased"))
    _, kept = learn(encoder)
    hidden = encoder(texts_of(TEXTS)).hidden
    assert kept > 10 * hidden.nbytes
