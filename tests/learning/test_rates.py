"""The usual learning rate by size, and when a rate is far too high."""

from __future__ import annotations

import itertools

import pytest

from spacy_bertft.learning.rates import too_high, usual_rate


@pytest.mark.parametrize(
    ("parameters", "lowest", "highest"),
    [
        (110_000_000, 4.9e-5, 5.1e-5),  # BERT base
        (335_000_000, 1.5e-5, 3e-5),  # BERT large
        (66_000_000, 5e-5, 1e-4),  # DistilBERT
        (22_700_000, 1.8e-4, 3e-4),  # MiniLM
        (14_000_000, 2.5e-4, 3.5e-4),  # ELECTRA small
        (1_000, 1e-3, 1e-3),
        (10**13, 1e-5, 1e-5),
    ],
)
def test_known_sizes_have_their_published_rates(parameters, lowest, highest):
    assert lowest <= usual_rate(parameters) <= highest


def test_larger_encoders_never_have_higher_rates():
    rates = [usual_rate(10**n) for n in range(14)]
    assert all(one >= other for one, other in itertools.pairwise(rates))
    assert usual_rate(0) == usual_rate(1)


def test_what_fill_config_leaves_is_too_high_and_said_with_numbers_and_a_command():
    said = too_high(0.001, parameters=110_000_000, name="encoder")
    for part in ("'encoder'", "0.001", "110.0 million", "5e-05", "bertft init", "warmup_decay"):
        assert part in said
    assert too_high(0.001, parameters=22_700_000, name="encoder")


@pytest.mark.parametrize(("rate", "parameters"), [(5e-5, 110_000_000), (1e-4, 110_000_000), (1e-3, 3_000_000)])
def test_rates_that_are_used_are_not_too_high(rate, parameters):
    assert too_high(rate, parameters=parameters, name="encoder") is None
