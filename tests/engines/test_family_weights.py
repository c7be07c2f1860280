"""Nets read from configs and weights: each family's, and those that don't fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from encoders import KNOWN, encoder_of
from tiny import FAMILIES as TINY
from tiny import LAYERS, LIMIT, WIDTH

from spacy_bertft import compat
from spacy_bertft.engines.family_weights import FAMILIES, is_size, misfit, read_net, read_shape, size_settings

pytestmark = pytest.mark.touches_transformers

SEGMENTS = "embeddings.token_type_embeddings.weight"


@pytest.fixture
def parts(tiny_encoder):
    """`parts(family)`: a config, the shape read from it, and weights."""

    def of(family):
        encoder = encoder_of(tiny_encoder(family))
        config = encoder.checkpoint.config
        return config, read_shape(config), dict(encoder.model.state_dict())

    return of


def test_all_families_are_tested_here_and_packed_in_other_tests():
    assert {"bert" if family.startswith("bert") else family for family in KNOWN} == set(FAMILIES)
    assert set(FAMILIES) <= compat.PACKED_FAMILIES


# --- the config


@pytest.mark.parametrize("family", KNOWN)
def test_a_config_gives_the_shape(parts, family):
    config, shape, _ = parts(family)
    assert shape.family == config["model_type"]
    assert (shape.width, shape.inner, shape.layers) == (WIDTH, 2 * WIDTH, LAYERS)
    assert shape.heads == (2 if family == "distilbert" else 4)
    assert shape.activation == "gelu"
    assert shape.first_position == (2 if "roberta" in family or family == "camembert" else 0)
    assert shape.eps == config.get("layer_norm_eps", 1e-12)


@pytest.mark.parametrize("family", sorted(set(TINY) - set(KNOWN)))
def test_other_families_have_no_shape(tiny_encoder, family):
    assert read_shape(encoder_of(tiny_encoder(family)).checkpoint.config) is None


@pytest.mark.parametrize(
    ("name", "activation"),
    [("gelu", "gelu"), ("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh"), ("relu", "relu")],
)
def test_activations_have_several_names(parts, name, activation):
    config, _, _ = parts("bert-uncased")
    assert read_shape(config | {"hidden_act": name}).activation == activation


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert-uncased", {"model_type": None}),
        ("bert-uncased", {"model_type": ["bert"]}),
        ("bert-uncased", {"model_type": "nezha"}),
        ("bert-uncased", {"position_embedding_type": "relative_key"}),
        ("bert-uncased", {"hidden_act": "silu"}),
        ("bert-uncased", {"hidden_act": None}),
        ("bert-uncased", {"is_decoder": True}),
        ("bert-uncased", {"num_attention_heads": None}),
        ("bert-uncased", {"hidden_size": "32"}),
        ("distilbert", {"sinusoidal_pos_embds": True}),
        ("distilbert", {"activation": "tanh"}),
        ("roberta", {"pad_token_id": None}),
    ],
)
def test_an_unusual_config_has_no_shape(parts, family, changes):
    config, shape, _ = parts(family)
    assert shape is not None
    assert read_shape(config | changes) is None


def test_only_families_that_count_from_it_need_a_padding_subword(parts):
    config, _, _ = parts("bert-uncased")
    assert read_shape(config | {"pad_token_id": None}).first_position == 0
    config, _, _ = parts("roberta")
    assert read_shape(config | {"pad_token_id": 7}).first_position == 8


# --- the weights


@pytest.mark.parametrize("family", KNOWN)
def test_a_net_holds_each_weight_of_its_family(parts, family):
    _, shape, weights = parts(family)
    net = read_net(shape, weights)
    held = [net.words, net.norm.weight, net.norm.bias]
    held += [] if net.project is None else [net.project.weight, net.project.bias]
    for layer in net.layers:
        linears = (layer.query, layer.key, layer.value, layer.out, layer.up, layer.down)
        held += [tensor for one in (*linears, layer.out_norm, layer.down_norm) for tensor in (one.weight, one.bias)]
    addresses = {tensor.data_ptr() for tensor in held}
    left = {name for name, tensor in weights.items() if tensor.data_ptr() not in addresses}
    assert {name for name in left if "pooler" not in name} <= {SEGMENTS, "embeddings.position_embeddings.weight"}
    assert len(held) == len(weights) - len(left)
    assert (net.project is not None) == (family == "electra")


@pytest.mark.parametrize("family", KNOWN)
def test_positions_have_the_segments_added(parts, family):
    _, shape, weights = parts(family)
    net, positions = read_net(shape, weights), weights["embeddings.position_embeddings.weight"]
    if SEGMENTS in weights:
        assert len(net.positions) == len(weights[SEGMENTS])
        for row, segment in zip(net.positions, weights[SEGMENTS], strict=True):
            torch.testing.assert_close(row, positions + segment)
    else:
        torch.testing.assert_close(net.positions, positions[None])


def test_of_more_segments_than_two_the_first_two_are_read(parts):
    _, shape, weights = parts("bert-uncased")
    more = torch.cat([weights[SEGMENTS], torch.ones(3, WIDTH)])
    net = read_net(replace(shape, segments=len(more)), weights | {SEGMENTS: more})
    assert net.positions.shape == (2, LIMIT, WIDTH)
    assert torch.equal(net.positions, read_net(shape, weights).positions)


def test_three_products_are_one(parts):
    _, shape, weights = parts("bert-uncased")
    layer = read_net(shape, weights).layers[0]
    rows = torch.randn(5, WIDTH)
    one = layer.query_key_value()
    together = torch.nn.functional.linear(rows, one.weight, one.bias)
    alone = [torch.nn.functional.linear(rows, p.weight, p.bias) for p in (layer.query, layer.key, layer.value)]
    torch.testing.assert_close(together, torch.cat(alone, dim=1))


@pytest.mark.parametrize("family", KNOWN)
def test_a_net_needs_all_its_weights(parts, family):
    _, shape, weights = parts(family)
    needed = [name for name in weights if "pooler" not in name and name != SEGMENTS]
    assert len(needed) > 16 * LAYERS
    for name in needed:
        rest = {other: tensor for other, tensor in weights.items() if other != name}
        assert read_net(shape, rest) is None, name


@pytest.mark.parametrize("family", KNOWN)
def test_matrices_of_other_sizes_are_refused(parts, family):
    _, shape, weights = parts(family)
    for name, tensor in weights.items():
        if "pooler" not in name and name != "embeddings.position_ids":
            longer = torch.cat([tensor, tensor[:1]])
            assert read_net(shape, weights | {name: longer}) is None, f"{name}, one row or number more"
            assert read_net(shape, weights | {name: tensor[:-1]}) is None, f"{name}, one row or number less"
            assert name in misfit(shape, weights | {name: longer})
        if tensor.dim() == 2 and "pooler" not in name:
            wider = torch.cat([tensor, tensor[:, :1]], dim=1)
            assert read_net(shape, weights | {name: wider}) is None, f"{name}, one column more"


@pytest.mark.parametrize("family", KNOWN)
def test_weights_that_fit_or_are_missing_are_no_misfit(parts, family):
    _, shape, weights = parts(family)
    assert misfit(shape, weights) is None
    assert misfit(shape, dict(list(weights.items())[:-5])) is None


@pytest.mark.parametrize("family", KNOWN)
def test_the_sizes_of_a_family_are_whole_numbers_in_its_config(parts, family):
    config, shape, _ = parts(family)
    names = size_settings(shape.family)
    assert len(names) == 6
    for name in names:
        assert is_size(config[name])
        for found in (0, -1, None, "8", 8.0, True, [8]):
            assert not is_size(found)
            assert read_shape(config | {name: found}) is None


def test_a_million_layers_are_refused_at_once(parts):
    _, shape, weights = parts("bert-uncased")
    assert read_net(replace(shape, layers=10**9), weights) is None
    assert misfit(replace(shape, layers=10**9), weights) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 2 * WIDTH}, {"inner": WIDTH}, {"layers": LAYERS + 1}, {"heads": 5}, {"words": 10}, {"positions": 10},
        {"segments": 3},
    ],
    ids=str,
)  # fmt: skip
def test_a_shape_that_the_weights_do_not_have_is_refused(parts, changes):
    _, shape, weights = parts("bert-uncased")
    assert read_net(shape, weights) is not None
    assert read_net(replace(shape, **changes), weights) is None
