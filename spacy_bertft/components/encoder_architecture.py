"""The thinc Model around an encoder: `spacy-bertft.Encoder.v1`."""

from __future__ import annotations

import copy
from typing import Any

from spacy.util import registry
from thinc.api import Model
from torch import Tensor

from spacy_bertft import files
from spacy_bertft.components.doc_texts import texts_of
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.loading import load, load_saved
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.learning.shim import TorchShim, wrap
from spacy_bertft.learning.tuning import Tuning
from spacy_bertft.signatures import with_settings
from spacy_bertft.types import Features


@registry.architectures("spacy-bertft.Encoder.v1")
@with_settings(EncoderSettings)
def build_encoder(name: str, revision: str = "main", **settings: Any) -> Model[Any, Any]:
    """An encoder from the Hugging Face family of BERT. Its weights are loaded at initialisation, or with the pipeline.

    name: a hub name ("bert-base-cased"), a local folder, or package/folder of an installed package.
    revision: branch, tag or commit on the hub.
    The other settings are those of EncoderSettings.
    """
    return encoder_model({"name": name, "revision": revision, "settings": EncoderSettings(**settings)})


def _hidden(features: Features) -> Tensor:
    return features.hidden


class EncoderShim(TorchShim):
    """Keeps its encoder as the files of a Hugging Face folder, where a model with an encoder inside is saved."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__(backward_from=_hidden)
        self.of_docs = texts_of
        self.settings = settings

    def copy(self) -> EncoderShim:
        """A copy with weights of its own and a fresh optimizer."""
        twin = EncoderShim(self.settings)
        twin.rate_factor, twin.tuning = self.rate_factor, self.tuning
        twin.module = copy.deepcopy(self.module)
        return twin

    def to_bytes(self) -> bytes:
        """The files, or nothing if there is no encoder yet."""
        return files.to_bytes(self.module.save) if isinstance(self.module, Encoder) else b""

    def from_bytes(self, data: bytes) -> EncoderShim:
        """Load what to_bytes gave."""
        if data:
            self.module = files.from_bytes(data, lambda folder: load_saved(folder, self.settings))
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_shim, (self.settings, self.rate_factor, self.tuning, self.to_bytes())


def _rebuild_shim(settings: EncoderSettings, rate_factor: float, tuning: Tuning, content: bytes) -> EncoderShim:
    shim = EncoderShim(settings)
    shim.rate_factor, shim.tuning = rate_factor, tuning
    return shim.from_bytes(content)


def encoder_model(attrs: dict[str, Any]) -> Model[Any, Any]:
    """The Model of an encoder yet to be loaded. attrs: name, revision, settings."""
    replacing = {"replace_listener": _replace_listener, "replace_listener_cfg": _replace_listener_cfg}
    return wrap("bertft-encoder", EncoderShim(attrs["settings"]), {**attrs, **replacing})


# What nlp.replace_listeners puts in the place of a listener: a copy of the encoder, for its component alone.


def _replace_listener(encoder: Model[Any, Any], listener: Any, pipe: Any) -> Model[Any, Any]:
    replacement: Model[Any, Any] = listener.replaced_by(encoder)
    return replacement


def _replace_listener_cfg(encoder: dict[str, Any], listener: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in listener.items() if key in ("pooling", "grad_factor")}
    return {"@architectures": "spacy-bertft.Tok2Vec.v1", **kept, "encoder": encoder}


def load_named(model: Model[Any, Any]) -> Encoder:
    """Load the pretrained weights that the config of an encoder model names."""
    attrs = model.attrs
    return load(attrs["name"], attrs["settings"], revision=attrs["revision"])
