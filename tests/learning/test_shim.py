"""The Shim around a torch module: prediction, training, steps, copies and bytes."""

from __future__ import annotations

import copy

import pytest
import torch
from thinc.api import Adam, Optimizer
from torch import nn

from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.optimizer import ModuleOptimizer
from spacy_bertft.learning.shim import TorchShim, shim_of, wrap
from spacy_bertft.learning.step_settings import StepSettings, read_settings
from spacy_bertft.learning.tuning import FrozenTuning, FullTuning

PLAIN = {"L2": 0.1, "grad_clip": 0.5, "use_averages": False, "L2_is_weight_decay": True}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))


def shim_with(module, **settings):
    shim = TorchShim(**settings)
    shim.module = module
    return shim


def same_weights(one, other):
    found, expected = one.module.state_dict(), other.module.state_dict()
    return found.keys() == expected.keys() and all(value.equal(found[key]) for key, value in expected.items())


INPUTS = torch.tensor([[1.0, -2.0, 0.5]] * 20)


# --- predicting and learning


def test_prediction_has_no_dropout_and_no_gradients():
    shim = shim_with(net().train())
    found = shim.predict(INPUTS)
    assert torch.equal(found, shim.predict(INPUTS))
    assert torch.equal(found[0], found[1])
    assert not found.requires_grad


def test_training_has_both():
    shim = shim_with(net())
    shim.predict(INPUTS)
    found, _ = shim.begin_update(INPUTS)
    assert len(found.unique(dim=0)) > 1
    assert found.requires_grad


def test_training_has_gradients_inside_a_block_without():
    with torch.no_grad():
        found, _ = shim_with(net()).begin_update(INPUTS)
    assert found.requires_grad


def test_the_callback_adds_the_gradient_of_the_output_to_the_weights():
    module = nn.Linear(2, 1)
    shim = shim_with(module)
    for row, gradient in (([1.0, 2.0], 1.0), ([3.0, -1.0], 0.5)):
        _, backward = shim.begin_update(torch.tensor([row]))
        backward(torch.tensor([[gradient]]))
    assert module.weight.grad.tolist() == [[2.5, 1.5]]
    assert module.bias.grad.tolist() == [1.5]


def test_the_tensor_to_go_back_from_is_found_in_the_output():
    class Named(nn.Linear):
        def forward(self, inputs):
            return {"hidden": super().forward(inputs), "other": inputs}

    module = Named(2, 1)
    output, backward = shim_with(module, backward_from=lambda output: output["hidden"]).begin_update(torch.ones(1, 2))
    assert set(output) == {"hidden", "other"}
    backward(torch.tensor([[2.0]]))
    assert module.weight.grad.tolist() == [[2.0, 2.0]]


def test_calling_it_predicts_or_learns():
    module = nn.Linear(2, 1)
    shim = shim_with(module)
    predicted, backward = shim(torch.ones(1, 2), is_train=False)
    backward(torch.ones(1, 1))
    assert module.weight.grad is None
    learned, backward = shim(torch.ones(1, 2), is_train=True)
    backward(torch.ones(1, 1))
    assert module.weight.grad.tolist() == [[1.0, 1.0]]
    assert torch.equal(learned, predicted)


def test_a_module_none_of_whose_weights_requires_a_gradient_can_be_taken_backwards():
    module = net().requires_grad_(False)
    shim = shim_with(module)
    output, backward = shim.begin_update(INPUTS)
    backward(torch.ones_like(output))
    shim.finish_update(Optimizer(0.1, **PLAIN))
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_frozen_module_runs_as_in_prediction():
    module = net()
    shim = TorchShim()
    shim.tuning = FrozenTuning()
    shim.module = module
    output, backward = shim.begin_update(INPUTS)
    assert torch.equal(output, shim.predict(INPUTS))
    backward(torch.ones_like(output))
    shim.count(20)
    shim.finish_update(Optimizer(0.1, **PLAIN))
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(map(torch.equal, module.parameters(), net().parameters()))


# --- steps


def test_a_step_is_that_of_the_module_optimizer_with_the_settings_of_thincs():
    shim, twin = shim_with(nn.Linear(2, 1), rate_factor=0.5), nn.Linear(2, 1)
    twin.load_state_dict(shim.module.state_dict())
    stepper = ModuleOptimizer(twin, rate_factor=0.5)
    optimizer = Optimizer(0.1, beta1=0.8, beta2=0.9, eps=1e-3, **PLAIN)
    for row in ([1.0, 2.0], [3.0, -1.0]):
        inputs = torch.tensor([row])
        output, backward = shim.begin_update(inputs)
        backward(torch.ones_like(output))
        shim.count(2)
        shim.finish_update(optimizer)
        twin(inputs).sum().backward()
        stepper.count(2)
        stepper.step(StepSettings(0.1, 0.1, (0.8, 0.9), 1e-3, 0.5))
    assert all(map(torch.equal, shim.module.parameters(), twin.parameters()))


def test_without_a_module_there_is_nothing_to_step_to_count_or_to_save():
    shim = TorchShim()
    shim.count(3)
    shim.finish_update(Optimizer(0.1, **PLAIN))
    shim.to_device("cpu", 0)
    shim.load_training_state({})
    assert shim.training_state() == {}
    assert shim.from_bytes(shim.to_bytes()).module is None
    assert shim.copy().module is None


def test_another_module_starts_with_a_fresh_optimizer():
    shim = shim_with(net())
    first = shim.optimizer
    shim.module = net()
    assert shim.optimizer is not first
    assert shim.optimizer.module is shim.module
    shim.module = None
    assert shim.optimizer is None


def test_settings_are_read_as_they_are_now():
    optimizer = Optimizer((rate for rate in (0.3, 0.2, 0.1)), beta1=0.8, beta2=0.95, eps=1e-6, **PLAIN)
    optimizer.step_schedules()
    first = read_settings(optimizer)
    optimizer.step_schedules()
    assert first == StepSettings(learn_rate=first.learn_rate, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6, clip=0.5)
    assert read_settings(optimizer).learn_rate < first.learn_rate


@pytest.mark.parametrize(
    ("changes", "problem", "fix"),
    [
        ({"use_radam": True}, "is RAdam", "use_radam = false"),
        ({"L2_is_weight_decay": False}, "adds L2 to the gradients", "L2_is_weight_decay = true"),
        ({"beta1": 0.0, "beta2": 0.0}, "is plain SGD", "Adam.v1"),
    ],
)
def test_what_cant_be_honoured_is_refused_with_the_fix(changes, problem, fix):
    with pytest.raises(ConfigError, match=rf"optimizer {problem}.*Set .*{fix}.*\[training\.optimizer\]"):
        read_settings(Optimizer(0.1, **(PLAIN | changes)))


def test_no_l2_needs_no_weight_decay():
    assert read_settings(Optimizer(0.1, **(PLAIN | {"L2": 0.0, "L2_is_weight_decay": False}))).weight_decay == 0.0


def test_thincs_default_adam_is_honoured():
    assert read_settings(Adam(0.001, use_averages=False)).betas == (0.9, 0.999)


def test_averages_are_kept_where_the_optimizer_keeps_them():
    assert read_settings(Adam(0.001, use_averages=True)).averages
    assert not read_settings(Adam(0.001, use_averages=False)).averages


def test_no_optimizer_of_thincs_is_refused():
    with pytest.raises(ConfigError, match=r"is a AdamW; expected a thinc\.api\.Optimizer"):
        read_settings(torch.optim.AdamW(net().parameters()))


# --- inside a Model


def test_a_model_predicts_learns_and_steps_by_its_shim():
    model = wrap("net", shim_with(net()), {"kind": "small"})
    before = copy.deepcopy(shim_of(model).module.state_dict())
    assert model.attrs["kind"] == "small"
    assert torch.equal(model.predict(INPUTS), shim_of(model).predict(INPUTS))
    output, backward = model.begin_update(INPUTS)
    backward(torch.ones_like(output))
    model.finish_update(Optimizer(0.1, **PLAIN))
    assert not any(value.equal(before[key]) for key, value in shim_of(model).module.state_dict().items())


def test_a_list_of_docs_is_turned_into_inputs_where_the_shim_knows_how():
    shim = shim_with(nn.Linear(1, 1))
    shim.of_docs = lambda docs: torch.tensor([[float(len(doc))] for doc in docs])
    model = wrap("net", shim)
    assert torch.equal(model.predict(["a", "bcd"]), model.predict(torch.tensor([[1.0], [3.0]])))


# --- averages


def learn(model, optimizer, steps=3):
    for _ in range(steps):
        output, backward = model.begin_update(INPUTS)
        backward(torch.ones_like(output))
        model.finish_update(optimizer)


@pytest.fixture
def averaged():
    """A model, and thinc's optimizer after a few steps with averages."""
    model, optimizer = wrap("net", shim_with(net())), Optimizer(0.1, **(PLAIN | {"use_averages": True}))
    learn(model, optimizer)
    return model, optimizer


def test_a_model_predicts_with_its_averages_and_goes_on_without(averaged):
    model, optimizer = averaged
    assert set(optimizer.averages) == {(shim_of(model).id, "averages")}
    trained = copy.deepcopy(shim_of(model).module.state_dict())
    before = model.predict(INPUTS)
    with model.use_params(optimizer.averages):
        assert shim_of(model).averaged
        assert not torch.equal(model.predict(INPUTS), before)
        assert not any(map(torch.equal, shim_of(model).module.state_dict().values(), trained.values()))
    assert not shim_of(model).averaged
    assert torch.equal(model.predict(INPUTS), before)
    assert all(map(torch.equal, shim_of(model).module.state_dict().values(), trained.values()))


def test_a_step_that_is_due_is_taken_before_the_averages_are_used(averaged):
    model, optimizer = averaged
    due = [1]
    shim_of(model).settle = lambda: due and learn(model, optimizer, steps=due.pop())
    with model.use_params(optimizer.averages):
        assert shim_of(model).optimizer.steps == 4


def test_training_inside_goes_on_from_the_trained_weights(averaged):
    """As after an exception in an evaluation, while its traceback keeps spaCy's generators alive."""
    model, optimizer = averaged
    twin, other = wrap("net", shim_with(net())), Optimizer(0.1, **(PLAIN | {"use_averages": True}))
    torch.manual_seed(0)
    shim_of(model).module.eval()
    learn(twin, other)
    shim_of(twin).load_training_state(shim_of(model).training_state())
    with model.use_params(optimizer.averages):
        torch.manual_seed(1)
        learn(model, optimizer)
    torch.manual_seed(1)
    learn(twin, other)
    assert same_weights(model.shims[0], twin.shims[0])


def test_weights_loaded_inside_stay(averaged):
    model, optimizer = averaged
    state, data = shim_of(model).training_state(), shim_of(shim_net := wrap("net", shim_with(net()))).to_bytes()
    state = {key: value.clone() for key, value in state.items()}
    with model.use_params(optimizer.averages):
        shim_of(model).from_bytes(data)
    assert same_weights(model.shims[0], shim_net.shims[0])
    learn(model, optimizer)
    with model.use_params(optimizer.averages):
        shim_of(model).load_training_state(state)
    assert all(torch.equal(value, state[key]) for key, value in shim_of(model).training_state().items())


def test_others_averages_are_not_used(averaged):
    _, optimizer = averaged
    other = wrap("net", shim_with(net()))
    before = other.predict(INPUTS)
    with other.use_params(optimizer.averages):
        assert torch.equal(other.predict(INPUTS), before)


def test_frozen_modules_and_those_that_are_not_there_have_no_averages():
    frozen = TorchShim()
    frozen.tuning = FrozenTuning()
    frozen.module = net()
    optimizer = Optimizer(0.1, **(PLAIN | {"use_averages": True}))
    for shim in (frozen, TorchShim()):
        shim.finish_update(optimizer)
        assert not shim.averaged
    assert optimizer.averages == {}


# --- copies, devices, bytes


def test_a_copy_has_weights_of_its_own_and_a_fresh_optimizer():
    shim = shim_with(net())
    output, backward = shim.begin_update(INPUTS)
    backward(torch.ones_like(output))
    shim.count(20)
    twin = shim.copy()
    assert same_weights(twin, shim)
    assert twin.optimizer.module is twin.module
    assert twin.optimizer.examples == 0
    shim.finish_update(Optimizer(0.1, **PLAIN))
    assert not same_weights(twin, shim)


@pytest.mark.parametrize("copied", [lambda model: model.copy(), copy.deepcopy])
def test_copies_of_a_model_keep_how_it_learns(copied):
    shim = TorchShim(rate_factor=0.25, backward_from=torch.nn.functional.relu)
    shim.tuning = FrozenTuning()
    shim.module = net()
    twin = shim_of(copied(wrap("net", shim)))
    assert same_weights(twin, shim)
    assert twin.module is not shim.module
    assert (twin.rate_factor, twin.tuning, twin.backward_from) == (0.25, FrozenTuning(), torch.nn.functional.relu)
    assert (twin.optimizer.rate_factor, twin.optimizer.tuning) == (0.25, FrozenTuning())


def test_bytes_give_back_the_weights():
    shim, other = shim_with(net()), shim_with(nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2)))
    assert not same_weights(other, shim)
    stepper = other.optimizer
    assert other.from_bytes(shim.to_bytes()) is other
    assert same_weights(other, shim)
    assert other.optimizer is not stepper


def test_bytes_take_weights_that_are_views_of_others():
    module = nn.Linear(3, 2, bias=False)
    module.weight = nn.Parameter(torch.arange(6.0).reshape(3, 2).T)
    shim, other = shim_with(module), shim_with(nn.Linear(3, 2, bias=False))
    assert torch.equal(other.from_bytes(shim.to_bytes()).module.weight, module.weight)


def test_bytes_of_another_module_are_an_error():
    with pytest.raises(RuntimeError, match="size mismatch"):
        shim_with(nn.Linear(3, 4)).from_bytes(shim_with(nn.Linear(3, 2)).to_bytes())


def test_it_moves_to_a_device_by_thincs_names():
    shim = shim_with(net())
    shim.to_device("meta", 0)
    assert {parameter.device.type for parameter in shim.module.parameters()} == {"meta"}
    assert shim.optimizer.module is shim.module


def test_a_shim_starts_with_all_weights_learning():
    assert TorchShim().tuning == FullTuning()
    assert TorchShim().rate_factor == 1.0


def test_an_error_in_a_step_names_the_component():
    shim = TorchShim(name="ner")
    shim.module = nn.Linear(2, 1)
    assert shim.optimizer.name == "ner"
    assert shim.copy().optimizer.name == "ner"


# --- rehearsal


class Collector:
    """What Language.rehearse passes in an optimizer's place."""

    learn_rate, b1, b2 = 0.25, 0.5, 0.75


def test_the_settings_that_a_collector_of_gradients_lacks_are_those_of_the_last_step():
    shim = shim_with(net())
    assert shim.settings_of(Collector()) == StepSettings(0.25, 0.01, (0.5, 0.75), 1e-8, 1.0)
    shim.finish_update(Adam(0.125, **PLAIN, eps=1e-3))
    assert shim.settings_of(Collector()) == StepSettings(0.25, 0.1, (0.5, 0.75), 1e-3, 0.5)


@pytest.mark.parametrize("change", ["begin_update", "load_training_state"])
def test_it_says_so_before_the_weights_can_change(change):
    shim = shim_with(net())
    seen = []
    shim.before_change = lambda: seen.append(shim.module[0].weight.clone())
    before = shim.module[0].weight.clone()
    shim.predict(INPUTS)
    assert not seen
    if change == "begin_update":
        shim.begin_update(INPUTS)
    else:
        shim.load_training_state({key: value + 1 for key, value in shim.training_state().items()})
    assert len(seen) == 1
    assert seen[0].equal(before)


def test_a_frozen_module_never_changes():
    shim = TorchShim()
    shim.tuning = FrozenTuning()
    shim.module = net()
    shim.before_change = lambda: pytest.fail("nothing is trained")
    shim.begin_update(INPUTS)


def test_a_deep_copy_leaves_out_what_belongs_to_the_component():
    shim = shim_with(net())
    shim.of_docs = shim.before_change = shim.settle = pytest.fail
    twin = copy.deepcopy(shim)
    assert same_weights(shim, twin)
    assert twin.module is not shim.module
    assert twin.of_docs is None
    twin.settle()
    twin.before_change()
