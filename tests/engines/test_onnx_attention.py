"""Attention in the graph: the numbers of transformers for each family and its settings."""

from __future__ import annotations

import pytest
import torch
from random_nets import SETTINGS, net_of_model, random_model, rows_of_model, windows_of

from spacy_bertft.engines.onnx import OnnxEngine
from spacy_bertft.engines.onnx_graph import build

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]


@pytest.mark.parametrize(("family", "settings"), SETTINGS, ids=str)
def test_windows_of_all_lengths_equal_the_model(family, settings):
    model = random_model(family, **settings)
    engine = OnnxEngine(build(net_of_model(model)), padding=1)
    for lengths in ([1], [2, 2], [40, 9, 9, 9, 3, 1], [300, 290, 129, 40]):
        packed = windows_of(lengths)
        torch.testing.assert_close(torch.from_numpy(engine(packed)), rows_of_model(model, packed), rtol=1e-4, atol=1e-4)


def test_layers_that_share_their_weights_have_them_once():
    sizes = [len(build(net_of_model(random_model("albert", num_hidden_layers=layers)))) for layers in (1, 12)]
    assert sizes[1] < 1.5 * sizes[0]


def test_rotary_positions_bound_no_batch():
    """ONNX Runtime's operator refuses sequences longer than its table of angles: each row is one of its own."""
    model = random_model("modernbert", max_position_embeddings=40)
    packed = windows_of([40] * 3)
    found = OnnxEngine(build(net_of_model(model)), padding=1)(packed)
    torch.testing.assert_close(torch.from_numpy(found), rows_of_model(model, packed), rtol=1e-4, atol=1e-4)
