"""The BERT family's own training pass against transformers' model: hidden rows, and the gradients of all weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from encoders import CAN_PACK, KNOWN, MIXED, TRAINED, assert_near, encoder_of, texts_of
from pipelines import examples, initialized
from tiny import LAYERS, WIDTH

from spacy_bertft.engines import fused_training
from spacy_bertft.engines.choose import _make_fused_training
from spacy_bertft.engines.fused_training import FusedTrainingEngine
from spacy_bertft.engines.transformers import TransformersEngine
from spacy_bertft.types import Packed

pytestmark = pytest.mark.touches_transformers

LENGTHS = [40, 39, 21, 5, 5, 2, 1]  # several groups of windows, some of them padded


def packed_of(lengths=LENGTHS, *, paired=False):
    positions = np.concatenate([np.arange(length) for length in lengths])
    sizes = np.repeat(lengths, lengths)
    segments = (positions >= (sizes + 1) // 2).astype(np.int64) if paired else None
    ids = np.random.default_rng(0).integers(5, 100, len(positions))
    return Packed(ids, positions, np.array(lengths, dtype=np.int64), segments)


def own_of(encoder, *, half=False):
    return _make_fused_training(encoder, half=half)


def theirs_of(encoder, *, half=False):
    """transformers' model, packed where it can be, so that dropout draws the same numbers in the same order."""
    return TransformersEngine(
        encoder.model, padded=not encoder.packed, half=half, first_position=encoder.first_position
    )


def run(engine, encoder, packed, weights):
    """Hidden rows, and the gradients of their weighted sum by name."""
    encoder.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    hidden = engine(packed)
    (hidden * weights).sum().backward()
    return hidden.detach(), {
        name: one.grad for name, one in encoder.named_parameters() if one.grad is not None and "key.bias" not in name
    }  # softmax ignores the biases of keys: their gradients are rounding


def random_weights(n_rows):
    return torch.randn(n_rows, WIDTH, generator=torch.Generator().manual_seed(0))


def assert_same(found, expected, tolerance):
    """By the norm of each gradient, since single numbers may be close to 0."""
    assert found.keys() == expected.keys()
    largest = max(float(one.norm()) for one in expected.values())
    for name, one in expected.items():
        distance = float((found[name] - one).norm())
        assert distance <= tolerance * (float(one.norm()) + 1e-3 * largest), name


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("family", TRAINED)
def test_rows_and_gradients_are_those_of_transformers(tiny_encoder, family, paired):
    encoder = encoder_of(tiny_encoder(family))
    packed = packed_of(paired=paired)
    weights = random_weights(len(packed.ids))
    expected, of_theirs = run(theirs_of(encoder), encoder, packed, weights)
    found, of_ours = run(own_of(encoder), encoder, packed, weights)
    assert found.shape == (sum(LENGTHS), WIDTH)
    assert_near(found, expected)
    assert_same(of_ours, of_theirs, 1e-4)
    assert len(of_ours) > 20


@pytest.mark.parametrize("family", [family for family in TRAINED if family in CAN_PACK])
def test_dropout_is_where_transformers_has_it(tiny_encoder, family):
    """Both draw from the same generator: other places or probabilities would give other numbers."""
    encoder = encoder_of(tiny_encoder(family)).train()
    packed = packed_of()
    weights = random_weights(len(packed.ids))
    without, _ = run(own_of(encoder.eval()), encoder, packed, weights)
    encoder.train()
    expected, of_theirs = run(theirs_of(encoder), encoder, packed, weights)
    found, of_ours = run(own_of(encoder), encoder, packed, weights)
    assert not torch.allclose(found, without, atol=1e-2)
    assert_near(found, expected)
    assert_same(of_ours, of_theirs, 1e-4)


def test_in_bfloat16_rows_and_gradients_are_close_and_float32(tiny_bert):
    encoder = encoder_of(tiny_bert)
    packed = packed_of()
    weights = random_weights(len(packed.ids))
    assert len(packed.ids) % fused_training._ROW_MULTIPLE  # there are idle rows
    expected, exact = run(own_of(encoder), encoder, packed, weights)
    found, of_half = run(own_of(encoder, half=True), encoder, packed, weights)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.1
    assert {one.dtype for one in of_half.values()} == {torch.float32}
    assert_same(of_half, exact, 0.05)


def test_rows_that_no_head_reads_are_left_out_of_the_highest_layer(tiny_bert, monkeypatch):
    encoder = encoder_of(tiny_bert).train()
    packed = packed_of()
    weights = random_weights(len(packed.ids)) * torch.from_numpy(packed.positions == 0)[:, None]
    _, expected = run(theirs_of(encoder), encoder, packed, weights)
    sizes, plain = [], fused_training._backward

    def seen(gradient, *args):
        sizes.append(len(gradient))
        return plain(gradient, *args)

    monkeypatch.setattr(fused_training, "_backward", seen)
    _, found = run(own_of(encoder), encoder, packed, weights)
    assert sizes[0] == len(LENGTHS)
    assert set(sizes[1:]) == {sum(LENGTHS)}
    if encoder.packed:
        assert_same(found, expected, 1e-4)


def test_frozen_weights_get_no_gradient(tiny_bert):
    encoder = encoder_of(tiny_bert)
    layers = encoder.model.encoder.layer
    for part in (encoder.model.embeddings, *layers[:-1], layers[-1].output.dense, layers[-1].attention.self.key):
        part.requires_grad_(False)
    packed = packed_of()
    weights = random_weights(len(packed.ids))
    _, expected = run(theirs_of(encoder), encoder, packed, weights)
    _, found = run(own_of(encoder), encoder, packed, weights)
    assert_same(found, expected, 1e-4)
    assert len(found) == 12  # query, value, out, up: weight and bias each; two norms


def test_gradients_of_words_may_be_sparse(tiny_bert):
    encoder = encoder_of(tiny_bert)
    packed = packed_of()
    weights = random_weights(len(packed.ids))
    _, dense = run(own_of(encoder), encoder, packed, weights)
    encoder.model.get_input_embeddings().sparse = True
    _, sparse = run(own_of(encoder), encoder, packed, weights)
    name = "model.embeddings.word_embeddings.weight"
    assert sparse[name].is_sparse
    torch.testing.assert_close(sparse[name].to_dense(), dense[name])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, FusedTrainingEngine), ({"precision": "bfloat16"}, FusedTrainingEngine),
     ({"batching": "padded"}, TransformersEngine), ({"gradient_checkpointing": True}, TransformersEngine)],
)  # fmt: skip
def test_an_encoder_trains_with_it_unless_its_settings_say_otherwise(tiny_bert, settings, expected):
    assert type(encoder_of(tiny_bert, **settings).train().engine()) is expected


@pytest.mark.parametrize("family", sorted(set(KNOWN) - set(TRAINED)))
def test_families_that_it_does_not_know_are_left_to_transformers(tiny_encoder, family):
    encoder = encoder_of(tiny_encoder(family))
    assert type(encoder.train().engine()) is TransformersEngine
    encoder(texts_of(MIXED)).hidden.sum().backward()
    assert all(weight.grad is not None for name, weight in encoder.named_parameters() if "layer" in name)


def test_a_pipeline_learns_with_it_in_bfloat16(tiny_bert):
    nlp = initialized(tiny_bert, {"ner": "bertft_ner"}, precision="bfloat16")
    encoder = nlp.get_pipe("encoder").encoder
    assert type(encoder.train().engine()) is FusedTrainingEngine
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 1e-3
    losses = []
    for _ in range(40):
        losses.append(nlp.update(examples(nlp), sgd=optimizer, losses={})["ner"])
    assert losses[-1] < losses[0] / 2


def test_whole_texts_have_the_same_features(tiny_bert):
    encoder = encoder_of(tiny_bert)
    texts = texts_of(MIXED)
    with torch.no_grad():
        expected = encoder(texts).hidden
        encoder.train()
        encoder.model.eval()  # no dropout, but the engine for training
        assert type(encoder.engine()) is FusedTrainingEngine
        assert_near(encoder(texts).hidden, expected)


@pytest.mark.parametrize("family", KNOWN)
def test_every_engine_tells_the_same_rows_of_each_layer(tiny_encoder, family):
    encoder = encoder_of(tiny_encoder(family), precision="float32").eval()
    packed = packed_of()
    learning = own_of(encoder)
    with torch.no_grad():
        engines = [encoder.engine(), theirs_of(encoder), *([learning] if learning else [])]
        found = [engine.layer_rows(packed) for engine in engines]
        last = [engine(packed) for engine in engines]
    assert len(found[0]) == 1 + LAYERS
    for rows, whole in zip(found, last, strict=True):
        assert torch.equal(rows[-1], whole)
        for one, other in zip(rows, found[0], strict=True):
            assert_near(one, other)
