"""The probabilities of dropout: of which modules, and only in training."""

from __future__ import annotations

import pytest
from encoders import KNOWN, TRAINED, encoder_of
from torch import nn

from spacy_bertft.engines.family_dropouts import LayerDropouts, read_dropouts

pytestmark = pytest.mark.touches_transformers


@pytest.mark.parametrize("family", TRAINED)
def test_every_module_counts_and_only_in_training(tiny_encoder, family):
    encoder = encoder_of(tiny_encoder(family))
    used = [module for name, module in encoder.model.named_modules() if isinstance(module, nn.Dropout)]
    for number, module in enumerate(used):
        module.p = (number + 1) / 100
    evaluated = read_dropouts(encoder.shape, encoder.model)
    assert evaluated.embeddings == 0
    assert set(evaluated.layers) == {LayerDropouts(0.0, 0.0, 0.0)}
    found = read_dropouts(encoder.shape, encoder.model.train())
    read = {found.embeddings} | {one for layer in found.layers for one in (layer.attention, layer.out, layer.down)}
    assert read - {0.0} == {module.p for module in used}
    assert all((layer.out == 0) is (family == "distilbert") for layer in found.layers)


@pytest.mark.parametrize("family", sorted(set(KNOWN) - set(TRAINED)))
def test_families_that_only_transformers_trains_have_none(tiny_encoder, family):
    encoder = encoder_of(tiny_encoder(family))
    assert read_dropouts(encoder.shape, encoder.model) is None
