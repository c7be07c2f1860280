"""Nets read from configs and weights: each family's, and those that don't fit."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from encoders import KNOWN, encoder_of
from tiny import LAYERS, LIMIT, WIDTH, make_encoder

from spacy_bertft import compat
from spacy_bertft.engines.family_names import FAMILIES
from spacy_bertft.engines.family_settings import is_size
from spacy_bertft.engines.family_weights import (
    eps_setting,
    linear_names,
    misfit,
    read_net,
    read_shape,
    size_settings,
)
from spacy_bertft.engines.net import Disentangled

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
    assert set(FAMILIES) - compat.PACKED_FAMILIES == {"deberta-v2", "mpnet"}  # packed by our own engine alone


# --- the config


@pytest.mark.parametrize("family", KNOWN)
def test_a_config_gives_the_shape(parts, family):
    config, shape, _ = parts(family)
    assert shape.family == config["model_type"]
    assert (shape.width, shape.inner, shape.layers) == (WIDTH, 2 * WIDTH, LAYERS)
    assert shape.heads == (2 if family == "distilbert" else 4)
    assert shape.activation == ("gelu_tanh" if family == "albert" else "gelu")
    assert shape.first_position == (2 if "roberta" in family or family in ("camembert", "mpnet") else 0)
    assert shape.eps == config.get(eps_setting(config["model_type"]), 1e-12)
    assert shape.learned_positions is (family != "modernbert")


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
        ("modernbert", {"hidden_activation": "silu"}),
        ("deberta-v2", {"conv_kernel_size": 3}),
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
    addresses = {tensor.data_ptr() for tensor in tensors_of(net)}
    left = {name for name, tensor in weights.items() if tensor.data_ptr() not in addresses}
    assert {name for name in left if "pooler" not in name} <= {SEGMENTS, "embeddings.position_embeddings.weight"}
    assert (net.project is not None) == (family in ("electra", "albert"))
    assert len({id(layer) for layer in net.layers}) == (1 if family == "albert" else LAYERS)
    assert len(net.layers) == LAYERS


def tensors_of(part):
    if isinstance(part, torch.Tensor):
        yield part
    elif isinstance(part, tuple):
        for one in part:
            yield from tensors_of(one)
    elif is_dataclass(part):
        for field in fields(part):
            yield from tensors_of(getattr(part, field.name))


def test_albert_s_layers_share_weights_in_groups(tmp_path):
    encoder = encoder_of(make_encoder(tmp_path, "albert", num_hidden_layers=6, num_hidden_groups=3, inner_group_num=2))
    net = read_net(encoder.shape, encoder.model.state_dict())
    layers = [id(layer) for layer in net.layers]
    order = [layers.index(layer) for layer in layers]
    assert order == [0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9]
    second = encoder.model.encoder.albert_layer_groups[0].albert_layers[1]
    assert torch.equal(net.layers[1].up.weight, second.ffn.weight)


def test_biases_that_a_family_lacks_are_zeros(parts):
    _, shape, weights = parts("modernbert")
    net = read_net(shape, weights)
    assert not any("bias" in name for name in weights)
    for tensor in (net.layers[1].query.bias, net.layers[1].gate.bias, net.layers[1].up_norm.bias, net.final_norm.bias):
        assert not tensor.any()
    assert net.layers[0].attention_norm is None


def test_distances_are_normalised_where_the_config_says_so(parts):
    config, shape, weights = parts("deberta-v2")
    table, norm = weights["encoder.rel_embeddings.weight"], {"weight": torch.rand(WIDTH), "bias": torch.rand(WIDTH)}
    assert read_net(shape, weights).distances is table
    normed = read_shape(config | {"norm_rel_ebd": "layer_norm"})
    assert read_net(normed, weights) is None
    net = read_net(normed, weights | {f"encoder.LayerNorm.{name}": tensor for name, tensor in norm.items()})
    torch.testing.assert_close(
        net.distances, torch.nn.functional.layer_norm(table, (WIDTH,), norm["weight"], norm["bias"], shape.eps)
    )


@pytest.mark.parametrize("family", KNOWN)
def test_linear_names_are_those_of_maps_in_the_layers(parts, family):
    _, shape, weights = parts(family)
    names = {name for layer in linear_names(shape) for name in layer.values()}
    inside = {name.removesuffix(".weight") for name, tensor in weights.items() if "layer" in name and tensor.ndim == 2}
    assert names == {name for name in inside if "layers" in name or "layer." in name} - {"encoder.rel_embeddings"}


def test_shared_projections_of_distances_are_the_layer_s_own(parts):
    _, shape, weights = parts("deberta-v2")
    shared = replace(shape, distances=replace(shape.distances, shared=True))
    assert isinstance(shape.distances, Disentangled)
    layer = read_net(shared, weights).layers[0]
    assert layer.position_key.weight is layer.key.weight
    assert linear_names(shared)[1]["position_query"] == linear_names(shared)[1]["query"]


@pytest.mark.parametrize("family", KNOWN)
def test_positions_have_the_segments_added(parts, family):
    _, shape, weights = parts(family)
    if not shape.learned_positions:
        assert read_net(shape, weights).positions is None
        return
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
    assert len(needed) >= 12
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
