"""Weights with LoRA's matrices folded in, against the sum written out."""

from __future__ import annotations

import pytest
import torch
from encoders import encoder_of

from spacy_bertft.encoder.adapters import whole_weights
from spacy_bertft.learning.lora import LoraTuning

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]


def test_a_model_without_adapters_gives_its_own_weights(tiny_bert):
    model = encoder_of(tiny_bert).model
    found = whole_weights(model)
    assert all(value.data_ptr() == found[name].data_ptr() for name, value in model.state_dict().items())


def test_the_products_are_added(tiny_bert):
    encoder = encoder_of(tiny_bert)
    own = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    LoraTuning(rank=3, alpha=6.0, targets=["query"]).prepare(encoder)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    matrices = {name: value for name, value in encoder.model.named_parameters() if "lora_" in name}
    found = whole_weights(encoder.model)
    assert found.keys() == own.keys()
    for name, value in own.items():
        layer = name.removesuffix(".weight")
        expected = value
        if name.endswith("query.weight"):
            down, up = (matrices[f"{layer}.lora_{letter}.default.weight"] for letter in "AB")
            expected = value + 6.0 / 3 * up @ down
        torch.testing.assert_close(found[name], expected)
