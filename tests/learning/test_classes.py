"""Weights and biases that follow from counts of classes."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.classes import Classes, class_weights, label_weights

near = partial(pytest.approx, rel=1e-5)
LIKE = torch.zeros(())
THREE = Classes.exclusive("abc", {"counts": {"a": 70, "b": 20, "c": 10}})
LABELS = Classes.independent("abc", {"counts": {"a": 5, "b": 50.0, "c": 0}, "annotated": {"a": 100, "b": 80, "c": 9}})


def effective(count):
    """Cui et al., 2019, the inverse of equation 2."""
    return (1 - 0.999) / (1 - 0.999**count)


# --- where counts come from


def test_counts_are_in_the_order_of_the_classes_and_of_those_that_are_asked_for():
    found = Classes.exclusive(["c", "new", "a"], {"counts": {"a": 70, "b": 20, "c": 10}})
    assert found == Classes(("c", "new", "a"), (10.0, 0.0, 70.0), (80.0, 80.0, 80.0))


def test_a_shared_class_counts_for_all_in_equal_parts():
    found = Classes.exclusive("ab", {"counts": {"a": 3, "b": 1, "none": 6}}, shared="none")
    assert found.counts == (6.0, 4.0)


@pytest.mark.parametrize("statistics", [{}, {"mean": 0.5}])
def test_statistics_of_earlier_versions_have_no_counts(statistics):
    assert Classes.exclusive("ab", statistics) == Classes.independent("ab", statistics) == Classes(("a", "b"))


# --- weights


def test_balanced_classes_count_the_same():
    weights = class_weights("balanced", THREE, LIKE)
    assert weights.tolist() == near([1 / (3 * share) for share in (0.7, 0.2, 0.1)])


def test_effective_numbers_give_weights_in_between():
    weights = class_weights("effective", THREE, LIKE)
    plain = [effective(count) for count in (70, 20, 10)]
    assert (weights / weights[0]).tolist() == near([one / plain[0] for one in plain])


def test_large_counts_weigh_almost_the_same():
    """The effective numbers of both are near 1,000; balanced weights would differ by the factor 10."""
    weights = class_weights("effective", Classes.exclusive("ab", {"counts": {"a": 1_000_000, "b": 100_000}}), LIKE)
    assert weights.tolist() == near([1.0, 1.0])


@pytest.mark.parametrize("weighting", ["balanced", "effective"])
def test_the_average_over_all_targets_is_one(weighting):
    weights = class_weights(weighting, THREE, LIKE)
    assert (weights * torch.tensor([0.7, 0.2, 0.1])).sum().item() == near(1.0)
    positive, both = label_weights(weighting, LABELS, LIKE)
    share = torch.tensor([5 / 100, 50 / 80, 0.0])
    assert (both * (share * positive + 1 - share)).tolist() == near([1.0, 1.0, 1.0])


@pytest.mark.parametrize("weighting", ["balanced", "effective"])
def test_a_class_that_never_occurs_weighs_one_and_the_others_are_as_without_it(weighting):
    more = Classes.exclusive("abcd", {"counts": {"a": 70, "b": 20, "c": 10}})
    found = class_weights(weighting, more, LIKE)
    assert found[3].item() == 1.0
    assert found[:3].tolist() == near(class_weights(weighting, THREE, LIKE).tolist())
    # c never holds, and of d nothing is annotated.
    positive, both = label_weights(weighting, Classes(tuple("cd"), (0.0, 0.0), (9.0, 0.0)), LIKE)
    assert positive.tolist() == both.tolist() == [1.0, 1.0]


def test_balanced_labels_have_the_pos_weight_of_the_textbook():
    positive, both = label_weights("balanced", LABELS, LIKE)
    assert positive.tolist() == near([95 / 5, 30 / 50, 1.0])
    assert both.tolist() == near([100 / (2 * 95), 80 / (2 * 30), 1.0])


def test_effective_labels_weigh_holds_and_does_not_by_their_effective_numbers():
    positive, _ = label_weights("effective", LABELS, LIKE)
    assert positive.tolist() == near([effective(5) / effective(95), effective(50) / effective(30), 1.0])


def test_a_table_is_taken_as_it_is_and_others_have_one():
    assert class_weights({"c": 4.0, "a": 0.0}, Classes(tuple("abc")), LIKE).tolist() == [0.0, 1.0, 4.0]
    positive, both = label_weights({"c": 4.0}, Classes(tuple("abc")), LIKE)
    assert (positive.tolist(), both.tolist()) == ([1.0, 1.0, 4.0], [1.0, 1.0, 1.0])


@pytest.mark.parametrize("weights_of", [class_weights, label_weights])
def test_a_name_that_is_no_class_is_an_error_that_lists_them(weights_of):
    with pytest.raises(ConfigError, match=r"names 'd', 'e', which .* Expected some of: a, b, c\. Correct"):
        weights_of({"e": 1.0, "d": 1.0, "a": 2.0}, THREE, LIKE)


@pytest.mark.parametrize("weights_of", [class_weights, label_weights])
def test_weights_by_counts_need_counts_and_all_need_classes(weights_of):
    with pytest.raises(ConfigError, match=r"knows none: .*earlier version.*Initialise it anew, or set .* to a table"):
        weights_of("balanced", Classes(("a", "b")), LIKE)
    with pytest.raises(ConfigError, match=r"no classes of their own.*Expected a head with labels"):
        weights_of({"a": 1.0}, None, LIKE)


# --- biases


def test_the_sigmoid_of_the_log_odds_is_the_share():
    assert LABELS.log_odds()[:2].sigmoid().tolist() == near([0.05, 0.625])


def test_the_softmax_of_the_log_shares_is_the_shares_and_their_mean_is_nought():
    assert THREE.log_shares().softmax(dim=0).tolist() == near([0.7, 0.2, 0.1])
    assert THREE.log_shares().mean().item() == pytest.approx(0.0, abs=1e-6)


def test_shares_stay_half_a_target_away_from_nought_and_one():
    found = Classes(tuple("abc"), (0.0, 20.0, 0.0), (20.0, 20.0, 0.0)).log_odds()
    assert found.tolist() == near([math.log(0.025 / 0.975), math.log(0.975 / 0.025), 0.0])
    assert Classes.exclusive("ab", {"counts": {"a": 20}}).log_shares().softmax(0).tolist() == near([0.975, 0.025])


@pytest.mark.parametrize("classes", [Classes(("a", "b")), Classes.exclusive("ab", {"counts": {}})])
def test_without_counts_biases_are_nought(classes):
    assert classes.log_odds().tolist() == classes.log_shares().tolist() == [0.0, 0.0]
