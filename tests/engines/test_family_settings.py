"""Settings that only some families have, in the forms that versions of transformers give them."""

from __future__ import annotations

import pytest

from spacy_bertft.engines.family_settings import albert, deberta, modernbert, mpnet
from spacy_bertft.engines.net import Biases, Disentangled, DistanceBias, Rotary, Sharing

MODERNBERT = {"num_hidden_layers": 4, "local_attention": 128}
OLD = {"global_attn_every_n_layers": 2, "global_rope_theta": 9.0, "local_rope_theta": 3.0}
NEW = {
    "layer_types": ["full_attention", "sliding_attention"] * 2,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 9.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 3.0},
    },
}
DEBERTA = {
    "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 512, "relative_attention": True,
    "pos_att_type": "p2c|c2p", "position_buckets": 256, "max_relative_positions": -1, "norm_rel_ebd": "layer_norm",
    "share_att_key": True, "position_biased_input": False,
}  # fmt: skip


@pytest.mark.parametrize("written", [OLD, NEW])
def test_modernbert_as_both_versions_of_transformers_write_it(written):
    found = modernbert(MODERNBERT | written)
    assert found["rotary"] == (Rotary(9.0, None), Rotary(3.0, 64)) * 2
    assert found["learned_positions"] is False
    assert found["biases"] == Biases(norms=False, attention=False, feed_forward=False)


def test_modernbert_by_default():
    found = modernbert({"num_hidden_layers": 4})
    assert found["rotary"] == (Rotary(160_000.0, None), *[Rotary(10_000.0, 64)] * 2, Rotary(160_000.0, None))


def test_modernbert_s_local_layers_may_have_the_global_angles():
    found = modernbert(MODERNBERT | OLD | {"local_rope_theta": None})
    assert {rotary.base for rotary in found["rotary"]} == {9.0}


def test_modernbert_with_biases():
    found = modernbert(MODERNBERT | {"norm_bias": True, "mlp_bias": True})
    assert found["biases"] == Biases(norms=True, attention=False, feed_forward=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "rope_theta": 9.0, "factor": 2.0}}},
        {"layer_types": ["full_attention"] * 3},
        {"layer_types": ["chunked_attention"] * 4},
        {"local_attention": "128"},
        {"global_attn_every_n_layers": 0},
        {"global_rope_theta": "much"},
    ],
    ids=str,
)
def test_modernbert_unlike_any_that_we_know(changes):
    assert modernbert(MODERNBERT | changes) is None


def test_deberta_as_it_is_published():
    found = deberta(DEBERTA)
    assert found == {
        "distances": Disentangled(256, 256, 512, key=True, query=True, shared=True, norm=True),
        "learned_positions": False,
    }
    assert found["distances"].parts == 3
    assert deberta(DEBERTA | {"pos_att_type": ["c2p", "p2c"]}) == found


def test_deberta_without_buckets_or_with_one_product():
    distances = deberta(DEBERTA | {"position_buckets": -1, "max_relative_positions": 40})["distances"]
    assert (distances.span, distances.buckets, distances.furthest) == (40, 0, 40)
    distances = deberta(DEBERTA | {"pos_att_type": "c2p"})["distances"]
    assert (distances.key, distances.query, distances.parts) == (True, False, 2)


@pytest.mark.parametrize(
    "changes",
    [{"relative_attention": False}, {"conv_kernel_size": 3}, {"embedding_size": 16}, {"attention_head_size": 4},
     {"pos_att_type": ["p2p"]}, {"position_buckets": "256"}, {"max_relative_positions": None}],
    ids=str,
)  # fmt: skip
def test_deberta_unlike_any_that_we_know(changes):
    assert deberta(DEBERTA | changes) is None


def test_albert_and_mpnet():
    assert albert({}) == {"sharing": Sharing(1, 1)}
    assert albert({"num_hidden_groups": 3, "inner_group_num": 2}) == {"sharing": Sharing(3, 2)}
    assert albert({"num_hidden_groups": 0}) is None
    assert mpnet({}) == {"distances": DistanceBias(32)}
    assert mpnet({"relative_attention_num_buckets": 40}) == {"distances": DistanceBias(40)}
    assert mpnet({"relative_attention_num_buckets": 16}) is None
