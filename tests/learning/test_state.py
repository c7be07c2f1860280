"""A run that is stopped and restored goes on bit for bit as one that was not."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from pipelines import blank, examples
from thinc.api import Optimizer
from torch import nn

from spacy_bertft.components.doc_values import set_value
from spacy_bertft.learning.optimizer import ModuleOptimizer
from spacy_bertft.learning.state import (
    Resumable,
    load_module_state,
    load_random_state,
    module_state,
    random_state,
)
from spacy_bertft.learning.step_settings import StepSettings
from spacy_bertft.learning.tuning import FrozenTuning

pytestmark = pytest.mark.touches_transformers

SETTINGS = StepSettings(1e-2, 0.1, (0.9, 0.999), 1e-8, 1.0)
HEADS = {"ner": "bertft_ner", "textcat": "bertft_textcat", "value": "bertft_regression"}


def through_file(state, folder):
    """What a file gives back of a state."""
    safetensors.torch.save_file(state, folder / "state.safetensors")
    return safetensors.torch.load_file(folder / "state.safetensors")


# --- one module


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.LayerNorm(8), nn.Linear(8, 2))


def learn(module, optimizer, batches, *, step=True, settings=SETTINGS):
    for batch in batches:
        module(batch).square().sum().backward()
        optimizer.count(len(batch))
        if step:
            optimizer.step(settings)


def batches(n):
    return list(torch.randn(n, 5, 3, generator=torch.Generator().manual_seed(1)))


def restored(state, tuning=None):
    """Another module, with a state put in, and its optimizer."""
    module = net(seed=7)
    optimizer = ModuleOptimizer(module, tuning=tuning)
    load_module_state(state, module, optimizer)
    return module, optimizer


def assert_same(one, other):
    assert one.state_dict().keys() == other.state_dict().keys()
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_a_restored_module_goes_on_bit_for_bit(tmp_path):
    unbroken, first = net(), net()
    stepper, early = ModuleOptimizer(unbroken), ModuleOptimizer(first)
    torch.manual_seed(2)
    learn(unbroken, stepper, batches(6))
    torch.manual_seed(2)
    learn(first, early, batches(6)[:3])
    state = through_file(module_state(first, early) | random_state(), tmp_path)
    second, late = restored(state)
    assert_same(second, first)
    torch.manual_seed(99)
    load_random_state(state)
    learn(second, late, batches(6)[3:])
    assert_same(second, unbroken)


@pytest.mark.parametrize("part", ["weights/", "optimizer/exp_avg/", "optimizer/exp_avg_sq/", "optimizer/step/"])
def test_the_state_has_weights_and_moments_of_every_parameter(part):
    module = net()
    optimizer = ModuleOptimizer(module)
    learn(module, optimizer, batches(3))
    state = module_state(module, optimizer)
    assert {key for key in state if key.startswith(part)} == {f"{part}{name}" for name, _ in module.named_parameters()}


def test_gradients_that_wait_for_a_step_are_kept_with_their_number(tmp_path):
    unbroken, first = net().eval(), net().eval()
    stepper, early = ModuleOptimizer(unbroken), ModuleOptimizer(first)
    one, two = batches(2)
    learn(unbroken, stepper, [one, two], step=False)
    stepper.step(SETTINGS)
    learn(first, early, [one], step=False)
    second, late = restored(through_file(module_state(first, early), tmp_path))
    assert late.examples == len(one)
    learn(second.eval(), late, [two])
    assert_same(second, unbroken)


def test_gradients_of_the_module_that_is_loaded_into_go():
    first = net()
    state = module_state(first, ModuleOptimizer(first))
    second = net(seed=7)
    optimizer = ModuleOptimizer(second)
    learn(second, optimizer, batches(1), step=False)
    load_module_state(state, second, optimizer)
    assert all(parameter.grad is None for parameter in second.parameters())
    assert optimizer.examples == 0


def test_a_state_is_not_changed_by_what_goes_on_from_it(tmp_path):
    first = net()
    early = ModuleOptimizer(first)
    learn(first, early, batches(2))
    learn(first, early, batches(1), step=False)
    state = through_file(module_state(first, early), tmp_path)
    before = {key: value.clone() for key, value in state.items()}
    for _ in range(2):
        second, late = restored(state)
        learn(second, late, batches(3))
    assert all(torch.equal(value, before[key]) for key, value in state.items())


def test_averages_go_on_bit_for_bit(tmp_path):
    unbroken, first = net().eval(), net().eval()
    stepper, early = ModuleOptimizer(unbroken), ModuleOptimizer(first)
    averaging = replace(SETTINGS, averages=True)
    learn(unbroken, stepper, batches(6), settings=averaging)
    learn(first, early, batches(6)[:3], settings=averaging)
    with early.averages.swapped_in():  # the state has the trained weights all the same
        state = through_file(module_state(first, early), tmp_path)
    second, late = restored(state)
    learn(second.eval(), late, batches(6)[3:], settings=averaging)
    assert_same(second, unbroken)
    with late.averages.swapped_in(), stepper.averages.swapped_in():
        assert_same(second, unbroken)
    assert [late.averages.counts[it] for it in second.parameters()] == [6] * 6
    learned = {f"average/{name}" for name, _ in first.named_parameters()}
    assert {key for key in state if key.startswith("average/")} == learned


def test_a_run_without_averages_has_none_in_its_state():
    module = net()
    optimizer = ModuleOptimizer(module)
    learn(module, optimizer, batches(2))
    assert not [key for key in module_state(module, optimizer) if key.startswith("average")]


def test_a_module_that_has_not_learned_yet_can_be_restored():
    first, unbroken = net(), net()
    second, late = restored(module_state(first, ModuleOptimizer(first)))
    learn(second.eval(), late, batches(2))
    learn(unbroken.eval(), ModuleOptimizer(unbroken), batches(2))
    assert_same(second, unbroken)


def test_a_frozen_module_gives_its_weights_and_no_moments():
    first = net()
    state = module_state(first, ModuleOptimizer(first, tuning=FrozenTuning()))
    assert not any(key.startswith("optimizer/") for key in state)
    second, _ = restored(state, FrozenTuning())
    assert_same(second, first)


def test_a_module_without_parameters_has_a_state():
    optimizer = ModuleOptimizer(nn.Identity())
    optimizer.count(3)
    state = module_state(nn.Identity(), optimizer)
    again = ModuleOptimizer(nn.Identity())
    load_module_state(state, nn.Identity(), again)
    assert again.examples == 3


def test_a_module_none_of_whose_weights_requires_a_gradient_has_a_state():
    first = net().requires_grad_(False)
    second, _ = restored(module_state(first, ModuleOptimizer(first)))
    assert_same(second, first)


def test_weights_that_require_no_gradient_have_no_moments_and_come_back():
    first = net().eval()
    first[0].requires_grad_(False)
    early = ModuleOptimizer(first)
    learn(first, early, batches(1))
    state = module_state(first, early)
    assert {key for key in state if key.startswith("optimizer/exp_avg/0.")} == set()
    assert_same(restored(state)[0], first)


@pytest.mark.parametrize(
    "other", [nn.Sequential(nn.Linear(3, 8)), nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 5), nn.Identity())]
)
def test_the_state_of_another_module_is_an_error(other):
    state = module_state(other, ModuleOptimizer(other))
    with pytest.raises((KeyError, ValueError, RuntimeError)):
        restored(state)


def test_the_state_of_a_module_with_fewer_outputs_is_an_error():
    smaller = nn.Linear(3, 1)
    state = module_state(smaller, ModuleOptimizer(smaller))
    module = nn.Linear(3, 2)
    with pytest.raises((KeyError, ValueError, RuntimeError)):
        load_module_state(state, module, ModuleOptimizer(module))


# --- random numbers


def drawn():
    return (
        torch.rand(3).tolist(),
        np.random.rand(3).tolist(),
        np.random.standard_normal(),
        random.random(),
        random.gauss(0, 1),
    )


@pytest.fixture
def generators():
    """Leave the generators as they were."""
    before = random_state()
    yield
    load_random_state(before)


@pytest.mark.parametrize("normals", [0, 1])  # an odd number of normal deviates leaves one over for the next call
def test_all_generators_go_on_where_they_were(generators, tmp_path, normals):
    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    for _ in range(normals):
        np.random.standard_normal()
        random.gauss(0, 1)
    state = through_file(random_state(), tmp_path)
    expected = drawn()
    assert drawn() != expected
    load_random_state(state)
    assert drawn() == expected


def test_a_state_can_be_of_torch_alone(generators):
    np.random.seed(2)
    random.seed(3)
    state = random_state()
    expected = drawn()
    load_random_state({"random/torch": state["random/torch"]})
    found = drawn()
    assert found[0] == expected[0]
    assert not {*found[1], *found[2:]} & {*expected[1], *expected[2:]}


# --- whole pipelines


def gold(nlp):
    golds = examples(nlp)
    for number, eg in enumerate(golds):
        set_value(eg.reference, float(number))
    return golds


def pipeline(folder, seed=0):
    nlp = blank(folder, HEADS)
    torch.manual_seed(seed)
    nlp.initialize(lambda: gold(nlp))
    return nlp


def optimizer_of_all():
    return Optimizer(1e-3, L2=0.01, grad_clip=1.0, L2_is_weight_decay=True, use_averages=False)


def train(nlp, steps, sgd=None):
    optimizer = optimizer_of_all()
    for step in steps:
        golds = gold(nlp)
        nlp.update([golds[step % 6], golds[(2 * step + 1) % 6]], drop=0.2, sgd=optimizer if sgd is None else sgd)


def states_of(nlp):
    return {name: pipe.training_state() for name, pipe in nlp.pipeline}


@pytest.fixture(scope="module")
def unbroken(tiny_bert):
    """The states after six steps in one go."""
    nlp = pipeline(tiny_bert)
    torch.manual_seed(5)
    train(nlp, range(6))
    return states_of(nlp)


def assert_same_states(found, expected):
    assert found.keys() == expected.keys()
    for name, state in expected.items():
        assert found[name].keys() == state.keys()
        assert all(torch.equal(value, found[name][key]) for key, value in state.items()), name


def test_every_trainable_component_is_resumable(tiny_bert):
    nlp = pipeline(tiny_bert)
    assert [name for name, pipe in nlp.pipeline if isinstance(pipe, Resumable)] == ["encoder", *HEADS]
    assert not isinstance(nlp.add_pipe("sentencizer"), Resumable)


def test_a_restored_pipeline_goes_on_bit_for_bit(tiny_bert, tmp_path, unbroken):
    first = pipeline(tiny_bert)
    torch.manual_seed(5)
    train(first, range(3))
    joined = {f"{name}/{key}": value for name, state in states_of(first).items() for key, value in state.items()}
    state = through_file(joined | random_state(), tmp_path)
    second = pipeline(tiny_bert, seed=7)
    torch.manual_seed(99)
    for name, pipe in second.pipeline:
        start = f"{name}/"
        pipe.load_training_state({key.removeprefix(start): it for key, it in state.items() if key.startswith(start)})
    load_random_state(state)
    train(second, range(3, 6))
    assert_same_states(states_of(second), unbroken)


def test_asking_for_the_state_changes_nothing(tiny_bert, unbroken):
    nlp = pipeline(tiny_bert)
    torch.manual_seed(5)
    for step in range(6):
        train(nlp, [step])
        states_of(nlp)
    assert_same_states(states_of(nlp), unbroken)


def test_dropout_is_on_in_these_runs(tiny_bert, unbroken):
    nlp = pipeline(tiny_bert)
    torch.manual_seed(6)
    train(nlp, range(6))
    found = states_of(nlp)
    for name, state in unbroken.items():
        assert any(not torch.equal(value, found[name][key]) for key, value in state.items())


def test_the_state_has_the_step_that_was_owed(tiny_bert):
    nlp = pipeline(tiny_bert)
    before = {key: value.clone() for key, value in nlp.get_pipe("encoder").training_state().items()}
    train(nlp, [0])
    after = nlp.get_pipe("encoder").training_state()
    key = "weights/model.embeddings.LayerNorm.weight"
    assert not torch.equal(before[key], after[key])
    assert not any(name.startswith("gradient/") for name in after)
    assert after["examples"] == 0


def test_a_batch_is_restored_between_its_parts(tiny_bert, tmp_path):
    whole, first = pipeline(tiny_bert), pipeline(tiny_bert)
    torch.manual_seed(5)
    train(whole, [0], sgd=False)
    train(whole, [1])
    torch.manual_seed(5)
    train(first, [0], sgd=False)
    random_numbers = random_state()
    second = pipeline(tiny_bert, seed=7)
    for name, pipe in second.pipeline:
        pipe.load_training_state(through_file(first.get_pipe(name).training_state(), tmp_path))
    load_random_state(random_numbers)
    train(second, [1])
    assert_same_states(states_of(second), states_of(whole))


def test_what_was_under_way_is_forgotten(tiny_bert):
    nlp = pipeline(tiny_bert)
    state = {name: {key: it.clone() for key, it in of.items()} for name, of in states_of(nlp).items()}
    train(nlp, [0, 1])
    for name, pipe in nlp.pipeline:
        pipe.load_training_state(state[name])
    assert_same_states(states_of(nlp), state)


def test_components_without_weights_have_an_empty_state(tiny_bert):
    nlp = blank(tiny_bert, HEADS)
    assert set(states_of(nlp)) == {"encoder", *HEADS}
    assert not any(states_of(nlp).values())


@pytest.mark.parametrize(("of", "into"), [("ner", "textcat"), ("encoder", "ner"), ("textcat", "encoder")])
def test_the_state_of_another_component_is_an_error(tiny_bert, of, into):
    nlp = pipeline(tiny_bert)
    with pytest.raises((KeyError, ValueError, RuntimeError)):
        nlp.get_pipe(into).load_training_state(nlp.get_pipe(of).training_state())


def test_the_state_of_a_head_with_one_output_is_an_error_for_one_with_more(tiny_bert):
    nlp = pipeline(tiny_bert)
    with pytest.raises((KeyError, ValueError, RuntimeError)):
        nlp.get_pipe("textcat").load_training_state(nlp.get_pipe("value").training_state())
