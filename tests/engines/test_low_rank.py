"""Low-rank updates on our own engine: the numbers of folded weights, with one copy of what they update."""

from __future__ import annotations

import copy

import pytest
import torch
from encoders import KNOWN, SENTENCE, encoder_of, error_of, net_of, texts_of
from tiny import make_encoder

from spacy_bertft.engines.family_weights import linear_names
from spacy_bertft.engines.fused import FusedEngine
from spacy_bertft.engines.low_rank import LowRank, SharedWeights
from spacy_bertft.text.batches import bucket, pack, window_lengths

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]


# Linear maps that are several in one (ModernBERT).
JOINT = {"query": "query_key_value", "key": "query_key_value", "value": "query_key_value", "up": "up_gate"}


def updates_for(encoder, parts, rank=3):
    torch.manual_seed(0)
    weights = encoder.weights()
    found = {}
    for layer in linear_names(encoder.shape):
        for name in dict.fromkeys(layer.get(part) or layer[JOINT[part]] for part in parts):
            out, into = weights[f"{name}.weight"].shape
            found[name] = LowRank(torch.randn(rank, into) / 4, torch.randn(out, rank) / 4, 0.5)
    return found


def hidden_of(encoder, engine):
    subwords = encoder.splitter.split(texts_of([SENTENCE, "a", SENTENCE + " " + SENTENCE]))
    windows = encoder._cut(subwords)
    groups = bucket(window_lengths(windows, encoder.specials), budget=engine.budget, padded=False)
    return torch.cat([engine(pack(subwords.ids, windows, group, encoder.specials)) for group in groups])


@pytest.mark.parametrize(
    "parts",
    [["query"], ["value"], ["query", "value"], ["up"], ["query", "key", "value", "out", "up", "down"], []],
    ids="+".join,
)
@pytest.mark.parametrize("family", KNOWN)
def test_updates_give_the_numbers_of_folded_weights(tiny_encoder, family, parts):
    encoder = encoder_of(tiny_encoder(family))
    base = FusedEngine(net_of(encoder))
    plain = hidden_of(encoder, base)
    updates = updates_for(encoder, parts)
    found = hidden_of(encoder, base.adapted(updates))
    for name, update in updates.items():
        encoder.model.get_submodule(name).weight.data += update.delta()
    torch.testing.assert_close(found, hidden_of(encoder, FusedEngine(net_of(encoder))), rtol=1e-4, atol=1e-4)
    assert torch.allclose(found, plain, atol=1e-3) is not bool(parts)
    torch.testing.assert_close(hidden_of(encoder, base), plain)  # the base is as before


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("parts", [["position_key"], ["position_query", "key"]], ids="+".join)
def test_updates_reach_the_projections_of_distances(tmp_path, parts, shared, half):
    encoder = encoder_of(make_encoder(tmp_path, "deberta-v2", share_att_key=shared))
    encoder.model.encoder.rel_embeddings.weight.data *= 300  # so that they count
    base = FusedEngine(net_of(encoder), half=half)
    updates = updates_for(encoder, parts)
    found = hidden_of(encoder, base.adapted(updates))
    for name, update in updates.items():
        encoder.model.get_submodule(name).weight.data += update.delta()
    expected = hidden_of(encoder, FusedEngine(net_of(encoder)))
    assert error_of(found, expected) < (0.01 if half else 1e-5)
    assert error_of(hidden_of(encoder, base), expected) > 0.015


def test_updates_in_bfloat16_give_nearly_the_same(tiny_bert):
    encoder = encoder_of(tiny_bert)
    updates = updates_for(encoder, ["query", "key", "value", "out", "up", "down"])
    full, half = (FusedEngine(net_of(encoder), half=half) for half in (False, True))
    expected = hidden_of(encoder, full.adapted(updates))
    found = hidden_of(encoder, half.adapted(updates))
    assert found.dtype == torch.float32
    assert 0 < error_of(found, expected) < 0.02
    assert error_of(hidden_of(encoder, half), expected) > 0.2


def test_engines_share_all_but_the_updates(tiny_bert):
    encoder = encoder_of(tiny_bert)
    base = FusedEngine(net_of(encoder))
    one, other = (base.adapted(updates_for(encoder, ["query"])) for _ in range(2))
    assert one.net is other.net is base.net
    assert [layer.down for layer in one.layers] == [layer.down for layer in base.layers]
    assert one.layers[0].query_key_value is not other.layers[0].query_key_value


def test_shared_weights_are_not_copied():
    weights = SharedWeights({"a": torch.zeros(2)})
    assert copy.deepcopy({"some": weights})["some"] is weights
