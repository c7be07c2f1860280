"""Attention in the way of each family: the numbers of transformers for windows of all lengths."""

from __future__ import annotations

import pytest
import torch
from encoders import error_of
from random_nets import SETTINGS, net_of_model, random_model, rows_of_model, windows_of

from spacy_bertft.engines.fused import FusedEngine

pytestmark = pytest.mark.touches_transformers

# Windows that are and aren't multiples of 16, with and without rows beside them; blocks of local attention with one,
# several or no inner ones.
LENGTHS = [[1], [2, 2], [16], [17], [33, 33, 33], [64, 48, 16], [40, 9, 9, 9, 3, 1], [5] * 20, [300, 290, 290, 129, 40],
           [512, 512, 1], [257], [400]]  # fmt: skip


@pytest.mark.parametrize(("family", "settings"), SETTINGS, ids=str)
def test_windows_of_all_lengths_equal_the_model(family, settings):
    model = random_model(family, **settings)
    engine = FusedEngine(net_of_model(model))
    for lengths in LENGTHS:
        packed = windows_of(lengths)
        torch.testing.assert_close(engine(packed), rows_of_model(model, packed), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "settings"), SETTINGS, ids=str)
def test_bfloat16_stays_close(family, settings):
    net = net_of_model(random_model(family, **settings))
    packed = windows_of([300, 129, 40, 9, 9, 1])
    assert 0 < error_of(FusedEngine(net, half=True)(packed), FusedEngine(net)(packed)) < 0.05


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("mpnet", lambda net: net.distance_biases.zero_()),
        ("deberta-v2", lambda net: net.distances.zero_()),
        ("deberta-v2", lambda net: net.layers[0].position_key.weight.zero_()),
        ("deberta-v2", lambda net: net.layers[0].position_query.weight.zero_()),
        ("modernbert", lambda net: net.layers[0].gate.weight.fill_(0.1)),
    ],
)
def test_what_sets_a_family_apart_matters_here(family, change):
    """Otherwise the comparisons above would not show that it is forgotten."""
    net = net_of_model(random_model(family))
    packed = windows_of([40, 33])
    before = FusedEngine(net)(packed)
    with torch.no_grad():
        change(net)
    assert error_of(FusedEngine(net)(packed), before) > 0.01


@pytest.mark.parametrize("settings", [{"local_attention": 40}, {"global_rope_theta": 100.0}, {"local_rope_theta": 3.0}])
def test_reach_and_angles_of_modernbert_matter_here(settings):
    packed = windows_of([40, 33])
    before, after = (FusedEngine(net_of_model(random_model("modernbert", **one)))(packed) for one in ({}, settings))
    assert error_of(after, before) > 0.01
