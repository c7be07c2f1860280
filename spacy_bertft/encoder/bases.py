"""Encoders whose weights are a base, loaded by name and held once, and an adapter of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

from spacy_bertft.encoder.adapters import ADAPTER_CONFIG, Adapter, read_base, read_updates
from spacy_bertft.encoder.checkpoint import WEIGHTS, Checkpoint, read_checkpoint
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.loading import find_folder, is_known, load, load_saved
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.encoder.weights_check import check_finite
from spacy_bertft.engines.low_rank import SharedWeights
from spacy_bertft.errors import EncoderError

# What bases were loaded from -> their weights, as long as an encoder uses them.
_BASES: WeakValueDictionary[tuple[object, ...], SharedWeights] = WeakValueDictionary()


def load_for_adapter(name: str, settings: EncoderSettings, *, revision: str = "main") -> Encoder:
    """Load an encoder whose weights stay as they are, beside an adapter that is yet to be trained."""
    checkpoint = _load_base(name, revision)
    shared = _shared(checkpoint, name, revision)
    adapter = Adapter(name, revision, str(checkpoint.digest()), shared)
    return Encoder(replace(checkpoint, weights=shared, adapter=adapter), settings)


def load_saved_encoder(folder: Path, settings: EncoderSettings) -> Encoder:
    """Load an encoder from the folder of a saved pipeline, which holds its weights or an adapter."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return load_saved(folder, settings)
    base = read_base(folder)
    try:
        checkpoint = _load_base(base.name, base.revision)
    except EncoderError as error:
        raise EncoderError(
            f"The adapter in {folder} needs {base.name!r}, the encoder that it was trained on, which could not be "
            f'loaded: {error} An adapter saved with save = "merged" needs no other encoder.'
        ) from error
    if checkpoint.digest() != base.digest:
        raise EncoderError(
            f"The adapter in {folder} was trained on other weights than those of {base.name!r} here (found a digest of "
            f"{checkpoint.digest()}). Expected {base.digest}. Give that name the encoder that it had in "
            "training, at the same revision."
        )
    shared = _shared(checkpoint, base.name, base.revision)
    updates = read_updates(folder, base.scale, shared)
    adapter = Adapter(base.name, base.revision, base.digest, shared, updates)
    return Encoder(replace(checkpoint, weights=shared, adapter=adapter), settings)


def unshared(encoder: Encoder) -> Encoder:
    """The same encoder with weights of its own, into which its adapter is folded."""
    whole = encoder.at_rest()
    own = {name: weight.detach().clone() for name, weight in whole.weights.items()}
    return Encoder(replace(whole, weights=own), encoder.settings)


def _load_base(name: str, revision: str) -> Checkpoint:
    folder = find_folder(name)
    checkpoint = None if folder is None else read_checkpoint(folder)
    if checkpoint is None or not is_known(checkpoint):
        return load(name, EncoderSettings(device="cpu"), revision=revision).at_rest()
    check_finite(str(folder), checkpoint.weights)
    return checkpoint


def _shared(checkpoint: Checkpoint, name: str, revision: str) -> SharedWeights:
    folder = find_folder(name)
    changed = (folder / WEIGHTS).stat().st_mtime_ns if folder and (folder / WEIGHTS).is_file() else None
    key = (str(folder.resolve()) if folder else name, revision, changed, checkpoint.digest())
    # Buffers of positions are in some files, and are the same in all.
    found = SharedWeights({key: value for key, value in checkpoint.weights.items() if "position_ids" not in key})
    return _BASES.setdefault(key, found)
