"""The training state of a whole pipeline: our components, spaCy's own, and the optimizer of the training loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from spacy.language import Language
from thinc.api import Model, Optimizer, get_current_ops
from torch import Tensor

from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.learning.shim import TorchShim
from spacy_bertft.learning.state import Resumable, TensorsByName

_MOMENTS = ("mom1", "mom2", "averages")  # of thinc's optimizer: arrays by the key of a parameter
_COUNTS = ("nr_update", "last_seen")


def trained_components(nlp: Language, frozen: list[str]) -> dict[str, Any]:
    """The components that training changes, by name. Raises a ConfigError if the state of one can't be saved."""
    found = {}
    for name, pipe in nlp.pipeline:
        model = getattr(pipe, "model", None)
        if name in frozen or not getattr(pipe, "is_trainable", False) or not isinstance(model, Model):
            continue
        if not isinstance(pipe, Resumable):
            others = [shim for _, node in _nodes(model) for shim in node.shims if not isinstance(shim, TorchShim)]
            if others:
                raise ConfigError(
                    f"The optimizer of the component {name!r}, a {type(others[0]).__name__}, can't be saved. Expected "
                    "components of spaCy's or of this package. Train in one process, without checkpoints "
                    "(--no-checkpoints)."
                )
        if any(not isinstance(shim, TorchShim) or shim.tuning.learns for shim in model.shims) or not model.shims:
            found[name] = pipe
    return found


def pipeline_state(nlp: Language, optimizer: Optimizer, frozen: list[str]) -> TensorsByName:
    """Weights and optimizer state of all components that are trained."""
    state: TensorsByName = {}
    for name, pipe in trained_components(nlp, frozen).items():
        for key, tensor in _component_state(pipe, optimizer).items():
            state[f"component/{name}/{key}"] = tensor
    return state


def load_pipeline_state(state: Mapping[str, Tensor], nlp: Language, optimizer: Optimizer, frozen: list[str]) -> None:
    """Restore a result of `pipeline_state` into a pipeline that was initialised in the same way.

    Raises a DataError if it is another pipeline's.
    """
    for name, pipe in trained_components(nlp, frozen).items():
        try:
            _load_component(_inside(f"component/{name}/", state), pipe, optimizer)
        except (KeyError, ValueError, IndexError) as error:
            raise DataError(
                f"The checkpoint does not fit the component {name!r}: {error}. Expected a checkpoint of this pipeline, "
                "initialised with the same data. Start anew without --resume."
            ) from error


def _component_state(pipe: Any, optimizer: Optimizer) -> TensorsByName:
    if isinstance(pipe, Resumable):
        return pipe.training_state()
    content: bytes = pipe.model.to_bytes()
    state = {"model": torch.frombuffer(bytearray(content), dtype=torch.uint8)}
    for name, shim in shims_of(pipe.model):
        state.update({f"{name}{key}": tensor for key, tensor in shim.training_state().items()})
    for place, node in _nodes(pipe.model):
        for param in node.param_names:
            for slot, value in _of_parameter(optimizer, (node.id, param)).items():
                state[f"thinc/{place}/{param}/{slot}"] = value
    return state


def _load_component(state: TensorsByName, pipe: Any, optimizer: Optimizer) -> None:
    if isinstance(pipe, Resumable):
        pipe.load_training_state(state)
        return
    pipe.model.from_bytes(state["model"].numpy().tobytes())
    for name, shim in shims_of(pipe.model):
        shim.load_training_state(_inside(name, state))
    nodes, array = dict(_nodes(pipe.model)), get_current_ops().xp.array
    for key, tensor in _inside("thinc/", state).items():
        place, param, slot = key.split("/", 2)
        value = int(tensor) if slot in _COUNTS else array(tensor.numpy())
        getattr(optimizer, slot)[nodes[int(place)].id, param] = value


def _inside(prefix: str, state: Mapping[str, Tensor]) -> TensorsByName:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def shims_of(model: Model[Any, Any]) -> Iterator[tuple[str, TorchShim]]:
    """Our torch modules inside a model of spaCy's, with a prefix for their state."""
    for place, node in _nodes(model):
        for number, shim in enumerate(node.shims):
            if isinstance(shim, TorchShim):
                yield f"shim/{place}.{number}/", shim


def _nodes(model: Model[Any, Any]) -> Iterator[tuple[int, Model[Any, Any]]]:
    """All layers with their places, which are the same in every process; their ids are not."""
    return enumerate(model.walk())


def _of_parameter(optimizer: Optimizer, key: tuple[int, str]) -> dict[str, Tensor]:
    """What thinc's optimizer holds for a parameter."""
    found: dict[str, Tensor] = {}
    for slot in _MOMENTS:
        values = getattr(optimizer, slot)
        if values is not None and key in values:
            found[slot] = torch.from_numpy(np.ascontiguousarray(_on_cpu(values[key])))
    for slot in _COUNTS:
        if key in getattr(optimizer, slot):
            found[slot] = torch.tensor(getattr(optimizer, slot)[key])
    return found


def _on_cpu(array: Any) -> Any:
    return array.get() if hasattr(array, "get") else array  # cupy
