"""Everything needed to resume a training run, as tensors by name: weights, AdamW's moments, averages, random states.

On the same machine, a resumed run takes the same steps, bit for bit, as one that was never stopped.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from spacy_bertft.learning.optimizer import ModuleOptimizer

TensorsByName = dict[str, Tensor]
_COUNTERS = ("examples", "steps", "examples_seen")  # of a ModuleOptimizer


@runtime_checkable
class Resumable(Protocol):
    """Can save and restore its training state: every trainable component of this package."""

    def training_state(self) -> TensorsByName:
        """The state after the last update. Tensors may be the component's own: write them before training continues."""

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore such a state. Raises a KeyError or ValueError if it is another component's."""


def module_state(module: nn.Module, optimizer: ModuleOptimizer) -> TensorsByName:
    """Weights, moments, averages, and gradients that wait for a step."""
    optimizer.groups  # noqa: B018  # a tuning may add parameters
    optimizer.collect()
    state: TensorsByName = {name: torch.tensor(getattr(optimizer, name)) for name in _COUNTERS}
    if optimizer.examples_per_epoch is not None:
        state["examples_per_epoch"] = torch.tensor(optimizer.examples_per_epoch)
    averages = optimizer.averages
    for name, parameter in _own_parameters(module):
        state[f"weights/{name}"] = averages.trained(parameter).contiguous()
        if parameter.grad is not None:
            state[f"gradient/{name}"] = parameter.grad.contiguous()
        for slot, value in optimizer.moments(parameter).items():
            state[f"optimizer/{slot}/{name}"] = value.detach().contiguous()
        if parameter in averages.values:
            state[f"average/{name}"] = averages.values[parameter].contiguous()
            state[f"averaged/{name}"] = torch.tensor(averages.counts[parameter])
    return state


def _own_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters of a module, without weights that it shares with other modules: those stay as they are."""
    shares = getattr(module, "shared", None) is not None
    return [(name, one) for name, one in module.named_parameters() if one.requires_grad or not shares]


def load_module_state(state: Mapping[str, Tensor], module: nn.Module, optimizer: ModuleOptimizer) -> None:
    """Restore a result of `module_state`. Raises a KeyError or ValueError if it is another module's."""
    optimizer.groups  # noqa: B018  # a tuning may add parameters
    parameters = dict(_own_parameters(module))
    for name, parameter in parameters.items():  # copy_ would broadcast a smaller tensor
        found, expected = tuple(state[f"weights/{name}"].shape), tuple(parameter.shape)
        if found != expected:
            raise ValueError(f"the state's {name} has the shape {found}; expected {expected}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[f"weights/{name}"])
            gradient = state.get(f"gradient/{name}")
            parameter.grad = None if gradient is None else gradient.to(parameter.device, copy=True)
            if f"average/{name}" in state:
                optimizer.averages.values[parameter] = state[f"average/{name}"].to(parameter.device, copy=True)
                optimizer.averages.counts[parameter] = int(state[f"averaged/{name}"])
    for key, tensor in state.items():
        if key.startswith("optimizer/"):
            _, slot, name = key.split("/", 2)
            parameter = parameters[name]
            # AdamW counts its steps on the CPU.
            value = tensor.clone() if slot == "step" else tensor.to(parameter.device, copy=True)
            optimizer.adamw.state.setdefault(parameter, {})[slot] = value
    for name in _COUNTERS:
        setattr(optimizer, name, int(state[name]) if name in state else 0)
    if "examples_per_epoch" in state:
        optimizer.examples_per_epoch = int(state["examples_per_epoch"])


def random_state() -> TensorsByName:
    """The states of the generators that training draws from: PyTorch's, NumPy's and Python's."""
    numpy = np.random.get_state(legacy=False)
    version, words, next_gauss = random.getstate()
    state = {
        "random/torch": torch.get_rng_state(),
        "random/numpy": torch.tensor([*numpy["state"]["key"].tolist(), numpy["state"]["pos"], numpy["has_gauss"]]),
        "random/numpy_gauss": torch.tensor(numpy["gauss"], dtype=torch.float64),
        "random/python": torch.tensor([version, *words]),
        "random/python_gauss": torch.tensor([] if next_gauss is None else [next_gauss], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        state["random/cuda"] = torch.cuda.get_rng_state()
    return state


def load_random_state(state: Mapping[str, Tensor]) -> None:
    """Restore a result of `random_state`; generators that it lacks keep their state."""
    torch.set_rng_state(state["random/torch"])
    if "random/cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["random/cuda"])
    if "random/numpy" in state:
        *keys, place, has_gauss = state["random/numpy"].tolist()
        gauss = float(state["random/numpy_gauss"])
        np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), place, has_gauss, gauss))
    if "random/python" in state:
        version, *words = state["random/python"].tolist()
        gauss_next = state["random/python_gauss"].tolist()
        random.setstate((version, tuple(words), gauss_next[0] if gauss_next else None))
