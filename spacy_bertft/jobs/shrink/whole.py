"""Whole checkpoints, with the heads that they were saved with."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from spacy_bertft import compat
from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.encoder.checkpoint import Checkpoint
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.folders import find_folder
from spacy_bertft.encoder.loading import load
from spacy_bertft.encoder.masked_lm import MaskedModel
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.encoder.weights_check import may_be_left
from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.shrink.checkpoints import untied


def of_pipe(pipe: EncoderPipe) -> Checkpoint:
    """The checkpoint of an encoder component. Raises a ConfigError if others have its weights, or it has none."""
    encoder = pipe.encoder
    if not encoder.trainable:
        raise ConfigError(
            f"The encoder {pipe.name!r} was exported for ONNX Runtime, whose graph can't be cut. Expected the trained "
            'pipeline, whose encoders have backend = "torch": shrink that one and export it again.'
        )
    if encoder.shared is not None:
        adapter = encoder.checkpoint.adapter
        name = "" if adapter is None else adapter.name
        raise ConfigError(
            f"The encoder {pipe.name!r} is an adapter for {name!r}, whose weights and vocabulary it was trained with. "
            'Expected an encoder with weights of its own. Train with save = "merged" in its LoraTuning, or shrink '
            f"{name!r} and train an adapter for the result."
        )
    checkpoint: Checkpoint = encoder.at_rest()
    return checkpoint


def of_masked(model: MaskedModel) -> Checkpoint:
    """The checkpoint of a masked language model with its head."""
    return _with_weights(model.encoder.checkpoint, model.model)


def load_whole(name: str, *, revision: str = "main") -> tuple[Encoder, Checkpoint]:
    """Load an encoder by its name in a config, and its checkpoint with the head that it was saved with, if any."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder = load(name, EncoderSettings(device="cpu"), revision=revision)
    if not encoder.trainable:
        raise ConfigError(f"The encoder {name!r} is a graph for ONNX Runtime. Expected its weights. Name those.")
    bare = encoder.at_rest()
    model = _with_head(name, bare, revision)
    for one in caught:
        if model is None or " is a fine-tuned " not in str(one.message):  # which says that the head is not used
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return encoder, bare if model is None else _with_weights(bare, model)


def _with_head(name: str, bare: Checkpoint, revision: str) -> nn.Module | None:
    """transformers' model of the class that config.json names; None if that has no head, or lacks its weights."""
    import transformers

    named = bare.config.get("architectures") or [""]
    kind: Any = getattr(transformers, str(named[0]), None)
    if kind is None or "For" not in str(named[0]):
        return None
    folder = find_folder(name)
    where: dict[str, Any] = {"revision": revision} if folder is None else {"local_files_only": True}
    with compat.quiet_transformers():
        model, report = kind.from_pretrained(
            name if folder is None else str(folder),
            output_loading_info=True,
            **compat.dtype_argument(torch.float32),
            **where,
        )
    found: nn.Module = model
    return None if any(not may_be_left(missing) for missing in report["missing_keys"]) else found


def _with_weights(bare: Checkpoint, model: nn.Module) -> Checkpoint:
    return replace(bare, weights=untied(model.state_dict()))
