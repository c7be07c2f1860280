"""The part of a head that all tasks share: its module, and errors about labels."""

from __future__ import annotations

import pytest
import torch

from spacy_bertft.components.head_modules import Head, new_linear
from spacy_bertft.components.task import Calibrated, HeadOutput, not_learned
from spacy_bertft.errors import DataError
from spacy_bertft.tasks.modules import TokenHead
from spacy_bertft.tasks.ner import EntityTask
from spacy_bertft.tasks.textcat import CategoryTask


class Plain(Head):
    """One output a label."""

    def __init__(self, n_labels):
        super().__init__()
        self.output = new_linear(3, self.n_outputs(n_labels))

    def forward(self, inputs):
        return self.output(inputs)


class OneMoreAndTwoEach(Plain):
    """One output for none of the labels, and two for each of them."""

    def n_outputs(self, n_labels):
        return 1 + 2 * n_labels


def filled(head):
    with torch.no_grad():
        head.output.bias.uniform_(-1, 1)
    return head


@pytest.mark.parametrize("kind", [Plain, OneMoreAndTwoEach])
def test_outputs_that_were_known_stay_as_they_were(kind):
    head = filled(kind(2))
    inputs = torch.randn(5, 3)
    before, bias = head(inputs), head.output.bias.detach().clone()
    head.grow(4)
    after = head(inputs)
    assert after.shape == (5, head.n_outputs(4))
    assert torch.equal(head.output.bias[: len(bias)], bias)
    torch.testing.assert_close(after[:, : before.shape[1]], before)


@pytest.mark.parametrize(("known", "expected"), [([0.5, -1.5], -1.5), ([0.5, 1.5], 0.0)])
def test_new_outputs_start_at_random_with_the_lowest_bias(known, expected):
    torch.manual_seed(0)
    head = Plain(2)
    with torch.no_grad():
        head.output.bias.copy_(torch.tensor(known))
    head.grow(4)
    new = head.output.weight[2:]
    assert new.unique().numel() == new.numel()
    assert 0 < new.abs().max() < 0.2
    assert head.output.bias.tolist() == [*known, expected, expected]


def test_it_grows_again_and_again():
    head = filled(Plain(1))
    weight, bias = head.output.weight.detach().clone(), head.output.bias.detach().clone()
    for n_labels in (2, 3, 3, 6):
        head.grow(n_labels)
        assert len(head.output.weight) == len(head.output.bias) == n_labels
    assert torch.equal(head.output.weight[:1], weight)
    assert torch.equal(head.output.bias[:1], bias)


def test_what_has_grown_learns():
    head = Plain(1)
    head.grow(2)
    head(torch.ones(1, 3)).sum().backward()
    assert head.output.weight.grad.tolist() == [[1.0] * 3] * 2
    assert head.output.weight.is_leaf


def test_it_grows_where_it_is():
    head = Plain(1).to("meta")
    head.grow(2)
    assert {parameter.device.type for parameter in head.parameters()} == {"meta"}


@pytest.mark.parametrize(("scheme", "each"), [("bio", 2), ("biluo", 4), ("io", 1), ("iob1", 2)])
def test_the_tags_of_a_later_label_stand_behind_those_known(scheme, each):
    head = filled(TokenHead(3, 2, scheme, "first"))
    known = head.output.weight.detach().clone()
    head.grow(3)
    assert head.output.out_features == 1 + 3 * each
    assert torch.equal(head.output.weight[: 1 + 2 * each], known)


def test_a_new_layer_starts_as_berts_do():
    torch.manual_seed(0)
    layer = new_linear(200, 300)
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert layer.weight.mean().item() == pytest.approx(0.0, abs=5e-4)
    assert not layer.bias.any()


# --- errors, and what a task may have


def test_a_gold_label_that_is_not_known_is_named_with_those_that_are():
    error = not_learned("entity label", "PLANET", ["CITY", "PERSON"])
    assert isinstance(error, DataError)
    assert str(error).startswith("A gold entity label is 'PLANET', which the head doesn't know.")
    assert "Expected one of: CITY, PERSON. Add it with add_label()" in str(error)


def test_what_can_be_calibrated_has_evidence_to_fit():
    assert isinstance(CategoryTask(), Calibrated)
    assert not isinstance(EntityTask(), Calibrated)


def test_outputs_have_statistics_of_their_own():
    one, other = (HeadOutput(torch.zeros(1, 1), None, ("A",)) for _ in range(2))
    assert one.statistics == {}
    assert one.statistics is not other.statistics
