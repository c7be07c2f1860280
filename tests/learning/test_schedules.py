"""Learning rates that follow the length of the run."""

from __future__ import annotations

from itertools import islice

import pytest
from thinc.api import registry

from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.schedules import _run_length, warmup_decay


def rates(n, **settings):
    return list(islice(warmup_decay(1.0, **settings), n))


def test_warm_up_over_a_tenth_then_down_to_zero():
    found = rates(101, max_steps=100)
    assert found[0] == 0
    assert found[5] == pytest.approx(0.5)
    assert found[10] == max(found) == 1
    assert found[55] == pytest.approx(0.5)
    assert found[100] == 0
    assert rates(130, max_steps=100)[120] == 0  # a run that goes on stays at 0, never below


def test_the_same_run_in_epochs():
    assert rates(101, max_epochs=4, steps_per_epoch=25) == rates(101, max_steps=100)
    assert rates(101, max_epochs=9, steps_per_epoch=25, max_steps=100) == rates(101, max_steps=100)
    assert rates(101, max_epochs=4, steps_per_epoch=25, max_steps=2000) == rates(101, max_steps=100)


def test_shapes():
    cosine = rates(101, max_steps=100, decay="cosine", warmup=0.0)
    assert cosine[0] == 1
    assert cosine[50] == pytest.approx(0.5)
    assert cosine[25] == pytest.approx(0.854, abs=1e-3)
    assert cosine[100] == pytest.approx(0)
    constant = rates(101, max_steps=100, decay="constant")
    assert constant[5] == 0.5
    assert set(constant[10:]) == {1.0}
    assert rates(3, decay="constant", warmup=0.0) == [1.0, 1.0, 1.0]  # needs no end


@pytest.mark.parametrize("settings", [{}, {"max_epochs": 3}, {"max_epochs": 3, "max_steps": 10}, {"max_epochs": -1}])
def test_a_run_without_a_known_end_is_an_error(settings):
    schedule = iter(warmup_decay(1.0, **settings))
    next(schedule)  # the optimizer reads the first rate before a pipeline is initialised
    with pytest.raises(ConfigError, match=r"how long the run is: found .* Expected a positive max_steps.* Set max"):
        next(schedule)


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 40])
def test_warm_up_is_a_fraction(warmup):
    with pytest.raises(ConfigError, match="fraction of the run"):
        warmup_decay(1.0, warmup=warmup, max_steps=100)


def test_lengths():
    assert _run_length(10, 0, None) == 10
    assert _run_length(0, 2, 7) == 14
    assert _run_length(10, 2, 7) == 10
    assert _run_length(0, 0, 7) is None
    assert _run_length(10, 2, None) is None


def test_registered():
    block = {"@schedules": "spacy-bertft.warmup_decay.v1", "initial_rate": 1.0, "max_steps": 100}
    schedule = registry.resolve({"rate": block})["rate"]
    assert list(islice(schedule, 101)) == rates(101, max_steps=100)
