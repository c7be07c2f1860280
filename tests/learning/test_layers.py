"""The layers of every family, from the embeddings to the top."""

from __future__ import annotations

import pytest
import torch
from encoders import encoder_of
from tiny import FAMILIES
from torch import nn

from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.layers import layers_of, reinitialize, stack_of

pytestmark = pytest.mark.touches_transformers


@pytest.mark.parametrize("family", FAMILIES)
def test_each_weight_of_each_family_is_in_one_place(tiny_encoder, family):
    encoder = encoder_of(tiny_encoder(family))
    found = layers_of(encoder)
    every = [*found.embeddings, *(p for layer in found.layers for p in layer), *found.top]
    assert sorted(map(id, every)) == sorted(map(id, encoder.parameters()))
    names = {id(p): name for name, p in encoder.named_parameters()}
    assert any("word_embeddings" in names[id(p)] or "tok_embeddings" in names[id(p)] for p in found.embeddings)
    assert not any("embed" in names[id(p)] for p in (*found.top, *(p for layer in found.layers for p in layer)))
    expected = 1 if family == "albert" else encoder.model.config.num_hidden_layers  # ALBERT's layers share weights
    assert len(found.layers) == expected


def test_layers_come_from_the_bottom_up(tiny_bert):
    encoder = encoder_of(tiny_bert)
    names = {id(p): name for name, p in encoder.named_parameters()}
    for number, layer in enumerate(layers_of(encoder).layers):
        assert all(f"layer.{number}." in names[id(p)] for p in layer)
    assert all("pooler" in names[id(p)] for p in layers_of(encoder).top)


def test_a_module_without_layers_is_an_error():
    with pytest.raises(ConfigError, match="Linear has no list of layers"):
        layers_of(nn.Linear(2, 2))


def test_more_layers_than_there_are_is_an_error(tiny_bert):
    found = layers_of(encoder_of(tiny_bert))
    found.at_least(2, "layers")
    with pytest.raises(ConfigError, match="layers is 3, but the encoder has 2 layers"):
        found.at_least(3, "layers")


def test_random_weights_are_those_of_a_new_bert(tiny_bert):
    encoder = encoder_of(tiny_bert)
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    reinitialize(stack_of(encoder)[-1:], 0.02)
    for name, parameter in encoder.named_parameters():
        if ".layer.1." not in name:
            assert parameter.equal(before[name])
        elif name.endswith("bias"):
            assert not parameter.any()
        elif "LayerNorm" in name:
            assert parameter.eq(1).all()
        else:
            assert not parameter.equal(before[name])
            torch.testing.assert_close(parameter.std(), torch.tensor(0.02), rtol=0.2, atol=0)
