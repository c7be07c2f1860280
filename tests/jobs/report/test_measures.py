"""Scores as functions of sums over texts, against the definitions."""

from __future__ import annotations

import numpy as np
import pytest

from spacy_bertft.jobs.report.measures import (
    ACCURACY,
    ANSWERS,
    MACRO_F,
    MICRO_F,
    MICRO_P,
    MICRO_R,
    NUMBERS,
    f_score,
    label_f,
    number_sums,
    precision,
    recall,
)
from spacy_bertft.tasks.regression import score_values

# Two labels: true positives, false positives, false negatives.
SUMS = np.array([6.0, 2.0, 4.0, 1.0, 1.0, 0.0])


def test_scores_of_labels():
    both = SUMS.reshape(2, 3)
    assert precision(both).tolist() == [0.75, 0.5]
    assert recall(both).tolist() == [0.6, 1.0]
    assert f_score(both).tolist() == pytest.approx([2 / 3, 2 / 3])
    assert label_f(1)(SUMS) == pytest.approx(2 / 3)


def test_scores_of_all_labels():
    assert MICRO_P.of(SUMS) == 0.7
    assert MICRO_R.of(SUMS) == pytest.approx(7 / 11)
    assert MICRO_F.of(SUMS) == pytest.approx(2 / 3)
    assert MACRO_F.of(SUMS) == pytest.approx(2 / 3)
    assert ACCURACY.of(np.array([3.0, 0, 1, 4, 1, 0])) == 7 / 8


def test_labels_that_do_not_occur_are_left_out_of_the_mean():
    assert MACRO_F.of(np.array([1.0, 0, 0, 0, 0, 0])) == 1.0
    assert np.isnan(MACRO_F.of(np.zeros(6)))
    assert np.isnan(MICRO_F.of(np.zeros(6)))


def test_samples_are_scored_at_once():
    samples = np.stack([SUMS, 2 * SUMS, np.zeros(6)])
    assert MICRO_F.of(samples).tolist() == pytest.approx([2 / 3, 2 / 3, np.nan], nan_ok=True)
    assert MACRO_F.of(samples).shape == (3,)


def test_answers():
    rows = np.array([[1, 1, 1, 1, 1, 0, 0], [1, 0, 0.5, 1, 0.5, 0, 0], [1, 1, 1, 0, 0, 1, 1], [1, 0, 0, 0, 0, 1, 0]])
    found = {score.title: float(score.of(rows.sum(axis=0))) for score in ANSWERS}
    assert found == {
        "F-score": 0.625,
        "Exact match": 0.5,
        "F-score with an answer": 0.75,
        "Accuracy without an answer": 0.5,
    }


def test_numbers_are_scored_as_by_the_scorer(monkeypatch):
    generator = np.random.default_rng(0)
    gold = generator.normal(1e6, 2.0, 50)  # far from 0: squares would lose digits
    found = gold + generator.normal(size=50)
    monkeypatch.setattr("spacy_bertft.tasks.regression.value_of", lambda number: number)
    examples = [type("Example", (), {"reference": x, "predicted": y}) for x, y in zip(gold, found, strict=True)]
    expected = score_values(examples)
    sums = number_sums(gold, found).sum(axis=0)
    keys = ("value_mae", "value_rmse", "value_pearson")
    for score, key in zip(NUMBERS, keys, strict=True):
        assert score.of(sums) == pytest.approx(expected[key])


def test_equal_numbers_have_no_correlation():
    sums = number_sums(np.ones(4), np.arange(4.0)).sum(axis=0)
    assert NUMBERS[2].of(sums) == 0.0
