"""The thinc Model around an encoder: `spacy-bertft.Encoder.v1`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacy.util import registry
from thinc.api import Model, Optimizer

from spacy_bertft import files
from spacy_bertft.components.doc_texts import texts_of
from spacy_bertft.encoder.checkpoint import n_layer_parameters
from spacy_bertft.encoder.exported import load_exported, load_named_export
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.encoder.text_encoder import TextEncoder
from spacy_bertft.errors import ConfigError, need_torch
from spacy_bertft.learning.rates import too_high
from spacy_bertft.learning.shim import TorchShim, shim_of, wrap
from spacy_bertft.learning.step_settings import StepSettings
from spacy_bertft.learning.tuning import Tuning, saves_adapter
from spacy_bertft.signatures import with_settings
from spacy_bertft.types import Features

if TYPE_CHECKING:
    from torch import Tensor

_logger = logging.getLogger("spacy")


@registry.architectures("spacy-bertft.Encoder.v1")
@with_settings(EncoderSettings)
def build_encoder(name: str, revision: str = "main", **settings: Any) -> Model[Any, Any]:
    """Build an encoder of Hugging Face's BERT family. Its weights are loaded at initialisation, or with the pipeline.

    name: a hub name ("bert-base-cased"), a local folder, or package/folder of an installed package.
    revision: branch, tag or commit on the hub.
    settings: see EncoderSettings.
    """
    return encoder_model({"name": name, "revision": revision, "settings": EncoderSettings(**settings)})


def _hidden(features: Features) -> Tensor:
    hidden: Tensor = features.hidden
    return hidden


class EncoderShim(TorchShim):
    """A shim that saves its encoder as the files of a Hugging Face folder, for models that contain an encoder."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__(backward_from=_hidden)
        self.of_docs = texts_of
        self.settings = settings
        self._rate_checked = False

    def copy(self) -> EncoderShim:
        """Copy the shim with its weights; the optimizer is new."""
        twin = EncoderShim(self.settings)
        twin.rate_factor, twin.tuning = self.rate_factor, self.tuning
        twin.name, twin.examples_per_epoch = self.name, self.examples_per_epoch
        twin.module = self.copied_module()
        return twin

    def n_parameters(self) -> int:
        """The number of all weights; for a frozen encoder, transformers' model is not built."""
        return sum(one.numel() for one in self._weights().values())

    def _weights(self) -> Mapping[str, Tensor]:
        """Those of an encoder that can be trained."""
        encoder: Any = self.module
        return encoder.weights() if encoder is not None and encoder.trainable else {}

    def predict(self, inputs: Any) -> Features:
        """Encode texts, without dropout and without gradients."""
        encoder: Any = self.module
        features: Features = encoder.predict(inputs)
        return features

    def begin_update(self, inputs: Any) -> tuple[Any, Callable[[Tensor], None]]:
        """Encode texts for training. Raises a ConfigError for an encoder that can't be trained."""
        encoder: Any = self.module
        if self.tuning.learns:
            encoder.model  # noqa: B018
        return super().begin_update(inputs)

    def settings_of(self, optimizer: Any) -> StepSettings:
        """Read the settings of a step; before the first, warn of a constant learning rate that is far too high."""
        settings = super().settings_of(optimizer)
        if not self._rate_checked and self.tuning.learns and isinstance(optimizer, Optimizer):
            self._rate_checked = True
            constant = "learn_rate" not in optimizer.schedules
            rate = settings.learn_rate * self.rate_factor
            size = n_layer_parameters(self._weights())
            said = too_high(rate, parameters=size, name=self.name) if constant and size else None
            if said:
                _logger.warning(said)
        return settings

    def to_bytes(self) -> bytes:
        """The files as bytes, empty if there is no encoder yet."""
        encoder: Any = self.module
        return b"" if encoder is None else files.to_bytes(encoder.save)

    def from_bytes(self, data: bytes) -> EncoderShim:
        """Load the result of to_bytes."""
        if data:
            self.module = files.from_bytes(data, lambda folder: _load_whole(folder, self.settings))
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_shim, (self.settings, self.rate_factor, self.tuning, self.to_bytes())


def _rebuild_shim(settings: EncoderSettings, rate_factor: float, tuning: Tuning, content: bytes) -> EncoderShim:
    shim = EncoderShim(settings)
    shim.rate_factor, shim.tuning = rate_factor, tuning
    return shim.from_bytes(content)


def encoder_model(attrs: dict[str, Any]) -> Model[Any, Any]:
    """A Model for an encoder that is loaded later. attrs: name, revision, settings."""
    replacing = {"replace_listener": _replace_listener, "replace_listener_cfg": _replace_listener_cfg}
    return wrap("bertft-encoder", EncoderShim(attrs["settings"]), {**attrs, **replacing})


# nlp.replace_listeners calls these to replace a listener with a copy of the encoder that only its component uses.


def _replace_listener(encoder: Model[Any, Any], listener: Any, pipe: Any) -> Model[Any, Any]:
    replacement: Model[Any, Any] = listener.replaced_by(encoder)
    return replacement


def _replace_listener_cfg(encoder: dict[str, Any], listener: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in listener.items() if key in ("pooling", "grad_factor")}
    return {"@architectures": "spacy-bertft.Tok2Vec.v1", **kept, "encoder": encoder}


def load_named(model: Model[Any, Any]) -> Any:
    """Load the pretrained weights, or the exported encoder, that the config of an encoder model names."""
    name, settings = model.attrs["name"], model.attrs["settings"]
    if settings.backend == "onnxruntime":
        return load_named_export(name, settings)
    need_torch(f"The encoder {name!r}")
    from spacy_bertft.encoder.bases import load_for_adapter
    from spacy_bertft.encoder.loading import load

    loading = load_for_adapter if saves_adapter(shim_of(model).tuning) else load
    return loading(name, settings, revision=model.attrs["revision"])


def load_from(folder: Path, model: Model[Any, Any]) -> TextEncoder:
    """Load an encoder that a pipeline saved, in the form that the model's tuning trains."""
    settings = model.attrs["settings"]
    if settings.backend == "onnxruntime":
        return load_exported(folder, settings)
    need_torch(f"The encoder in {folder}")
    from spacy_bertft.encoder.bases import load_saved_encoder, unshared

    encoder = load_saved_encoder(folder, settings)
    tuning = shim_of(model).tuning
    if saves_adapter(tuning) and encoder.shared is None:
        raise ConfigError(
            f'The save of LoraTuning is "adapter", but the encoder in {folder} was saved with whole weights. Expected '
            'an adapter beside the encoder that it was trained on. Set save = "merged" in the encoder\'s tuning block, '
            "or train again from the pretrained encoder."
        )
    trained_whole = tuning.learns and not saves_adapter(tuning)
    return unshared(encoder) if trained_whole and encoder.shared is not None else encoder


def _load_whole(folder: Path, settings: EncoderSettings) -> Any:
    """Load an encoder that `EncoderShim.to_bytes` has packed."""
    if settings.backend == "onnxruntime":
        return load_exported(folder, settings)
    need_torch("An encoder of another component")
    from spacy_bertft.encoder.loading import load_saved

    return load_saved(folder, settings)
