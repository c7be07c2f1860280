"""Channels that run far beyond the others: which are found, and that keeping them apart pays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from encoders import SENTENCE, encoder_of, net_of, outliers_of

from spacy_bertft.engines.int8_outliers import CHANNELS, find_outliers
from spacy_bertft.engines.onnx import OnnxEngine
from spacy_bertft.engines.onnx_graph import build

pytestmark = pytest.mark.touches_transformers


def test_outliers_are_the_channels_with_the_largest_values(tiny_bert):
    encoder = encoder_of(tiny_bert)
    with torch.no_grad():
        norm = encoder.model.encoder.layer[0].attention.output.LayerNorm
        norm.bias[[3, 11]] = torch.tensor([50.0, -40.0])
        encoder.model.encoder.layer[1].intermediate.dense.bias[[5, 60]] = 90.0
    found = outliers_of(encoder)
    assert {3, 11} <= set(found[0].up.tolist())
    assert {5, 60} <= set(found[1].down.tolist())
    assert [len(channels) for layer in found for channels in (layer.up, layer.down)] == [CHANNELS] * 4


def test_each_batch_counts_and_their_order_does_not(tiny_bert):
    encoder = encoder_of(tiny_bert)
    net, batches = net_of(encoder), encoder.batches(["Anna", "12,345.67 €!", SENTENCE], budget=1)
    assert len(batches) == 3
    found, backwards = find_outliers(net, batches), find_outliers(net, batches[::-1])
    alone = [find_outliers(net, [batch]) for batch in batches]
    for number, layer in enumerate(found):
        for name in ("up", "down"):
            channels = getattr(layer, name)
            assert np.array_equal(channels, getattr(backwards[number], name))
            # The largest of all batches is the largest of one of them.
            assert set(channels.tolist()) <= {int(c) for one in alone for c in getattr(one[number], name)}


def test_without_texts_there_are_no_outliers_and_the_graph_works(tiny_bert):
    encoder = encoder_of(tiny_bert)
    outliers = outliers_of(encoder, texts=())
    assert all(len(layer.up) == len(layer.down) == 0 for layer in outliers)
    engine = OnnxEngine(build(net_of(encoder), outliers), padding=0)
    (batch,) = encoder.batches([SENTENCE], budget=100)
    with torch.no_grad():
        assert (engine(batch) - encoder.engine()(batch)).abs().mean() < 0.03


def test_keeping_outliers_apart_pays(tiny_bert):
    encoder = encoder_of(tiny_bert)
    with torch.no_grad():
        for layer in encoder.model.encoder.layer:
            layer.attention.output.LayerNorm.bias[3] = 30.0
            layer.intermediate.dense.bias[5] = 25.0
        (batch,) = encoder.batches([SENTENCE], budget=100)
        expected = encoder.engine()(batch)
        net = net_of(encoder)
        apart, together = (
            (OnnxEngine(build(net, outliers), padding=0)(batch) - expected).abs().mean()
            for outliers in (outliers_of(encoder), outliers_of(encoder, texts=()))
        )
    assert apart < together / 2
