"""Chooses the engine for the next forward pass. Only this module knows all engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor, nn

from spacy_bertft import compat
from spacy_bertft.engines.base import LayeredEngine, Precision
from spacy_bertft.engines.family_dropouts import read_dropouts
from spacy_bertft.engines.family_weights import read_net
from spacy_bertft.engines.fused import FusedEngine
from spacy_bertft.engines.fused_training import FusedTrainingEngine
from spacy_bertft.engines.low_rank import SharedWeights, Updates
from spacy_bertft.engines.net import Shape
from spacy_bertft.engines.transformers import TransformersEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EngineName = Literal["fused", "fused_training", "transformers"]


class Runnable(Protocol):
    """What engines need to know about an encoder. Its weights are float32, and named as AutoModel names them."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    @property
    def shape(self) -> Shape | None:
        """Its sizes; None for a family that our own engines don't support."""

    @property
    def loaded(self) -> PreTrainedModel | None:
        """transformers' model, or None if it has not been built yet."""

    @property
    def model(self) -> PreTrainedModel:
        """transformers' model, built on first use."""

    @property
    def packed(self) -> bool:
        """Whether transformers' model takes windows side by side, without padding."""

    @property
    def first_position(self) -> int:
        """The position of a window's first subword."""

    def weights(self) -> Mapping[str, Tensor]:
        """The current weights."""

    @property
    def updates(self) -> Updates:
        """The current low-rank updates of `shared`."""

    @property
    def shared(self) -> SharedWeights | None:
        """The weights that it shares with other encoders."""


def candidates(device: torch.device, *, padded: bool, learning: bool) -> tuple[EngineName, ...]:
    """The engines that may run, best first. padded: the user has chosen padding."""
    if device.type != "cpu" or padded:
        return ("transformers",)
    return ("fused_training" if learning else "fused", "transformers")


def uses_half(precision: Precision, device: torch.device, *, fused: bool) -> bool:
    """Whether to run in bfloat16; "auto" does so where the device has it, but on a CPU in our own engines alone.

    fused: by one of them. In transformers' model, autocast on a CPU leaves the sums between layers in bfloat16 too:
    that is for those who ask for it.
    """
    if precision != "auto":
        return precision == "bfloat16"
    return compat.has_bfloat16(device) and (fused or device.type != "cpu")


def version_of(model: nn.Module | None) -> tuple[tuple[int, int], ...]:
    """A value that changes with the weights; each in-place change increments a tensor's version."""
    return () if model is None else tuple((weight.data_ptr(), weight._version) for weight in model.parameters())


class Engines:
    """Chooses the engine of one encoder. What it predicts with is kept until the weights or the engine change."""

    def __init__(self, *, precision: Precision, padded: bool) -> None:
        self.precision: Precision = precision
        self.padded = padded
        self._kept: tuple[object, LayeredEngine] | None = None  # state of the weights, and the engine with them

    def fresh(self) -> Engines:
        """A copy without an engine, for a copy of the encoder: weights in oneDNN's layout can't be copied."""
        return Engines(precision=self.precision, padded=self.padded)

    def choose(self, encoder: Runnable, *, learning: bool) -> LayeredEngine:
        """The engine for the next forward pass."""
        half = uses_half(self.precision, encoder.device, fused=True)
        for name in candidates(encoder.device, padded=self.padded, learning=learning):
            if name == "transformers":
                break
            if name == "fused_training":
                self._kept, engine = None, _make_fused_training(encoder, half=half)
            else:
                engine = self._fused(encoder, half=half)
            if engine is not None:
                return engine
        self._kept = None
        half = uses_half(self.precision, encoder.device, fused=False)
        return TransformersEngine(
            encoder.model, padded=not encoder.packed, half=half, first_position=encoder.first_position
        )

    def _fused(self, encoder: Runnable, *, half: bool) -> LayeredEngine | None:
        state = version_of(encoder.loaded)  # the model may have been trained since
        if self._kept is None or self._kept[0] != state:
            self._kept = None  # free the old engine before building the new one
            engine = _make_fused(encoder, half=half)
            if engine is None:
                return None
            self._kept = state, engine
        return self._kept[1]


def _make_fused(encoder: Runnable, *, half: bool) -> LayeredEngine | None:
    if encoder.shape is None:
        return None
    shared = encoder.shared
    if shared is None:
        net = read_net(encoder.shape, encoder.weights())
        return None if net is None else FusedEngine(net, half=half)
    if half not in shared.engines:
        net = read_net(encoder.shape, shared)
        if net is None:
            return None
        shared.engines[half] = FusedEngine(net, half=half)
    return shared.engines[half].adapted(encoder.updates)


def _make_fused_training(encoder: Runnable, *, half: bool) -> LayeredEngine | None:
    shape, model = encoder.shape, encoder.model
    if shape is None or compat.checkpoints_activations(model):
        return None
    dropouts = read_dropouts(shape, model)
    net = read_net(shape, dict(model.named_parameters()))  # None for LoRA's maps, which are modules of their own
    if net is None or dropouts is None:
        return None
    words: nn.Embedding = model.get_input_embeddings()  # type: ignore[assignment]
    return FusedTrainingEngine(net, words, dropouts, half=half)
