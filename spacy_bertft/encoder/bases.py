"""Encoders whose weights are a base, loaded by name and held once, and an adapter of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

from spacy_bertft.encoder.adapters import Adapter, read_base, read_updates
from spacy_bertft.encoder.checkpoint import ADAPTER_CONFIG, WEIGHTS, Checkpoint, read_checkpoint, read_files
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.folders import check_files, find_folder, told
from spacy_bertft.encoder.loading import is_known, load, load_saved
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.encoder.weights_check import check_finite, check_sizes
from spacy_bertft.engines.family_weights import linear_names, read_shape
from spacy_bertft.engines.low_rank import SharedWeights
from spacy_bertft.errors import EncoderError

# What bases were loaded from -> their weights, as long as an encoder uses them.
_BASES: WeakValueDictionary[tuple[object, ...], SharedWeights] = WeakValueDictionary()


def load_for_adapter(name: str, settings: EncoderSettings, *, revision: str = "main") -> Encoder:
    """Load an encoder whose weights stay as they are, beside an adapter that is yet to be trained."""
    encoder = load(name, settings, revision=revision)
    shared = _shared_weights(name, revision)
    return Encoder(replace(encoder.checkpoint, weights=shared, adapter=Adapter(name, revision, shared)), settings)


def load_saved_encoder(folder: Path, settings: EncoderSettings) -> Encoder:
    """Load an encoder from the folder of a saved pipeline, which holds its weights or an adapter."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return load_saved(folder, settings)
    with told(folder):
        config = check_files(folder)
        base = read_base(folder)
        shared = _base_of_saved(folder, base.name, base.revision)
        if shared.digest != base.digest:
            raise EncoderError(
                f"The adapter in {folder} was trained on other weights than those of {base.name!r} here (found a "
                f"digest of {shared.digest}). Expected {base.digest}. Give that name the encoder that it had in "
                "training, at the same revision."
            )
        check_sizes(str(folder), config, shared)
        shape = read_shape(config)
        names = None if shape is None else {name for layer in linear_names(shape) for name in layer.values()}
        adapter = Adapter(base.name, base.revision, shared, read_updates(folder, base, shared, names))
        has_pooler = any("pooler" in name for name in shared)
        return Encoder(Checkpoint(read_files(folder), shared, trained_pooler=has_pooler, adapter=adapter), settings)


def _base_of_saved(folder: Path, name: str, revision: str) -> SharedWeights:
    try:
        return _shared_weights(name, revision)
    except EncoderError as error:
        raise EncoderError(
            f"The adapter in {folder} needs {name!r}, the encoder that it was trained on, which could not be loaded: "
            f'{error} An adapter saved with save = "merged" needs no other encoder.'
        ) from error


def unshared(encoder: Encoder) -> Encoder:
    """The same encoder with weights of its own, into which its adapter is folded."""
    whole = encoder.at_rest()
    own = {name: weight.detach().clone() for name, weight in whole.weights.items()}
    return Encoder(replace(whole, weights=own), encoder.settings)


def _shared_weights(name: str, revision: str) -> SharedWeights:
    """The weights of a base: those in memory if another encoder has loaded them and their file is as it was."""
    folder = find_folder(name)
    file = None if folder is None else folder / WEIGHTS
    state = (file.stat().st_mtime_ns, file.stat().st_size) if file is not None and file.is_file() else None
    key = (str(folder.resolve()) if folder else name, revision, state)
    shared = _BASES.get(key)
    if shared is None:
        checkpoint = _read(name, revision)
        shared = SharedWeights(checkpoint.weights_to_save())
        shared.digest = str(checkpoint.digest())
        _BASES[key] = shared
    return shared


def _read(name: str, revision: str) -> Checkpoint:
    folder = find_folder(name)
    if folder is not None:
        with told(folder):  # most folders are read without transformers, as the encoders of saved pipelines are
            checkpoint = read_checkpoint(folder)
            if checkpoint is not None and is_known(checkpoint):
                check_finite(str(folder), checkpoint.weights)
                return checkpoint
    return load(name, EncoderSettings(device="cpu"), revision=revision).at_rest()
