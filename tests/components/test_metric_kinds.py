"""What scores mean: how they are shown, and which of two is better."""

from __future__ import annotations

import pytest

from spacy_bertft.components import metric_kinds as score_kinds
from spacy_bertft.components.metric_kinds import ERROR, POINTS, ScoreKind, declare_scores, kind_of, titled


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
    """Declarations of these tests alone."""
    monkeypatch.setattr(score_kinds, "_kinds", dict(score_kinds._kinds))


def test_shares_are_shown_as_points_and_errors_as_they_are():
    assert POINTS.shown(0.125) == 12.5
    assert ERROR.shown(0.125) == 0.125


@pytest.mark.parametrize(("before", "after", "worse"), [(90.0, 88.5, 1.5), (88.5, 90.0, -1.5), (0.0, 0.0, 0.0)])
def test_points_are_worse_by_their_difference(before, after, worse):
    assert POINTS.worse_by(before, after) == worse


@pytest.mark.parametrize(("before", "after", "worse"), [(2.0, 2.5, 25.0), (2.0, 1.0, -50.0), (3.0, 3.0, 0.0)])
def test_errors_are_worse_by_their_growth_in_hundredths(before, after, worse):
    assert ERROR.worse_by(before, after) == pytest.approx(worse)


def test_an_error_of_nought_that_grows_is_much_worse_and_no_division_by_it():
    assert ERROR.worse_by(0.0, 0.5) > 1e6
    assert ERROR.worse_by(0.0, 0.0) == 0.0


@pytest.mark.parametrize("name", ["ents_f", "cats_score", "ents_per_type.PERSON.f", "never declared"])
def test_scores_that_nobody_declared_are_points(name):
    assert kind_of(name) is POINTS


@pytest.mark.parametrize(
    ("name", "kind"),
    [("value_mae", ERROR), ("value_rmse", ERROR), ("value_pearson", POINTS), ("value_spearman", POINTS)],
)
def test_those_of_the_regression_head_are_declared(name, kind):
    import spacy_bertft.tasks.regression  # noqa: F401  # which declares them

    assert kind_of(name) is kind


def test_declarations_add_up_and_the_last_counts():
    seconds = ScoreKind("seconds", 1e-3, more_is_better=False)
    declare_scores({"one": ERROR, "two": ERROR})
    declare_scores({"two": seconds})
    declare_scores({})
    assert (kind_of("one"), kind_of("two"), kind_of("three")) == (ERROR, seconds, POINTS)
    assert kind_of("two").shown(1500.0) == 1.5


def test_the_title_says_what_is_no_share():
    declare_scores({"off": ERROR, "speed": ScoreKind("words a second", 1.0, more_is_better=True)})
    assert titled("ents_f") == "ents_f"
    assert titled("off") == "off (error, lower is better)"
    assert titled("speed") == "speed (words a second, higher is better)"
