from __future__ import annotations

import pytest

from spacy_bertft.learning.rates import BASE_SIZE, usual_rate


def test_base_size_has_the_rate_of_the_bert_paper():
    assert usual_rate(BASE_SIZE) == 5e-5


def test_larger_encoders_never_get_a_higher_rate():
    rates = [usual_rate(10**power) for power in range(4, 12)]
    assert rates == sorted(rates, reverse=True)
    assert 1e-6 <= rates[-1] < rates[0] <= 1e-2


@pytest.mark.parametrize(("parameters", "least", "most"), [(302_000_000, 1e-5, 3e-5), (10_600_000, 1e-4, 3e-4)])
def test_large_and_small_encoders(parameters, least, most):
    assert least <= usual_rate(parameters) <= most


def test_rates_are_round():
    assert {f"{usual_rate(parameters):.0e}"[0] for parameters in range(10**6, 10**8, 10**6)} <= set("12357")
