"""Losses against sums written out by hand, and how a head comes by another one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import pytest
import spacy
import torch
from catalogue import RegistryError
from confection import ConfigValidationError
from pipelines import blank, examples, module_of, without_dropout
from spacy.util import registry

from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.losses import CrossEntropy, MeanSquaredError, Targets

pytestmark = pytest.mark.touches_transformers

near = partial(pytest.approx, rel=1e-5)
LOGITS = [[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]]


def logits_of(rows=None):
    return torch.tensor(LOGITS if rows is None else rows, requires_grad=True)


def truths(*values):
    return torch.tensor(values, dtype=torch.bool)


def shares(row):
    """The softmax of a row."""
    total = sum(math.exp(one) for one in row)
    return [math.exp(one) / total for one in row]


def sigmoid(one):
    return 1 / (1 + math.exp(-one))


def binary(logit, goal):
    return -goal * math.log(sigmoid(logit)) - (1 - goal) * math.log(sigmoid(-logit))


# --- one of several classes


def test_a_class_costs_minus_the_log_of_its_share():
    found = CrossEntropy()(logits_of(), Targets("exclusive", torch.tensor([2, 1]), truths(True, True)))
    assert found.item() == near(-math.log(shares(LOGITS[0])[2]) - math.log(shares(LOGITS[1])[1]))


def test_rows_without_annotation_cost_nothing_whatever_they_hold():
    logits = logits_of()
    found = CrossEntropy()(logits, Targets("exclusive", torch.tensor([-1, 1]), truths(False, True)))
    assert found.item() == near(-math.log(shares(LOGITS[1])[1]))
    found.backward()
    assert logits.grad[0].tolist() == [0.0, 0.0, 0.0]
    assert logits.grad[1].abs().sum() > 0


def test_the_gradient_is_share_minus_target():
    logits = logits_of()
    CrossEntropy()(logits, Targets("exclusive", torch.tensor([2, 1]), truths(True, True))).backward()
    one, two = shares(LOGITS[0]), shares(LOGITS[1])
    expected = [[one[0], one[1], one[2] - 1], [two[0], two[1] - 1, two[2]]]
    torch.testing.assert_close(logits.grad, torch.tensor(expected))


def test_a_distribution_costs_the_mean_over_its_classes():
    goal = [[0.2, 0.8, 0.0], [0.5, 0.25, 0.25]]
    found = CrossEntropy()(logits_of(), Targets("exclusive", torch.tensor(goal), truths(True, True)))
    expected = sum(
        -share * math.log(of_class)
        for row, goals in zip(LOGITS, goal, strict=True)
        for of_class, share in zip(shares(row), goals, strict=True)
    )
    assert found.item() == near(expected)


def test_a_distribution_without_annotation_costs_nothing():
    logits = logits_of()
    goal = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = CrossEntropy()(logits, Targets("exclusive", goal, truths(False, True)))
    assert found.item() == near(-math.log(shares(LOGITS[1])[1]))
    found.backward()
    assert logits.grad[0].tolist() == [0.0, 0.0, 0.0]


def test_a_sure_distribution_and_its_class_cost_the_same():
    mask = truths(True, True)
    as_class = CrossEntropy()(logits_of(), Targets("exclusive", torch.tensor([0, 2]), mask))
    as_shares = CrossEntropy()(logits_of(), Targets("exclusive", torch.eye(3)[[0, 2]], mask))
    assert as_class.item() == near(as_shares.item())


# --- labels that hold or don't


def test_independent_labels_cost_each_its_own():
    goal = [[1.0, 0.0, 0.3], [0.0, 0.0, 1.0]]
    found = CrossEntropy()(logits_of(), Targets("independent", torch.tensor(goal), torch.ones(2, 3, dtype=torch.bool)))
    expected = sum(
        binary(logit, one)
        for row, goals in zip(LOGITS, goal, strict=True)
        for logit, one in zip(row, goals, strict=True)
    )
    assert found.item() == near(expected)


def test_independent_labels_without_annotation_are_left_out_one_by_one():
    logits = logits_of()
    mask = torch.tensor([[True, False, False], [False, True, False]])
    found = CrossEntropy()(logits, Targets("independent", torch.zeros(2, 3), mask))
    assert found.item() == near(binary(1.0, 0.0) + binary(3.0, 0.0))
    found.backward()
    assert torch.equal(logits.grad != 0, mask)


# --- numbers


def test_numbers_cost_the_square_of_the_distance():
    goal = torch.tensor([[0.0, 0.0, 0.5], [1.0, 1.0, 1.0]])
    found = MeanSquaredError()(logits_of(), Targets("number", goal, torch.ones(2, 3, dtype=torch.bool)))
    assert found.item() == near(1.0 + 4.0 + 0.0 + 1.0 + 4.0 + 4.0)


@pytest.mark.parametrize("mask", [[[True, False, True], [False, False, False]], [[False, True, False]] * 2])
def test_numbers_without_annotation_are_left_out_one_by_one(mask):
    logits = logits_of()
    found = MeanSquaredError()(logits, Targets("number", torch.zeros(2, 3), torch.tensor(mask)))
    kept = [
        logit for row, of_row in zip(LOGITS, mask, strict=True) for logit, keep in zip(row, of_row, strict=True) if keep
    ]
    assert found.item() == near(sum(logit**2 for logit in kept))
    found.backward()
    torch.testing.assert_close(logits.grad, 2 * logits.detach() * torch.tensor(mask))


def test_numbers_can_be_left_out_by_the_row():
    found = MeanSquaredError()(logits_of(), Targets("number", torch.zeros(2, 3), truths(False, True)))
    assert found.item() == near(9.0 + 1.0)


# --- choices among the logits


def test_rows_can_be_choices_among_all_logits():
    # Flattened: 1, -2, 0.5, 0, 3, -1. The first choice is among three of them, the second among two.
    candidates = torch.tensor([[4, 0, 2], [1, 5, -1]])
    targets = Targets("exclusive", torch.tensor([0, 1]), truths(True, True), candidates)
    assert targets.rows(logits_of()).tolist() == [[3.0, 1.0, 0.5], [-2.0, -1.0, -math.inf]]
    expected = -math.log(shares([3.0, 1.0, 0.5])[0]) - math.log(shares([-2.0, -1.0])[1])
    assert CrossEntropy()(logits_of(), targets).item() == near(expected)


def test_gradients_reach_the_logits_that_were_candidates():
    logits = logits_of()
    candidates = torch.tensor([[4, 0, -1], [1, 0, -1]])  # the first logit stands in both rows, three in none
    CrossEntropy()(logits, Targets("exclusive", torch.tensor([0, 1]), truths(True, True), candidates)).backward()
    one, two = shares([3.0, 1.0]), shares([-2.0, 1.0])
    expected = torch.tensor([[one[1] + two[1] - 1, two[0], 0.0], [0.0, one[0] - 1, 0.0]])
    torch.testing.assert_close(logits.grad, expected)


def test_a_row_without_candidates_that_is_left_out_does_no_harm():
    logits = logits_of()
    candidates = torch.tensor([[-1, -1], [4, 5]])
    found = CrossEntropy()(logits, Targets("exclusive", torch.tensor([0, 0]), truths(False, True), candidates))
    assert found.item() == near(-math.log(shares([3.0, -1.0])[0]))
    found.backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[0].tolist() == [0.0, 0.0, 0.0]


def test_a_distribution_over_candidates_says_nothing_of_places_without_one():
    candidates = torch.tensor([[4, 0, -1]])
    targets = Targets("exclusive", torch.tensor([[0.25, 0.75, 0.0]]), truths(True), candidates)
    one = shares([3.0, 1.0])
    expected = -0.25 * math.log(one[0]) - 0.75 * math.log(one[1])
    assert CrossEntropy()(logits_of(), targets).item() == near(expected)


def test_independent_labels_and_numbers_can_be_choices_too():
    candidates, mask = torch.tensor([[4, -1]]), torch.tensor([[True, False]])
    labels = Targets("independent", torch.zeros(1, 2), mask, candidates)
    numbers = Targets("number", torch.zeros(1, 2), mask, candidates)
    logits = logits_of()
    found = CrossEntropy()(logits, labels) + MeanSquaredError()(logits, numbers)
    assert found.item() == near(binary(3.0, 0.0) + 9.0)
    found.backward()
    torch.testing.assert_close(logits.grad[1, 1], torch.tensor(sigmoid(3.0) + 6.0))
    assert logits.grad.count_nonzero() == 1


# --- scale, nothing at all, what does not fit

OF_EACH_KIND = [
    (CrossEntropy(), Targets("exclusive", torch.tensor([2, 1]), truths(True, True))),
    (CrossEntropy(), Targets("exclusive", torch.eye(3)[:2], truths(True, True))),
    (CrossEntropy(), Targets("independent", torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool))),
    (MeanSquaredError(), Targets("number", torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool))),
]


@pytest.mark.parametrize(("loss", "targets"), OF_EACH_KIND)
def test_the_sum_is_scaled(loss, targets):
    scaled = Targets(targets.kind, targets.values, targets.mask, scale=0.125)
    assert loss(logits_of(), targets).item() > 0
    assert loss(logits_of(), scaled).item() == near(0.125 * loss(logits_of(), targets).item())


@pytest.mark.parametrize(("loss", "targets"), OF_EACH_KIND)
def test_without_any_annotation_loss_and_gradients_are_nought(loss, targets):
    logits = logits_of()
    found = loss(logits, Targets(targets.kind, targets.values, torch.zeros_like(targets.mask)))
    assert found.item() == 0.0
    found.backward()
    assert not logits.grad.any()


@pytest.mark.parametrize(("loss", "targets"), OF_EACH_KIND)
def test_rows_add_up(loss, targets):
    parts = [
        loss(
            logits_of([row]), Targets(targets.kind, targets.values[place : place + 1], targets.mask[place : place + 1])
        )
        for place, row in enumerate(LOGITS)
    ]
    assert loss(logits_of(), targets).item() == near(sum(part.item() for part in parts))


def test_categories_are_no_numbers():
    with pytest.raises(ConfigError, match=r"CrossEntropy, but the head is trained on numbers.*\.MeanSquaredError"):
        CrossEntropy()(logits_of(), OF_EACH_KIND[3][1])


@pytest.mark.parametrize("targets", [targets for _, targets in OF_EACH_KIND[:3]])
def test_numbers_are_no_categories(targets):
    with pytest.raises(ConfigError, match=r"MeanSquaredError, but the head is trained on categories.*bertft\.CrossEnt"):
        MeanSquaredError()(logits_of(), targets)


# --- the loss of a head


@dataclass(frozen=True)
class Times:
    """Cross-entropy, so many times over."""

    times: float = 1.0

    def __call__(self, logits, targets):
        return CrossEntropy()(logits, targets) * self.times


@pytest.fixture(scope="module", autouse=True)
def registered():
    registry.losses("test_losses.Times.v1", func=Times)


def of_head(folder, loss):
    nlp = blank(folder, {})
    nlp.add_pipe("bertft_ner", name="ner", config={"loss": loss})
    torch.manual_seed(0)
    nlp.initialize(lambda: examples(nlp))
    return without_dropout(nlp)


def test_a_registered_loss_is_what_a_head_learns(tiny_bert):
    plain = of_head(tiny_bert, {"@losses": "spacy-bertft.CrossEntropy.v1"})
    tripled = of_head(tiny_bert, {"@losses": "test_losses.Times.v1", "times": 3.0})
    found = [nlp.update(examples(nlp), sgd=False)["ner"] for nlp in (plain, tripled)]
    assert found[1] == near(3 * found[0])
    gradients = [module_of(nlp, "ner").output.bias.grad for nlp in (plain, tripled)]
    torch.testing.assert_close(gradients[1], 3 * gradients[0])


def test_it_is_saved_with_the_pipeline(tiny_bert, tmp_path):
    of_head(tiny_bert, {"@losses": "test_losses.Times.v1", "times": 3.0}).to_disk(tmp_path)
    assert spacy.load(tmp_path).get_pipe("ner").loss == Times(3.0)


def test_its_defaults_are_filled_in(tiny_bert):
    nlp = of_head(tiny_bert, {"@losses": "test_losses.Times.v1"})
    assert nlp.get_pipe("ner").loss == Times(1.0)


def test_a_loss_that_does_not_fit_the_head_is_an_error_when_it_learns(tiny_bert):
    nlp = of_head(tiny_bert, {"@losses": "spacy-bertft.MeanSquaredError.v1"})
    with pytest.raises(ConfigError, match="MeanSquaredError, but the head is trained on categories"):
        nlp.update(examples(nlp), sgd=False)


def test_an_unknown_loss_is_an_error_that_lists_those_there_are(tiny_bert):
    with pytest.raises(RegistryError, match=r"'test_losses\.Rough\.v1'[\s\S]*spacy-bertft\.CrossEntropy\.v1"):
        of_head(tiny_bert, {"@losses": "test_losses.Rough.v1"})


@pytest.mark.parametrize("loss", [{"@losses": "spacy-bertft.CrossEntropy.v1", "times": 2.0}, "cross-entropy"])
def test_settings_that_make_no_loss_are_an_error(tiny_bert, loss):
    with pytest.raises(ConfigValidationError, match="loss"):
        of_head(tiny_bert, loss)
