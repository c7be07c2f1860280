"""One step of ModuleOptimizer: what it does to each weight, worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from spacy_bertft.errors import DataError
from spacy_bertft.learning.optimizer import ModuleOptimizer
from spacy_bertft.learning.step_settings import StepSettings
from spacy_bertft.learning.tuning import FrozenTuning, FullTuning, ParameterGroup

RATE = 0.5
# With an eps of 1 the first step is rate * g / (|g| + 1), so that the size of a gradient shows.
SETTINGS = StepSettings(learn_rate=RATE, weight_decay=0.0, betas=(0.9, 0.999), eps=1.0, clip=0.0)


class Weights(nn.Module):
    """A matrix and a vector of two numbers each."""

    def __init__(self, matrix=(0.0, 0.0), vector=(0.0, 0.0)):
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([matrix]))
        self.vector = nn.Parameter(torch.tensor(vector))

    def backward(self, matrix=None, vector=None):
        """Add to the gradients."""
        if matrix is not None:
            (self.matrix * torch.tensor([matrix])).sum().backward()
        if vector is not None:
            (self.vector * torch.tensor(vector)).sum().backward()


@dataclass(frozen=True)
class Uneven(FullTuning):
    """The matrix learns at half the rate, the vector at three times the rate and with decay."""

    def groups(self, module):
        return [ParameterGroup((module.matrix,), 0.5, False), ParameterGroup((module.vector,), 3.0, True)]


@dataclass(frozen=True)
class VectorOnly(FullTuning):
    """The matrix stays as it is."""

    def groups(self, module):
        return [ParameterGroup((module.vector,), 1.0, False)]


def first_step(*gradient, rate=RATE):
    """What the first step takes off weights of this gradient."""
    return torch.tensor([rate * one / (abs(one) + 1) for one in gradient])


def assert_moved(parameter, step):
    torch.testing.assert_close(parameter.detach().flatten(), -step)


# --- the mean over the examples


def test_gradients_are_divided_by_the_number_of_examples():
    module = Weights()
    optimizer = ModuleOptimizer(module)
    module.backward(vector=(6.0, -1.5))
    optimizer.count(3)
    optimizer.step(SETTINGS)
    assert_moved(module.vector, first_step(2.0, -0.5))


def test_a_batch_in_parts_is_divided_by_all_its_examples():
    module = Weights()
    optimizer = ModuleOptimizer(module)
    for gradient, n_examples in (((4.0, 0.0), 1), ((2.0, -1.5), 2)):
        module.backward(vector=gradient)
        optimizer.count(n_examples)
    optimizer.step(SETTINGS)
    assert_moved(module.vector, first_step(2.0, -0.5))


@pytest.mark.parametrize("counted", [0, 1])
def test_gradients_that_nobody_counted_are_those_of_one_example(counted):
    module = Weights()
    optimizer = ModuleOptimizer(module)
    module.backward(vector=(6.0, -1.5))
    optimizer.count(counted)
    optimizer.step(SETTINGS)
    assert_moved(module.vector, first_step(6.0, -1.5))


def test_the_next_step_counts_anew_and_sees_no_old_gradient():
    module, twin = Weights(), Weights()
    optimizer, other = ModuleOptimizer(module), ModuleOptimizer(twin)
    for _ in range(2):
        module.backward(vector=(8.0, 4.0))
        optimizer.count(4)
        optimizer.step(SETTINGS)
        twin.backward(vector=(2.0, 1.0))
        other.count(1)
        other.step(SETTINGS)
    assert torch.equal(module.vector, twin.vector)
    assert module.vector.grad is None
    assert optimizer.examples == 0


# --- the clip


def test_the_norm_of_all_gradients_together_is_clipped():
    module = Weights()
    module.backward(matrix=(3.0, 0.0), vector=(0.0, 4.0))
    ModuleOptimizer(module).step(replace(SETTINGS, clip=0.5))
    assert_moved(module.matrix, first_step(0.3, 0.0))
    assert_moved(module.vector, first_step(0.0, 0.4))


def test_the_mean_is_clipped_and_not_the_sum():
    module = Weights()
    optimizer = ModuleOptimizer(module)
    module.backward(vector=(30.0, 40.0))  # a mean of norm 5 over 10 examples
    optimizer.count(10)
    optimizer.step(replace(SETTINGS, clip=5.1))
    assert_moved(module.vector, first_step(3.0, 4.0))


@pytest.mark.parametrize("clip", [0.0, 5.5])
def test_no_limit_and_gradients_below_it_leave_them_as_they_are(clip):
    module = Weights()
    module.backward(vector=(3.0, 4.0))
    ModuleOptimizer(module).step(replace(SETTINGS, clip=clip))
    assert_moved(module.vector, first_step(3.0, 4.0))


# --- decay and rates


def test_matrices_decay_and_vectors_do_not():
    module = Weights(matrix=(2.0, -4.0), vector=(2.0, -4.0))
    module.backward(matrix=(0.0, 0.0), vector=(0.0, 0.0))
    ModuleOptimizer(module).step(replace(SETTINGS, weight_decay=0.1))
    assert module.matrix.flatten().tolist() == pytest.approx([2.0 * (1 - RATE * 0.1), -4.0 * (1 - RATE * 0.1)])
    assert module.vector.tolist() == [2.0, -4.0]


def test_each_group_has_its_own_rate_and_decay():
    module = Weights(matrix=(2.0, 2.0), vector=(2.0, 2.0))
    module.backward(matrix=(1.0, -3.0), vector=(1.0, -3.0))
    ModuleOptimizer(module, tuning=Uneven()).step(replace(SETTINGS, weight_decay=0.1))
    matrix = torch.full((2,), 2.0) - first_step(1.0, -3.0, rate=0.5 * RATE)
    vector = torch.full((2,), 2.0 * (1 - 3 * RATE * 0.1)) - first_step(1.0, -3.0, rate=3 * RATE)
    torch.testing.assert_close(module.matrix.detach().flatten(), matrix)
    torch.testing.assert_close(module.vector.detach(), vector)


def test_the_factors_of_module_and_group_multiply():
    module = Weights()
    module.backward(matrix=(1.0, -3.0), vector=(1.0, -3.0))
    ModuleOptimizer(module, tuning=Uneven(), rate_factor=0.2).step(SETTINGS)
    assert_moved(module.matrix, first_step(1.0, -3.0, rate=0.2 * 0.5 * RATE))
    assert_moved(module.vector, first_step(1.0, -3.0, rate=0.2 * 3 * RATE))


def test_each_step_reads_its_settings_anew():
    module = Weights(matrix=(1.0, 1.0))
    optimizer = ModuleOptimizer(module)
    for rate, decay in ((0.0, 0.1), (0.5, 0.0), (0.5, 0.2)):
        module.backward(matrix=(0.0, 0.0))
        optimizer.step(replace(SETTINGS, learn_rate=rate, weight_decay=decay))
    assert module.matrix.flatten().tolist() == pytest.approx([0.9, 0.9])


# --- what takes no step


def test_without_gradients_no_step_is_taken():
    module = Weights(matrix=(1.0, 2.0))
    optimizer = ModuleOptimizer(module)
    optimizer.count(5)
    optimizer.step(replace(SETTINGS, weight_decay=0.5))
    assert module.matrix.flatten().tolist() == [1.0, 2.0]
    assert not optimizer.adamw.state


def test_examples_without_gradients_are_not_counted_in_a_later_step():
    module = Weights()
    optimizer = ModuleOptimizer(module)
    optimizer.count(5)
    optimizer.step(SETTINGS)
    module.backward(vector=(2.0, 0.0))
    optimizer.count(1)
    optimizer.step(SETTINGS)
    assert_moved(module.vector, first_step(2.0, 0.0))


def test_a_weight_without_a_gradient_stays_beside_others_that_step():
    module = Weights(matrix=(1.0, 2.0))
    module.backward(vector=(1.0, 1.0))
    ModuleOptimizer(module).step(replace(SETTINGS, weight_decay=0.5))
    assert module.matrix.flatten().tolist() == [1.0, 2.0]
    assert_moved(module.vector, first_step(1.0, 1.0))


def test_a_weight_that_requires_no_gradient_stays():
    module = Weights(matrix=(1.0, 2.0))
    module.matrix.requires_grad_(False)
    module.backward(vector=(1.0, 1.0))
    optimizer = ModuleOptimizer(module)
    optimizer.step(replace(SETTINGS, weight_decay=0.5))
    assert module.matrix.flatten().tolist() == [1.0, 2.0]
    assert_moved(module.vector, first_step(1.0, 1.0))


def test_a_weight_that_the_tuning_leaves_out_stays_and_its_gradient_goes():
    module = Weights(matrix=(1.0, 2.0))
    optimizer = ModuleOptimizer(module, tuning=VectorOnly())
    module.backward(matrix=(7.0, 7.0), vector=(1.0, 1.0))
    optimizer.step(replace(SETTINGS, weight_decay=0.5))
    assert module.matrix.flatten().tolist() == [1.0, 2.0]
    assert module.matrix.grad is None
    assert_moved(module.vector, first_step(1.0, 1.0))


def test_a_frozen_module_takes_no_step():
    module = Weights(matrix=(1.0, 2.0))
    optimizer = ModuleOptimizer(module, tuning=FrozenTuning())
    module.backward(matrix=(1.0, 1.0))
    optimizer.count(3)
    optimizer.step(replace(SETTINGS, weight_decay=0.5))
    assert module.matrix.flatten().tolist() == [1.0, 2.0]
    assert optimizer.examples == 0


# --- gradients that are no numbers


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_no_number_changes_no_weight(number, clip):
    module = Weights(matrix=(1.0, 2.0), vector=(3.0, 4.0))
    optimizer = ModuleOptimizer(module, name="ner")
    module.backward(matrix=(1.0, 1.0), vector=(0.0, number))
    optimizer.count(2)
    said = r"norm of the gradients of 'ner' is (nan|inf), and its weights were left as they are: .*diverged.*Lower the"
    with pytest.raises(DataError, match=said):
        optimizer.step(replace(SETTINGS, clip=clip))
    assert module.matrix.flatten().tolist() == [1.0, 2.0]
    assert module.vector.tolist() == [3.0, 4.0]
    assert not optimizer.moments(module.vector)


def test_after_it_the_next_step_is_taken_as_if_it_had_not_been():
    module = Weights()
    optimizer = ModuleOptimizer(module)
    module.backward(vector=(float("nan"), 1.0))
    optimizer.count(3)
    with pytest.raises(DataError, match="gradients of the model is nan, and"):
        optimizer.step(SETTINGS)
    module.backward(vector=(2.0, -1.0))
    optimizer.count(2)
    optimizer.step(SETTINGS)
    assert_moved(module.vector, first_step(1.0, -0.5))


# --- embedding tables


class Table(nn.Module):
    """Rows that are looked up, and a vector."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.rows = nn.Embedding(6, 2)
        self.vector = nn.Parameter(torch.ones(2))

    def forward(self, ids):
        return (self.rows(torch.tensor(ids)) * self.vector).square().sum()


def test_tables_learn_as_without_gradients_of_rows():
    """Rows that had a gradient once move on by their moments, and all of them decay."""
    collected, plain = Table(), Table()
    ours, theirs = ModuleOptimizer(collected), ModuleOptimizer(plain)
    settings = replace(SETTINGS, weight_decay=0.1, clip=1.0)
    for batches in ([[0, 1, 1]], [[2]], [[1, 3], [3, 4]]):
        ours.begin()
        assert collected.rows.sparse
        for ids in batches:
            collected(ids).backward()
            ours.collect()
            assert not collected.rows.weight.grad.is_sparse
            plain(ids).backward()
        torch.testing.assert_close(collected.rows.weight.grad, plain.rows.weight.grad)
        for optimizer in (ours, theirs):
            optimizer.count(3)
            optimizer.step(settings)
        torch.testing.assert_close(collected.rows.weight, plain.rows.weight)
        torch.testing.assert_close(collected.vector, plain.vector)


def test_the_gradient_of_a_table_keeps_its_memory():
    module = Table()
    optimizer = ModuleOptimizer(module)
    places = set()
    for _ in range(3):
        optimizer.begin()
        module([0]).backward()
        optimizer.collect()
        places.add(module.rows.weight.grad.data_ptr())
        optimizer.step(SETTINGS)
        assert module.rows.weight.grad is None
    assert len(places) == 1
