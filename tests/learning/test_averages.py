"""Averages of weights: what they are, and that they take the weights' place and leave it again."""

from __future__ import annotations

import gc
import random

import pytest
import torch
from torch import nn

from spacy_bertft.learning.averages import Averages
from spacy_bertft.learning.optimizer import ModuleOptimizer
from spacy_bertft.learning.step_settings import StepSettings


def parameter(*numbers):
    return nn.Parameter(torch.tensor(numbers, dtype=torch.float32))


def plain_average(values):
    """The same in plain Python: of one number's values after each of its steps."""
    average = values[0]
    for step, value in enumerate(values[1:], 2):
        decay = min(0.9999, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * value
    return average


def set_to(weight, *numbers):
    with torch.no_grad():
        weight.copy_(torch.tensor(numbers))


def test_the_average_is_that_of_plain_python():
    draw, weight, averages = random.Random(1), parameter(0.0, 0.0), Averages()
    values = [(draw.gauss(0, 1), draw.gauss(5, 2)) for _ in range(200)]
    for pair in values:
        set_to(weight, *pair)
        averages.add([weight])
    expected = [plain_average(column) for column in zip(*values, strict=True)]
    assert averages.values[weight].tolist() == pytest.approx(expected, rel=1e-5)
    assert averages.counts[weight] == 200


def test_the_average_of_one_step_is_the_weight():
    weight, averages = parameter(3.0, -1.0), Averages()
    averages.add([weight])
    assert averages.values[weight].tolist() == [3.0, -1.0]
    set_to(weight, 5.0, -1.0)
    assert averages.values[weight].tolist() == [3.0, -1.0]


def test_each_weight_counts_its_own_steps():
    early, late, averages = parameter(0.0), parameter(0.0), Averages()
    seen = {early: [], late: []}
    for step in range(30):
        for weight in (early, late):
            set_to(weight, float(step * step))
        group = [early, late] if step >= 20 else [early]
        averages.add(group)
        for weight in group:
            seen[weight].append(float(step * step))
    for weight, values in seen.items():
        assert averages.values[weight].item() == pytest.approx(plain_average(values), rel=1e-5)


def test_the_decay_has_a_limit():
    weight, averages = parameter(0.0), Averages()
    averages.add([weight])
    averages.counts[weight] = 10**9
    set_to(weight, 1.0)
    averages.add([weight])
    assert averages.values[weight].item() == pytest.approx(1e-4, rel=1e-3)


# --- in the place of the weights


@pytest.fixture
def averaged():
    """Averages of a weight, whose values differ."""
    weight, averages = parameter(1.0, 2.0), Averages()
    averages.add([weight])
    set_to(weight, 0.1, 7.0)
    averages.add([weight])
    return averages, weight


def test_inside_the_weights_are_the_averages_and_afterwards_what_they_were(averaged):
    averages, weight = averaged
    before, average = weight.detach().clone(), averages.values[weight].clone()
    assert not torch.equal(before, average)
    seen = [weight._version]
    with averages.swapped_in():
        assert averages.in_place
        assert torch.equal(weight, average)
        assert torch.equal(averages.trained(weight), before)
        seen.append(weight._version)
    seen.append(weight._version)
    assert not averages.in_place
    assert torch.equal(weight, before)
    assert torch.equal(averages.trained(weight), before)
    assert torch.equal(averages.values[weight], average)
    assert seen == sorted(set(seen))  # engines notice both


def test_after_an_exception_they_are_what_they_were(averaged):
    averages, weight = averaged
    before = weight.detach().clone()
    with pytest.raises(KeyError), averages.swapped_in():
        raise KeyError
    assert torch.equal(weight, before)


def test_a_block_inside_another_changes_nothing(averaged):
    averages, weight = averaged
    before, average = weight.detach().clone(), averages.values[weight]
    with averages.swapped_in():
        with averages.swapped_in():
            assert torch.equal(weight, average)
        assert torch.equal(weight, average)
    assert torch.equal(weight, before)


def test_a_block_that_ends_late_does_not_undo_what_came_after(averaged):
    averages, weight = averaged
    abandoned = averages.swapped_in()
    abandoned.__enter__()
    averages.restore()
    set_to(weight, 5.0, 5.0)
    with averages.swapped_in():
        average = weight.detach().clone()
        del abandoned
        gc.collect()
        assert torch.equal(weight, average)
    assert weight.tolist() == [5.0, 5.0]


def test_weights_that_are_loaded_meanwhile_stay(averaged):
    averages, weight = averaged
    with averages.swapped_in():
        averages.forget_trained()
        set_to(weight, 5.0, 5.0)
    assert weight.tolist() == [5.0, 5.0]


def test_without_averages_nothing_is_swapped():
    averages = Averages()
    with averages.swapped_in():
        assert not averages.in_place


# --- in an optimizer


def test_an_optimizer_averages_the_weights_that_it_trains():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    module[0].requires_grad_(False)
    optimizer = ModuleOptimizer(module)
    settings = StepSettings(0.1, 0.01, (0.9, 0.999), 1e-8, 1.0, averages=True)
    values = []
    for _ in range(5):
        module(torch.randn(4, 2)).square().sum().backward()
        optimizer.step(settings)
        values.append(module[1].bias.item())
    assert set(optimizer.averages.values) == set(module[1].parameters())
    assert optimizer.averages.values[module[1].bias].item() == pytest.approx(plain_average(values))


def test_an_optimizer_that_was_not_asked_keeps_none():
    module = nn.Linear(2, 1)
    optimizer = ModuleOptimizer(module)
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step(StepSettings(0.1, 0.0, (0.9, 0.999), 1e-8, 0.0))
    assert not optimizer.averages.values
