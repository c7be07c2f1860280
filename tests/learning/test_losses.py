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
from pipelines import blank, examples, loss_of, module_of, without_dropout
from spacy.training import Example
from spacy.util import registry
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.classes import Classes
from spacy_bertft.learning.losses import CrossEntropy, FocalLoss, MeanSquaredError, Targets

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


# --- smoothing, weights, temperature

ALL = torch.ones(2, 3, dtype=torch.bool)
COUNTED = Classes.exclusive("abc", {"counts": {"a": 70, "b": 20, "c": 10}})
HELD = Classes.independent("abc", {"counts": {"a": 5, "b": 50, "c": 1}, "annotated": dict.fromkeys("abc", 100)})
WEIGHTS = torch.tensor([100 / 210, 100 / 60, 100 / 30])  # of COUNTED, balanced
SOFT = torch.tensor([[0.2, 0.8, 0.0], [0.5, 0.25, 0.25]])
CHOICES = torch.tensor([[4, 0, -1], [1, 5, 2]])


def close(found, expected):
    torch.testing.assert_close(found.detach(), torch.as_tensor(expected))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighting", [None, "balanced", {"a": 100 / 210, "b": 100 / 60, "c": 100 / 30}])
@pytest.mark.parametrize("values", [torch.tensor([2, 1]), torch.tensor([0, 0]), SOFT])
def test_smoothed_and_weighted_classes_cost_what_torch_says(smoothing, weighting, values):
    targets = Targets("exclusive", values, truths(True, True), scale=0.5, classes=COUNTED)
    weights = None if weighting is None else WEIGHTS
    expected = cross_entropy(logits_of(), values, weights, reduction="sum", label_smoothing=smoothing)
    close(CrossEntropy(smoothing, weighting)(logits_of(), targets), 0.5 * expected.detach())


@pytest.mark.parametrize("weighting", ["balanced", "effective"])
def test_weighted_labels_cost_what_torch_says(weighting):
    targets = Targets("independent", SOFT, ALL, classes=HELD)
    share = torch.tensor([0.05, 0.5, 0.01])
    positive = (1 - share) / share
    if weighting == "effective":
        positive = (1 - 0.999 ** (100 - 100 * share)) / (1 - 0.999 ** (100 * share))
    of_each = binary_cross_entropy_with_logits(logits_of(), SOFT, pos_weight=positive, reduction="none").detach()
    expected = (of_each / (share * positive + 1 - share)).sum()  # the average weight is 1
    close(CrossEntropy(class_weights=weighting)(logits_of(), targets), expected)


def test_a_table_is_the_pos_weight_of_labels():
    targets = Targets("independent", SOFT, ALL, classes=HELD)
    expected = binary_cross_entropy_with_logits(
        logits_of(), SOFT, pos_weight=torch.tensor([3.0, 1.0, 0.5]), reduction="sum"
    )
    close(CrossEntropy(class_weights={"a": 3.0, "c": 0.5})(logits_of(), targets), expected.detach())


def test_labels_are_smoothed_towards_a_half():
    expected = binary_cross_entropy_with_logits(logits_of(), 0.8 * SOFT + 0.2 * 0.5, reduction="sum").detach()
    close(CrossEntropy(label_smoothing=0.2)(logits_of(), Targets("independent", SOFT, ALL)), expected)


@pytest.mark.parametrize("values", [torch.tensor([0, 2]), one_hot(torch.tensor([0, 2])).float()])
def test_candidates_are_smoothed_towards_uniform_over_those_there_are(values):
    logits = logits_of()
    found = CrossEntropy(label_smoothing=0.3)(logits, Targets("exclusive", values, truths(True, True), CHOICES))
    one, two = shares([3.0, 1.0]), shares([-2.0, -1.0, 0.5])
    expected = -0.85 * math.log(one[0]) - 0.15 * math.log(one[1])
    expected -= 0.1 * math.log(two[0]) + 0.1 * math.log(two[1]) + 0.8 * math.log(two[2])
    assert found.item() == near(expected)
    found.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["exclusive", "independent"])
def test_soft_targets_are_compared_at_the_temperature(kind):
    targets = Targets(kind, SOFT, truths(True, True) if kind == "exclusive" else ALL)
    cooler = (logits_of() / 4.0).detach()
    close(CrossEntropy(temperature=4.0)(logits_of(), targets), 16 * CrossEntropy()(cooler, targets))


def test_the_gradient_at_a_high_temperature_is_that_of_matching_the_logits():
    """Hinton et al., 2015, equation 4: (z - v) / N for logits without their means."""
    teacher = torch.tensor([[2.0, -1.0, 0.0], [1.0, 1.0, 4.0]])
    values = (teacher / 1000).softmax(dim=1)
    logits = logits_of()
    CrossEntropy(temperature=1000.0)(logits, Targets("exclusive", values, truths(True, True))).backward()
    centred = [one - one.mean(dim=1, keepdim=True) for one in (logits.detach(), teacher)]
    torch.testing.assert_close(logits.grad, (centred[0] - centred[1]) / 3, atol=1e-2, rtol=1e-2)


def test_classes_are_compared_at_the_temperature_one():
    targets = Targets("exclusive", torch.tensor([2, 1]), truths(True, True))
    assert CrossEntropy(temperature=4.0)(logits_of(), targets).item() == CrossEntropy()(logits_of(), targets).item()


@pytest.mark.parametrize("values", [torch.tensor([2, 1]), SOFT])
def test_the_defaults_are_plain_cross_entropy_to_the_bit(values):
    targets = Targets("exclusive", values, truths(True, True), classes=COUNTED)
    assert CrossEntropy()(logits_of(), targets).item() == cross_entropy(logits_of(), values, reduction="sum").item()


# --- focal loss


@pytest.mark.parametrize("values", [torch.tensor([2, 1]), one_hot(torch.tensor([2, 1])).float()])
def test_a_class_counts_less_the_surer_it_is(values):
    targets = Targets("exclusive", values, truths(True, True), scale=0.5)
    one, two = shares(LOGITS[0])[2], shares(LOGITS[1])[1]
    expected = -((1 - one) ** 3) * math.log(one) - (1 - two) ** 3 * math.log(two)
    assert FocalLoss(gamma=3.0)(logits_of(), targets).item() == near(0.5 * expected)


def test_a_label_counts_less_the_surer_it_is():
    goal = torch.tensor([[1.0, 0.0, 0.3], [0.0, 0.0, 1.0]])
    expected = sum(
        one * sigmoid(-logit) ** 2 * binary(logit, 1.0) + (1 - one) * sigmoid(logit) ** 2 * binary(logit, 0.0)
        for row, goals in zip(LOGITS, goal.tolist(), strict=True)
        for logit, one in zip(row, goals, strict=True)
    )
    assert FocalLoss()(logits_of(), Targets("independent", goal, ALL)).item() == near(expected)


OF_CATEGORIES = [
    Targets("exclusive", torch.tensor([2, 1]), truths(True, True), classes=COUNTED),
    Targets("exclusive", SOFT, truths(True, True), classes=COUNTED),
    Targets("independent", SOFT, ALL, classes=HELD),
]


@pytest.mark.parametrize("weighting", [None, "balanced", "effective", {"b": 3.0}])
@pytest.mark.parametrize("targets", OF_CATEGORIES)
def test_a_gamma_of_nought_is_cross_entropy(targets, weighting):
    expected = CrossEntropy(class_weights=weighting)(logits_of(), targets)
    close(FocalLoss(0.0, weighting)(logits_of(), targets), expected.detach())


def test_candidates_have_a_focal_loss_too():
    logits = logits_of()
    found = FocalLoss()(logits, Targets("exclusive", torch.tensor([0, -1]), truths(True, False), CHOICES))
    one = shares([3.0, 1.0])[0]
    assert found.item() == near(-((1 - one) ** 2) * math.log(one))
    found.backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.count_nonzero() == 2


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("values", [torch.tensor([0]), torch.tensor([1]), None])
def test_gradients_are_finite_however_sure_it_is(gamma, values):
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    targets = Targets("exclusive", values, truths(True)) if values is not None else None
    targets = targets or Targets("independent", torch.tensor([[1.0, 1.0]]), torch.tensor([[True, True]]))
    found = FocalLoss(gamma)(logits, targets)
    found.backward()
    assert found.isfinite()
    assert logits.grad.isfinite().all()


# --- settings that don't fit

SETTINGS = [CrossEntropy(0.1, "balanced", 2.0), FocalLoss(2.0, "effective"), FocalLoss(0.5, {"b": 2.0})]


@pytest.mark.parametrize("loss", SETTINGS)
@pytest.mark.parametrize("targets", OF_CATEGORIES)
def test_what_is_not_annotated_costs_nothing_whatever_the_settings(loss, targets):
    """And what is costs the same as alone."""
    mask, logits = targets.mask.clone(), logits_of()
    mask[0] = False
    found = loss(logits, Targets(targets.kind, targets.values, mask, classes=targets.classes))
    alone = Targets(targets.kind, targets.values[1:], targets.mask[1:], classes=targets.classes)
    assert found.item() == near(loss(logits_of(LOGITS[1:]), alone).item())
    found.backward()
    assert not logits.grad[0].any()
    assert logits.grad[1].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: CrossEntropy(label_smoothing=1.0),
            r"label_smoothing of CrossEntropy is 1; expected at least 0 and bel",
        ),
        (lambda: CrossEntropy(label_smoothing=-0.1), r"label_smoothing of CrossEntropy is -0\.1; expected"),
        (lambda: CrossEntropy(temperature=0.0), r"temperature of CrossEntropy is 0; expected more than 0"),
        (lambda: FocalLoss(gamma=-1.0), r"gamma of FocalLoss is -1; expected at least 0"),
        (lambda: FocalLoss(class_weights="square"), r"class_weights of FocalLoss is 'square'; expected \"balanced\""),
        (
            lambda: CrossEntropy(class_weights={"a": -1.0}),
            r"class_weights of CrossEntropy of 'a' is -1; expected at le",
        ),
    ],
)
def test_settings_out_of_range_are_an_error(make, message):
    with pytest.raises(ConfigError, match=message + "[\\s\\S]*Correct it in the block of the head's loss"):
        make()


def test_focal_loss_is_not_for_numbers():
    with pytest.raises(ConfigError, match=r"FocalLoss, but the head is trained on numbers.*\.MeanSquaredError"):
        FocalLoss()(logits_of(), OF_EACH_KIND[3][1])


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


# --- settings in the config of each head

BALANCED = {"@losses": "spacy-bertft.CrossEntropy.v1", "class_weights": "balanced"}
FOCAL = {"@losses": "spacy-bertft.FocalLoss.v1", "gamma": 1.0, "class_weights": {"home": 2.0}}


def head_with(folder, factory, loss, egs=examples):
    nlp = blank(folder, {})
    nlp.add_pipe(factory, name="head", config={"loss": loss})
    torch.manual_seed(0)
    nlp.initialize(lambda: egs(nlp))
    return without_dropout(nlp)


@pytest.mark.parametrize("factory", ["bertft_textcat", "bertft_textcat_multilabel"])
@pytest.mark.parametrize("loss", [BALANCED, FOCAL, {"label_smoothing": 0.1, "temperature": 2.0}])
def test_settings_reach_the_head_and_its_gradients(tiny_bert, factory, loss, tmp_path):
    nlp = head_with(tiny_bert, factory, loss, uneven)
    plain = head_with(tiny_bert, factory, {"@losses": "spacy-bertft.CrossEntropy.v1"}, uneven)
    found = [loss_of(one.get_pipe("head"), uneven(one)).item() for one in (nlp, plain)]
    assert nlp.update(uneven(nlp), sgd=False)["head"] == near(found[0] / 8)
    assert abs(found[0] - found[1]) > 1e-3
    assert module_of(nlp, "head").output.bias.grad.any()
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    assert loaded.get_pipe("head").loss == nlp.get_pipe("head").loss
    assert loss_of(loaded.get_pipe("head"), uneven(loaded)).item() == near(found[0])


def uneven(nlp):
    """Three texts of one category for each of the other."""
    cats = ["home", "home", "home", "work"] * 2
    return [
        Example.from_dict(nlp.make_doc(f"Text {place}"), {"cats": {one: float(one == cat) for one in ("home", "work")}})
        for place, cat in enumerate(cats)
    ]


@pytest.mark.parametrize("loss", [BALANCED, {**BALANCED, "class_weights": {"O": 0.1, "B-PERSON": 2.0}}])
def test_tags_can_be_weighted(tiny_bert, loss):
    nlp = head_with(tiny_bert, "bertft_ner", loss)
    plain = head_with(tiny_bert, "bertft_ner", {"@losses": "spacy-bertft.CrossEntropy.v1"})
    for one in (nlp, plain):
        one.update(examples(one), sgd=False)
    # The gradient of O's bias is the sum of its weighted errors: O, the most frequent tag, pulls less.
    pulls = [abs(module_of(one, "head").output.bias.grad[0].item()) for one in (nlp, plain)]
    assert pulls[0] != near(pulls[1])


def test_an_unknown_tag_in_the_table_is_an_error_that_lists_the_tags(tiny_bert):
    nlp = head_with(tiny_bert, "bertft_ner", {**BALANCED, "class_weights": {"PERSON": 2.0}})
    with pytest.raises(ConfigError, match=r"names 'PERSON'.*Expected some of: O, B-CITY, I-CITY, B-PERSON, I-PERSON"):
        nlp.update(examples(nlp), sgd=False)


def test_settings_of_a_known_loss_are_checked(tiny_bert):
    with pytest.raises(ConfigError, match="label_smoothing of CrossEntropy is 2"):
        head_with(tiny_bert, "bertft_ner", {"label_smoothing": 2.0})
    with pytest.raises(ConfigValidationError, match="class_weights"):
        head_with(tiny_bert, "bertft_ner", {"class_weights": "square"})


# --- targets from a teacher


def test_a_teacher_of_exclusive_classes_is_compared_by_the_softmax_over_its_own():
    teacher = torch.tensor([[2.0, 0.0], [-1.0, 1.0]])
    logits = logits_of()  # three classes: the last was added
    gold = Targets("exclusive", torch.tensor([0, 0]), truths(False, False), scale=0.5)
    found = CrossEntropy()(logits, gold.taught(teacher, 3))
    goals, rows = [shares(row) for row in teacher.tolist()], [shares(row[:2]) for row in LOGITS]
    expected = -sum(
        g * math.log(r) for goal, row in zip(goals, rows, strict=True) for g, r in zip(goal, row, strict=True)
    )
    assert found.item() == near(0.5 * expected)
    found.backward()
    assert logits.grad[:, 2].tolist() == [0.0, 0.0]
    assert logits.grad[:, :2].tolist() == [
        near([0.5 * (r - g) for r, g in zip(row, goal, strict=True)]) for row, goal in zip(rows, goals, strict=True)
    ]


def test_a_teacher_of_independent_labels_says_nothing_of_those_added():
    teacher = torch.tensor([[2.0], [-1.0]])
    logits = logits_of()
    gold = Targets("independent", torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    found = CrossEntropy()(logits, gold.taught(teacher, 3))
    assert found.item() == near(binary(1.0, sigmoid(2.0)) + binary(0.0, sigmoid(-1.0)))
    found.backward()
    assert logits.grad[:, 1:].count_nonzero() == 0
    assert logits.grad[:, 0].tolist() == near([sigmoid(1.0) - sigmoid(2.0), 0.5 - sigmoid(-1.0)])


def test_a_teacher_of_numbers_is_its_number():
    gold = Targets("number", torch.zeros(2, 1), truths([False], [False]))
    found = MeanSquaredError()(torch.tensor([[1.0], [2.0]]), gold.taught(torch.tensor([[3.0], [2.5]]), 1))
    assert found.item() == near(4.25)


def test_a_teacher_of_places_keeps_the_candidates():
    candidates = torch.tensor([[0, 2, 4], [1, 3, -1]])
    gold = Targets("exclusive", torch.tensor([0, -1]), truths(True, False), candidates)
    teacher = torch.tensor(LOGITS)
    targets = gold.taught(teacher, 3)
    assert targets.candidates is candidates
    assert targets.values.tolist() == [near(shares([1.0, 0.5, 3.0])), near([*shares([-2.0, 0.0]), 0.0])]
    logits = logits_of()
    CrossEntropy()(logits, targets).backward()
    assert logits.grad.abs().max() < 1e-6  # it is as its teacher


@pytest.mark.parametrize("own", [torch.tensor([1, 2]), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])])
def test_a_row_of_one_of_the_teachers_classes_is_none_of_those_added(own):
    teacher = torch.tensor([[2.0, 0.0], [-1.0, 1.0]])
    logits = logits_of()
    targets = Targets("exclusive", own, truths(True, True)).taught(teacher, 3)
    CrossEntropy()(logits, targets).backward()
    goals = [shares(row) for row in teacher.tolist()]
    first = [row - goal for row, goal in zip(shares(LOGITS[0]), [*goals[0], 0.0], strict=True)]
    second = [row - goal for row, goal in zip(shares(LOGITS[1][:2]), goals[1], strict=True)]
    assert logits.grad.tolist() == [near(first), near([*second, 0.0])]
