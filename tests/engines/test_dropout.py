"""Dropout on a CPU: as many numbers as asked for, the same for the same seed, and their gradients."""

from __future__ import annotations

import pytest
import torch
from encoders import CAN_PACK, MIXED, encoder_of, texts_of
from torch import nn

from spacy_bertft import compat
from spacy_bertft.encoder.loading import load_saved
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.engines import attention, choose
from spacy_bertft.engines.dropout import Dropout, drop, use_dropout

pytestmark = pytest.mark.touches_transformers


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.5, 0.9, 0.99999, 1 - 1e-9])
def test_as_many_numbers_are_dropped_as_asked_for(probability):
    torch.manual_seed(0)
    values = torch.rand(1000, 1003) + 1
    found = drop(values, probability)
    zeros = (found == 0).float()
    assert zeros.mean() == pytest.approx(
        probability, abs=5 * (probability * (1 - probability) / values.numel()) ** 0.5 + 2**-15
    )
    assert torch.equal(found[found != 0], values[found != 0])
    # Neighbours share a word of the generator, but nothing else: no correlation between them.
    for distance in (1, 2, 3, 4, 1003) if probability < 0.99 else ():
        pairs = torch.stack([zeros.flatten()[:-distance], zeros.flatten()[distance:]])
        assert abs(torch.corrcoef(pairs)[0, 1]) < 0.005


def test_torchs_seed_decides():
    values = torch.ones(100)
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append((drop(values, 0.5), drop(values, 0.5)))
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][0], runs[0][1])
    assert not torch.equal(runs[0][0], runs[2][0])


@pytest.mark.parametrize("shape", [(), (0,), (1,), (5, 7), (2, 3, 4, 5)])
def test_gradients_pass_where_numbers_do(shape):
    values = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    found = Dropout(0.25)(values)
    found.backward(torch.full(shape, 3.0, dtype=torch.float64))
    torch.testing.assert_close(values.grad, torch.where(found == 0, 0.0, 3 / 0.75).to(torch.float64))
    torch.testing.assert_close(found, torch.where(found == 0, 0.0, values / 0.75))


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 1.0), (1.0, 0.0)])
def test_none_and_all(probability, expected):
    assert torch.equal(Dropout(probability)(torch.ones(50)), torch.full((50,), expected))
    assert torch.equal(Dropout(0.5).eval()(torch.ones(50)), torch.ones(50))


def test_it_takes_the_place_of_torchs_own_and_of_nothing_else():
    class Other(nn.Dropout):
        pass

    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3), nn.Sequential(nn.Dropout(0.2).eval(), Other(0.1)))
    use_dropout(net)
    found = [net[1], *net[2]]
    assert [type(module) for module in found] == [Dropout, Dropout, Other]
    assert [module.p for module in found] == [0.3, 0.2, 0.1]
    assert [module.training for module in found] == [True, False, True]


@pytest.mark.parametrize("training", [True, False])
def test_a_model_that_is_built_late_knows_whether_it_is_trained(tiny_bert, tmp_path, training):
    encoder_of(tiny_bert).save(tmp_path)
    late = load_saved(tmp_path, EncoderSettings(device="cpu", batching="padded")).train(training)
    assert late.loaded is None
    assert {module.training for module in late.model.modules()} == {training}
    texts = texts_of(MIXED)
    assert torch.equal(late(texts).hidden, late(texts).hidden) is not training


def test_no_dropout_of_torchs_own_is_left(tiny_bert, monkeypatch):
    monkeypatch.setattr(choose, "_make_fused_training", lambda encoder, half: None)
    shapes = []

    def seen(values, probability):
        shapes.append(values.shape)
        return drop(values, probability)

    encoder = encoder_of(tiny_bert).train()
    assert nn.Dropout not in {type(module) for module in encoder.model.modules()}
    monkeypatch.setattr(attention, "drop", seen)
    encoder(texts_of(MIXED))
    assert bool(shapes) is encoder.packed
    assert all(shape[2] == shape[3] for shape in shapes)  # (n_windows, H, length, length)


@pytest.mark.skipif(not CAN_PACK, reason="nothing is packed under transformers 4")
def test_activations_computed_anew_drop_the_same_numbers(tiny_bert, monkeypatch):
    monkeypatch.setattr(choose, "_make_fused_training", lambda encoder, half: None)
    gradients = []
    for anew in (False, True):
        encoder = encoder_of(tiny_bert).train()
        if anew:
            compat.checkpoint_activations(encoder.model)
        torch.manual_seed(0)
        encoder(texts_of(MIXED)).hidden.square().sum().backward()
        gradients.append([parameter.grad for parameter in encoder.parameters() if parameter.grad is not None])
    assert all(map(torch.equal, *gradients))
    assert len(gradients[0]) > 20


@pytest.mark.parametrize("batching", ["auto", "padded"])
def test_an_encoder_in_training_drops(tiny_bert, batching):
    encoder = encoder_of(tiny_bert, batching=batching)
    texts = texts_of(MIXED)
    exact = encoder(texts).hidden
    encoder.train()
    torch.manual_seed(0)
    one, two = encoder(texts).hidden, encoder(texts).hidden
    torch.manual_seed(0)
    again = encoder(texts).hidden
    assert torch.equal(one, again)
    assert not torch.allclose(one, two)
    assert not torch.allclose(one, exact)
