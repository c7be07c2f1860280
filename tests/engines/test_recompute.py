"""Large updates: the same gradients with a fraction of the memory."""

from __future__ import annotations

import pytest
import torch
from encoders import assert_near, encoder_of, texts_of
from torch.autograd.graph import saved_tensors_hooks
from transformers import BertModel

from spacy_bertft.components.encoder_architecture import EncoderShim
from spacy_bertft.encoder import encoder as encoder_module
from spacy_bertft.engines import choose
from spacy_bertft.errors import ConfigError

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]
TEXTS = ["the small cat sat on the mat " * 40, "a dog", "where is my parcel " * 25]


@pytest.fixture
def transformers_alone(monkeypatch):
    """No engine of our own, whose dropout differs where transformers' model needs padding."""
    monkeypatch.setattr(choose, "_make_fused_training", lambda encoder, *, half: None)


def learn(encoder, *, seed=0, predict=False):
    """Gradients of one update by parameter, and how many bytes autograd kept for it."""
    kept = []

    def keep(tensor):
        kept.append(tensor.nbytes)
        return tensor

    shim = EncoderShim(encoder.settings)
    shim.module = encoder
    encoder.zero_grad()
    torch.manual_seed(seed)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        features, backpropagate = shim.begin_update(texts_of(TEXTS))
    if predict:
        encoder.predict(texts_of(["a dog"]))
    backpropagate(torch.linspace(-1, 1, features.hidden.numel()).view(features.hidden.shape))
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


@pytest.mark.parametrize(("limit", "settings"), [(100, {}), (10**6, {"gradient_checkpointing": True})])
@pytest.mark.usefixtures("transformers_alone")
def test_dropout_of_the_backward_pass_is_that_of_the_forward(tiny_encoder, monkeypatch, limit, settings):
    """Even where a prediction has come between them, which switches dropout off."""
    folder = tiny_encoder("bert-uncased")
    encoder = encoder_of(folder, batch_subwords=64)
    expected, _ = learn(encoder, seed=1)
    other, _ = learn(encoder, seed=2)
    weight = next(name for name in expected if name.endswith("output.dense.weight"))
    assert not torch.allclose(expected[weight], other[weight])
    monkeypatch.setattr(encoder_module, "KEPT_SUBWORDS", limit)
    found, _ = learn(encoder_of(folder, batch_subwords=64, **settings), seed=1, predict=True)
    for name, gradient in expected.items():
        assert_near(found[name], gradient)


@pytest.mark.parametrize("batching", ["auto", "padded"])
@pytest.mark.parametrize("family", ["bert-uncased", "distilbert"])
@pytest.mark.usefixtures("transformers_alone")
def test_gradient_checkpointing_keeps_the_inputs_of_layers_alone(tiny_encoder, family, batching):
    folder = tiny_encoder(family)
    expected, all_kept = learn(encoder_of(folder, batching=batching))
    found, kept = learn(encoder_of(folder, batching=batching, gradient_checkpointing=True))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_near(found[name], gradient)
    assert kept < all_kept / 3


@pytest.mark.usefixtures("transformers_alone")
def test_gradient_checkpointing_reaches_layers_above_frozen_ones(tiny_encoder):
    gradients = []
    for checkpointing in (False, True):
        encoder = encoder_of(tiny_encoder("bert-uncased"), gradient_checkpointing=checkpointing)
        encoder.model.embeddings.requires_grad_(False)
        encoder.model.encoder.layer[0].requires_grad_(False)
        gradients.append(learn(encoder)[0])
    assert not encoder.model.embeddings(torch.zeros(1, 3, dtype=torch.int64)).requires_grad
    assert gradients[0].keys() == gradients[1].keys()
    assert not [name for name in gradients[0] if "layer.0." in name]
    for name, gradient in gradients[0].items():
        assert_near(gradients[1][name], gradient)


def test_a_family_that_cant_recompute_names_the_setting(tiny_bert, monkeypatch):
    monkeypatch.setattr(BertModel, "supports_gradient_checkpointing", False)
    with pytest.raises(ConfigError, match=r"gradient_checkpointing is true, but transformers' BertModel does not"):
        encoder_of(tiny_bert, gradient_checkpointing=True)


def test_usual_updates_keep_their_activations(tiny_encoder):
    encoder = encoder_of(tiny_encoder("bert-uncased"))
    _, kept = learn(encoder)
    hidden = encoder(texts_of(TEXTS)).hidden
    assert kept > 10 * hidden.nbytes
