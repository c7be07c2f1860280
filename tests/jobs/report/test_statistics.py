"""The statistics of the report, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from spacy_bertft.jobs.report.statistics import (
    at_temperature,
    interval,
    paired_difference,
    percentiles,
    precision_recall,
    ratio,
    reliability,
    resampled_sums,
)

# The quantile of the normal distribution for the ends of a 95 % interval.
Z = 1.959964


def mean(sums):
    """Of columns: values, ones."""
    return ratio(sums[..., 0], sums[..., 1])


def with_ones(values):
    values = np.asarray(values, dtype=np.float64)
    return np.stack([values, np.ones_like(values)], axis=1)


def test_a_quotient_without_a_denominator_is_undefined():
    assert ratio([1, 0], [2, 0]).tolist() == pytest.approx([0.5, np.nan], nan_ok=True)
    assert ratio(1, 0, empty=0.0) == 0.0


# --- the bootstrap


def test_samples_have_as_many_texts_as_the_data_and_the_moments_of_the_multinomial():
    n_texts = 40
    sums = resampled_sums(np.eye(n_texts), times=20_000, seed=3)  # how often each text was drawn
    assert (sums.sum(axis=1) == n_texts).all()
    assert sums.mean() == 1.0
    # Each count is binomial with n = 40 and p = 1 / 40; two of them have the covariance -1 / 40.
    assert sums.var(axis=0).mean() == pytest.approx(1 - 1 / n_texts, rel=0.01)
    covariance = np.cov(sums.T)
    assert covariance[~np.eye(n_texts, dtype=bool)].mean() == pytest.approx(-1 / n_texts, rel=0.05)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=2000)
    found = interval(with_ones(values), mean)
    error = values.std() / np.sqrt(len(values))  # the bootstrap's standard error of a mean, exactly
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - Z * error, abs=0.2 * error)
    assert found.high == pytest.approx(values.mean() + Z * error, abs=0.2 * error)


def test_the_interval_of_a_proportion_has_the_quantiles_of_the_binomial_distribution():
    right = np.arange(50) < 40  # 80 % of 50: the resampled number is binomial
    found = interval(with_ones(right), mean)
    assert (found.low, found.high) == (pytest.approx(34 / 50, abs=0.011), pytest.approx(45 / 50, abs=0.011))


def test_the_intervals_hold_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(1)
    held = 0
    for number in range(200):
        found = interval(with_ones(generator.random(300) < 0.7), mean, seed=number)
        held += found.low <= 0.7 <= found.high
    assert 0.90 <= held / 200 <= 0.99


def test_the_seed_decides_the_samples_whatever_the_measure():
    values = np.random.default_rng(2).random((30, 5))
    assert np.array_equal(resampled_sums(values, seed=7), resampled_sums(values, seed=7))
    assert not np.array_equal(resampled_sums(values, seed=7), resampled_sums(values, seed=8))
    np.testing.assert_allclose(resampled_sums(values[:, :2], seed=7), resampled_sums(values, seed=7)[:, :2])


def test_many_texts_are_sampled_in_parts(monkeypatch):
    values = np.random.default_rng(2).random((30, 2))
    whole = resampled_sums(values, times=100)
    monkeypatch.setattr("spacy_bertft.jobs.report.statistics._DRAWS_AT_ONCE", 70)
    np.testing.assert_allclose(resampled_sums(values, times=100), whole)


def test_undefined_samples_do_not_count():
    samples = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]])
    low, high = percentiles(samples)
    assert (low[0], high[0]) == (pytest.approx(1.05), pytest.approx(2.95))
    assert np.isnan([low[1], high[1]]).all()


def test_one_text_has_an_interval_of_no_width():
    found = interval(with_ones([1.0]), mean)
    assert (found.low, found.value, found.high) == (1.0, 1.0, 1.0)


# --- the paired comparison


def test_the_interval_of_a_difference_is_that_of_the_differences():
    generator = np.random.default_rng(4)
    hard = generator.normal(size=1500)  # what both have in common, which a comparison without pairs would not cancel
    one, other = hard + generator.normal(0.05, 0.1, 1500), hard + generator.normal(0.0, 0.1, 1500)
    found = paired_difference(with_ones(one), with_ones(other), mean)
    error = (one - other).std() / np.sqrt(1500)
    assert found.difference.value == pytest.approx((one - other).mean())
    assert found.difference.low == pytest.approx((one - other).mean() - Z * error, abs=0.2 * error)
    assert found.difference.high == pytest.approx((one - other).mean() + Z * error, abs=0.2 * error)
    assert found.p_value == pytest.approx(2 / 2001)
    unpaired = interval(with_ones(one), mean)
    assert unpaired.high - unpaired.low > 5 * (found.difference.high - found.difference.low)


def test_the_p_value_is_twice_the_normal_tail():
    differences = np.random.default_rng(5).normal(size=1000)
    differences += 1.5 * differences.std() / np.sqrt(1000) - differences.mean()  # 1.5 standard errors: p = 0.134
    found = paired_difference(with_ones(differences), with_ones(np.zeros(1000)), mean)
    assert found.p_value == pytest.approx(0.134, abs=0.03)


def test_equal_pipelines_do_not_differ():
    values = with_ones(np.random.default_rng(6).random(50))
    found = paired_difference(values, values, mean)
    assert (found.difference.value, found.difference.low, found.difference.high, found.p_value) == (0, 0, 0, 1.0)


def test_the_sign_follows_the_order():
    one, other = with_ones(np.full(20, 0.6)), with_ones(np.full(20, 0.5))
    assert paired_difference(one, other, mean).difference.value == pytest.approx(0.1)
    assert paired_difference(other, one, mean).difference.value == pytest.approx(-0.1)


# --- calibration


def test_the_error_is_the_weighted_distance_of_the_bins():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.65])
    right = np.array([True, True, False, False, True, False])
    found = reliability(confidence, right)
    # |0.5 - 0.95| of four predictions, |1 - 0.55| and |0 - 0.65| of one each
    assert found.error == pytest.approx((4 * 0.45 + 0.45 + 0.65) / 6)
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0, 4]
    assert found.accuracy[[5, 6, 9]].tolist() == [1.0, 0.0, 0.5]
    assert np.isnan(found.accuracy[0])


def test_bins_include_their_upper_end_and_none_falls_out():
    found = reliability(np.array([0.0, 0.1, 0.1000001, 0.5, 1.0]), np.ones(5, dtype=bool))
    assert found.counts.tolist() == [2, 1, 0, 0, 1, 0, 0, 0, 0, 1]


def test_calibrated_confidence_has_hardly_any_error_and_shifted_confidence_the_shift():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1.0, 200_000)
    right = generator.random(200_000) < confidence
    assert reliability(confidence, right).error < 0.005
    assert reliability(confidence, generator.random(200_000) < confidence - 0.2).error == pytest.approx(0.2, abs=0.005)


def test_another_temperature_is_the_softmax_of_the_scaled_logits():
    logits = np.random.default_rng(0).normal(size=(20, 4)) * 3

    def softmax(temperature):
        powers = np.exp(logits / temperature)
        return powers / powers.sum(axis=1, keepdims=True)

    np.testing.assert_allclose(at_temperature(softmax(1.7), old=1.7, new=1.0), softmax(1.0), rtol=1e-9)
    np.testing.assert_allclose(at_temperature(softmax(1.0), old=1.0, new=2.5), softmax(2.5), rtol=1e-9)
    assert np.isfinite(at_temperature(np.array([[1.0, 0.0]]), old=1.0, new=3.0)).all()


# --- precision and recall


def test_precision_and_recall_at_each_confidence():
    curve = precision_recall(np.array([0.9, 0.5, 0.8, 0.8]), np.array([True, False, True, False]), 4)
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.5]  # equal confidences can't be told apart
    assert curve.precision.tolist() == pytest.approx([1.0, 2 / 3, 0.5])
    assert curve.recall.tolist() == pytest.approx([0.25, 0.5, 0.5])
    assert curve.at(0.85) == (1.0, 0.25)
    assert curve.at(0.8) == (pytest.approx(2 / 3), 0.5)
    assert curve.at(0.95) is None
    assert curve.best() == (0.8, pytest.approx(2 / 3), 0.5)


def test_the_area_under_the_curve_of_noise_is_the_share_of_right_ones():
    generator = np.random.default_rng(0)
    right = generator.random(20_000) < 0.3
    curve = precision_recall(generator.random(20_000), right, int(right.sum()))
    assert (np.diff(curve.recall) >= 0).all()
    assert curve.recall[-1] == 1.0
    assert np.sum(np.diff(curve.recall, prepend=0) * curve.precision) == pytest.approx(0.3, abs=0.02)


def test_five_thousand_texts_with_many_labels_take_little_memory_and_time():
    """Sums of 151 labels in three counts: the samples are a product of matrices, not a loop over texts."""
    counts = np.random.default_rng(0).integers(0, 2, size=(5000, 453)).astype(np.float64)
    sums = resampled_sums(counts, times=1000)
    assert sums.shape == (1000, 453)
    np.testing.assert_allclose(sums.mean(axis=0), counts.sum(axis=0), rtol=0.01)
