"""Curves: the scores of runs of different lengths, read at the same places."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from spacy_bertft.jobs.tune.curve import PARTS, Curve, Evaluation


def read(*points):
    """All places that a run with these positions and scores reaches."""
    curve = Curve()
    return [
        place
        for step, (position, score) in enumerate(points)
        for place in curve.add(Evaluation(step, 0, score, position))
    ]


def test_scores_are_interpolated_between_evaluations():
    found = read((0.0, 0.0), (0.25, 0.5), (0.5, 0.6))
    assert [place for place, _ in found] == [1, 2, 3, 4, 5]
    assert [score for _, score in found] == pytest.approx([0.2, 0.4, 0.52, 0.56, 0.6])


def test_only_the_best_so_far_counts():
    assert read((0.0, 0.0), (0.1, 0.8), (0.2, 0.3)) == [(1, 0.8), (2, 0.8)]


def test_two_runs_of_one_curve_are_read_alike_however_often_they_are_evaluated():
    """The curve is straight, and so is what lies between evaluations."""
    rare = read((0.0, 0.0), (0.35, 0.35), (1.0, 1.0))
    often = read(*((step / 40, step / 40) for step in range(41)))
    assert [place for place, _ in rare] == [place for place, _ in often] == list(range(1, PARTS + 1))
    assert [score for _, score in rare] == [score for _, score in often]


def test_a_first_evaluation_late_in_the_run_is_all_that_is_known_before_it():
    assert read((0.3, 0.4)) == [(1, 0.4), (2, 0.4), (3, 0.4)]


def test_a_run_of_unknown_length_is_read_at_each_evaluation():
    assert read((None, 0.1), (None, 0.3), (None, 0.2)) == [(1, 0.1), (2, 0.3), (3, 0.3)]


@given(some.lists(some.tuples(some.floats(0, 1), some.floats(-1, 1)), min_size=1, max_size=30))
def test_each_place_is_read_once_in_order_and_scores_never_fall(points):
    found = read(*sorted(points))
    places = [place for place, _ in found]
    assert places == list(range(1, len(places) + 1))
    assert len(places) == int(max(position for position, _ in points) * PARTS + 1e-9)
    scores = [score for _, score in found]
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(scores))
    assert all(score <= max(score for _, score in points) + 1e-6 for score in scores)
