"""Gradients of a pipeline, summed over the processes that share its batches."""

from __future__ import annotations

from typing import Any

import torch
from spacy.language import Language
from thinc.api import Model
from torch import Tensor

from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.jobs.processes import Processes
from spacy_bertft.jobs.training.pipeline_state import shims_of, trained_components
from spacy_bertft.learning.optimizer import ModuleOptimizer


def add_up_gradients(nlp: Language, frozen: list[str], processes: Processes) -> None:
    """Give each process the gradients of the whole batch, just before the step.

    Our losses and spaCy's are sums over a batch, so the sum over its parts is that of the batch.
    """
    components = trained_components(nlp, frozen)
    for pipe in components.values():
        if isinstance(pipe, EncoderPipe):
            pipe.settle()
    for pipe in components.values():
        for _, shim in shims_of(pipe.model):
            if shim.optimizer is not None:
                _add_up_module(shim.optimizer, processes)
                shim.tally.share(processes.sum_of)  # for loggers: only the first process has one
        _add_up_thinc(pipe.model, processes)


def _add_up_module(optimizer: ModuleOptimizer, processes: Processes) -> None:
    """Of a torch module. The number of examples counts for all processes from now on.

    A process whose part of the batch is empty takes the learning rate from the others: a head reads its factor from the
    features of its texts.
    """
    optimizer.collect()
    processes.add_up_gradients([parameter for group in optimizer.groups for parameter in group.parameters])
    learns = float(optimizer.examples > 0)
    total, factors, learning = processes.sum_of([optimizer.examples, learns * optimizer.rate_factor, learns])
    if learning:
        optimizer.rate_factor = factors / learning
    optimizer.examples_seen += int(total) - optimizer.examples
    optimizer.examples = int(total)


def _add_up_thinc(model: Model[Any, Any], processes: Processes) -> None:
    """Of a model of thinc's."""
    places = [(node, name) for node in model.walk() for name in node.param_names if node.has_param(name)]
    gradients = [_tensor(node.get_grad(name)) if node.has_grad(name) else None for node, name in places]
    like = [_tensor(node.get_param(name)) for node, name in places]
    for (node, name), gradient in zip(places, processes.add_up(gradients, like), strict=True):
        if gradient is not None:
            node.set_grad(name, node.ops.asarray(gradient.cpu().numpy()))  # type: ignore[arg-type]


def _tensor(array: Any) -> Tensor:
    """A copy of an array of thinc's, from a GPU too."""
    return torch.tensor(array.get() if hasattr(array, "get") else array)
