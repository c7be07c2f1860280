"""transformers' model as an engine, packed and padded, against the same model on each window alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from encoders import CAN_PACK, assert_near, encoder_of
from tiny import FAMILIES, WIDTH

from spacy_bertft.engines.transformers import TransformersEngine
from spacy_bertft.types import Packed

pytestmark = pytest.mark.touches_transformers

LENGTHS = [9, 5, 5, 2, 1]


def packed_of(lengths, *, paired=False):
    """Windows of random subwords; if paired, the second half of each is a second segment."""
    positions = np.concatenate([np.arange(length) for length in lengths])
    sizes = np.repeat(lengths, lengths)
    segments = (positions >= (sizes + 1) // 2).astype(np.int64) if paired else None
    ids = np.random.default_rng(0).integers(5, 100, len(positions))
    return Packed(ids, positions, np.array(lengths, dtype=np.int64), segments)


def engine_of(encoder, *, padded, half=False):
    return TransformersEngine(encoder.model, padded=padded, half=half, first_position=encoder.first_position)


def alone(model, packed, *, segments):
    """Hidden rows by the model as transformers runs it, window by window. segments: whether it is told of them."""
    rows, model = [], model.eval()
    for start, length in zip(np.cumsum(packed.lengths) - packed.lengths, packed.lengths, strict=True):
        window = slice(start, start + length)
        told = {"token_type_ids": torch.from_numpy(packed.segments[window])[None]} if segments else {}
        rows.append(model(torch.from_numpy(packed.ids[window])[None], **told).last_hidden_state[0])
    return torch.cat(rows)


@pytest.fixture(params=[True, False], ids=["padded", "packed"])
def padded(request):
    return request.param


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_rows_are_those_of_each_window_alone(tiny_encoder, family, padded, paired):
    if not padded and family not in CAN_PACK:
        pytest.skip(f"{family} is not packed under this transformers")
    plain = encoder_of(tiny_encoder(family), batching="padded").model
    tells = getattr(plain.config, "type_vocab_size", 0) > 1
    packed = packed_of(LENGTHS, paired=paired)
    encoder = encoder_of(tiny_encoder(family), batching="padded" if padded else "packed")
    found = engine_of(encoder, padded=padded)(packed)
    assert found.shape == (sum(LENGTHS), WIDTH)
    assert_near(found, alone(plain, packed, segments=paired and tells))


@torch.no_grad()
def test_segments_make_a_difference_where_they_are_told_apart(tiny_bert, padded):
    """Otherwise the comparison above would not show forgotten segments."""
    encoder = encoder_of(tiny_bert, batching="padded" if padded or not CAN_PACK else "packed")
    run = engine_of(encoder, padded=padded or not CAN_PACK)
    one, two = run(packed_of(LENGTHS)), run(packed_of(LENGTHS, paired=True))
    assert (one - two).abs().max() > 0.1


@torch.no_grad()
def test_half_precision_gives_float32_that_is_close(tiny_bert):
    encoder = encoder_of(tiny_bert, batching="padded")
    half, full = (engine_of(encoder, padded=True, half=half)(packed_of(LENGTHS)) for half in (True, False))
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.1
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_gradients_reach_the_weights(tiny_bert, padded):
    encoder = encoder_of(tiny_bert, batching="padded" if padded or not CAN_PACK else "packed")
    engine_of(encoder, padded=padded or not CAN_PACK)(packed_of(LENGTHS)).square().sum().backward()
    layer = encoder.model.encoder.layer[0].attention.self
    assert all(part.weight.grad.abs().max() > 0 for part in (layer.query, layer.key, layer.value))


def test_a_gpu_takes_more_at_once_than_a_cpu(tiny_bert):
    encoder = encoder_of(tiny_bert)
    assert engine_of(encoder, padded=False).budget == TransformersEngine.CPU_BUDGET < TransformersEngine.GPU_BUDGET
    encoder.model.to("meta")  # a device without a machine
    assert engine_of(encoder, padded=False).budget == TransformersEngine.GPU_BUDGET
