"""What a component checks and sets in a pipeline's config when `spacy train` initialises it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from spacy.language import Language
from spacy.training import Example
from spacy.util import registry, resolve_dot_names
from thinc.api import Config

from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.schedules import WARMUP_DECAY


def plan_run(
    nlp: Language | None, pipe: Any = None, get_examples: Callable[[], Iterable[Example]] | None = None
) -> None:
    """Tell a `warmup_decay` learning rate how long the run is; warn of another schedule that ends early.

    spaCy reads the schedule from nlp.config again after initialisation. pipe: does nothing unless it is the first of
    our components; None: an encoder in frozen_components, which spaCy does not initialise. get_examples: the training
    examples; None: those of the config.
    """
    if nlp is None:
        return
    _check_processes()
    ours = (component for _, component in nlp.pipeline if hasattr(component, "load_training_state"))
    training = nlp.config["training"]
    rate = training.get("optimizer", {}).get("learn_rate")
    if (pipe is not None and next(ours, None) is not pipe) or not isinstance(rate, dict):
        return
    config = nlp.config.interpolate()
    values = config["training"]
    if rate.get("@schedules") == WARMUP_DECAY:
        limits = {key: values.get(key) or 0 for key in ("max_steps", "max_epochs")}
        if pipe is None and limits.items() <= rate.items() and (rate["steps_per_epoch"] or not rate["max_epochs"]):
            return  # a component that was initialised has done it
        rate.update(limits, steps_per_epoch=None)
        if rate["max_epochs"] > 0:
            batcher = registry.resolve({"batcher": values["batcher"]})["batcher"]
            examples = get_examples() if get_examples else _corpus(nlp, config)
            every = list(examples)
            # Epoch by epoch, since the sizes of batches may grow throughout the run.
            n_steps = sum(1 for _ in range(rate["max_epochs"]) for _ in batcher(every))
            rate["steps_per_epoch"] = -(-n_steps // rate["max_epochs"])
    _warn(values)


def _check_processes() -> None:
    """Raise a ConfigError if torchrun started several processes and each is about to train by itself."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count < 2:
        return
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise ConfigError(
            f"Found {count} processes (WORLD_SIZE, set by torchrun), each of which would train by itself and write to "
            "the same folder. Expected a command that shares the work: torchrun … -m spacy_bertft train CONFIG …, or "
            "bertft train CONFIG … --processes 2."
        )


def _corpus(nlp: Language, config: Config) -> Iterable[Example]:
    (corpus,) = resolve_dot_names(config, [config["training"]["train_corpus"]])
    examples: Iterable[Example] = corpus(nlp)
    return examples


def _warn(training: dict[str, Any]) -> None:
    rate, max_steps = training["optimizer"]["learn_rate"], training.get("max_steps") or 0
    if rate.get("@schedules") != "warmup_linear.v1":
        return
    total = rate.get("total_steps", 0)
    if total < max_steps or (max_steps == 0 and training.get("max_epochs") == 0):
        warnings.warn(
            f"The learning rate is 0 from step {total} on (total_steps of warmup_linear.v1), but training continues to "
            f"step {max_steps or 'infinity'} ([training] max_steps). Expected both to be the same: set total_steps, or "
            "use @schedules = spacy-bertft.warmup_decay.v1, which reads the length of the run.",
            stacklevel=2,
        )


def check_name(nlp: Language, pipe: Any) -> None:
    """Reject a `name` among an encoder component's settings, which spaCy would ignore with only a warning."""
    own = next((name for name, component in nlp.components if component is pipe), None)
    found = None if own is None else nlp.get_pipe_config(own).get("name")
    if found is not None:
        raise ConfigError(
            f"Found name = {found!r} in [components.{own}]. Expected the name of an encoder to load in "
            f"[components.{own}.model]. On the command line: --components.{own}.model.name {found}"
        )
