"""The usual learning rate by size, and when a rate is far too high."""

from __future__ import annotations

import itertools

import pytest

from spacy_bertft.learning.rates import BASE_SIZE, too_high, usual_rate


@pytest.mark.parametrize(
    ("parameters", "lowest", "highest"),
    [
        (BASE_SIZE, 5e-5, 5e-5),  # BERT base
        (302_000_000, 2e-5, 3e-5),  # BERT large
        (42_500_000, 5e-5, 1e-4),  # DistilBERT
        (10_600_000, 1e-4, 3e-4),  # MiniLM
        (9_500_000, 1e-4, 3e-4),  # ELECTRA small
    ],
)
def test_known_sizes_have_their_published_rates(parameters, lowest, highest):
    assert lowest <= usual_rate(parameters) <= highest


def test_larger_encoders_never_have_higher_rates():
    rates = [usual_rate(10**n) for n in range(14)]
    assert all(one >= other for one, other in itertools.pairwise(rates))
    assert usual_rate(0) == usual_rate(1)
    assert 1e-6 <= rates[-1] < rates[0] <= 1e-2


def test_rates_are_round():
    assert {f"{usual_rate(parameters):.0e}"[0] for parameters in range(10**6, 10**8, 10**6)} <= set("12357")


def test_what_fill_config_leaves_is_too_high_and_said_with_numbers_and_a_command():
    said = too_high(0.001, parameters=BASE_SIZE, name="encoder")
    for part in ("'encoder'", "0.001", "85.0 million", "5e-05", "bertft init", "warmup_decay"):
        assert part in said
    assert too_high(0.001, parameters=10_600_000, name="encoder")


@pytest.mark.parametrize(("rate", "parameters"), [(5e-5, BASE_SIZE), (1e-4, BASE_SIZE), (3e-4, 10_600_000)])
def test_rates_that_are_used_are_not_too_high(rate, parameters):
    assert too_high(rate, parameters=parameters, name="encoder") is None
