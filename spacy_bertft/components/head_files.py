"""The saved form of a head: its cfg as JSON, and its weights as safetensors."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
import srsly
from safetensors import SafetensorError

from spacy_bertft.encoder.weights_check import listed
from spacy_bertft.errors import ConfigError
from spacy_bertft.files import replace_file, replace_files, saving
from spacy_bertft.types import Floats

if TYPE_CHECKING:
    from torch import nn

_CFG, _WEIGHTS = "cfg", "model.safetensors"
# Extra keys of a saved cfg: the id of the encoder's save that the head belongs to, and the checksum of its weights.
SAVE_ID, _CHECKSUM = "save_id", "weights_crc32"
_AGAIN = "Copy the pipeline again, or train it anew."


# --- folders and bytes


def write_head(folder: Path, cfg: dict[str, Any], weights: bytes, *, head: str) -> None:
    """Write cfg and weights to a folder. Raises a ConfigError, and keeps the old files, if one can't be written.

    weights: b"" writes no file; head: its name.
    """
    cfg = {**cfg, _CHECKSUM: zlib.crc32(weights) if weights else None}
    writes = {_WEIGHTS: partial(Path.write_bytes, data=weights)} if weights else {}
    with saving(f"head {head!r}", folder):
        # The weights first: if the save stops there, their checksum is not the one in the old cfg.
        replace_files(folder, {**writes, _CFG: lambda part: srsly.write_json(part, cfg)})
        if not weights:
            (folder / _WEIGHTS).unlink(missing_ok=True)  # left by an earlier save


def read_head(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Read the result of `write_head`. Raises a ConfigError if the files are something else."""
    if not (folder / _CFG).is_file():
        found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        raise ConfigError(
            f"The folder {str(folder)!r} of a saved head holds no {_CFG} (found: {listed(found)}). Expected the folder "
            f"that was saved with the pipeline. {_AGAIN}"
        )
    cfg = _read_cfg(folder / _CFG)
    weights = (folder / _WEIGHTS).read_bytes() if (folder / _WEIGHTS).is_file() else b""
    checksum = cfg.pop(_CHECKSUM, None)  # missing in saves of the first edition
    if weights and checksum is not None and checksum != zlib.crc32(weights):
        raise ConfigError(
            f"The file {str(folder / _WEIGHTS)!r} does not match the {_CFG} in the same folder: one of them was "
            "changed, or is from another save, most likely an interrupted one. Expected both files from one save. "
            f'{_AGAIN} If you changed the weights on purpose, set "{_CHECKSUM}" in {_CFG} to null.'
        )
    return cfg, weights


def replace_save_id(folder: Path, save_id: str | None) -> None:
    """Note in a saved head that it belongs to another save of its encoder, one that was changed on disk."""
    cfg = _read_cfg(folder / _CFG)
    replace_file(folder / _CFG, lambda part: srsly.write_json(part, {**cfg, SAVE_ID: save_id}))


def _read_cfg(path: Path) -> dict[str, Any]:
    try:
        cfg = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"The file {str(path)!r} is not JSON: {error}. Expected the cfg of a saved head. {_AGAIN}"
        ) from error
    if not isinstance(cfg, dict):
        raise ConfigError(
            f"The file {str(path)!r} holds a JSON {type(cfg).__name__}. Expected an object, with a head's labels and "
            f"settings. {_AGAIN}"
        )
    return cfg


def pack_head(cfg: dict[str, Any], weights: bytes) -> bytes:
    """Pack cfg and weights into one bytestring."""
    packed: bytes = srsly.msgpack_dumps({"cfg": cfg, "model": weights})
    return packed


def unpack_head(packed: bytes) -> tuple[dict[str, Any], bytes]:
    """Unpack the result of `pack_head`. Raises a ConfigError if the bytes are something else."""
    try:
        content = srsly.msgpack_loads(packed)
        cfg, weights = content["cfg"], content["model"]
    except Exception as error:  # msgpack raises many kinds
        raise ConfigError(
            f"Found bytes that are not a saved head ({type(error).__name__}); expected the result of to_bytes(). "
            "Call it again."
        ) from error
    if not isinstance(cfg, dict) or not isinstance(weights, bytes):
        raise ConfigError("Found bytes that are not a saved head; expected the result of to_bytes(). Call it again.")
    return cfg, weights


# --- checks of what was read


def checked(cfg: dict[str, Any], weights: bytes, *, head: str, save_id: str | None) -> dict[str, Floats]:
    """Check a saved head and return its arrays, {} without weights. Raises a ConfigError if its parts don't fit.

    head: its name; save_id: the id of its encoder's save.
    """
    _check_cfg(cfg, head)
    _check_save_id(cfg, head, save_id)
    if (cfg["width"] is None) is not (not weights):
        found, expected = ("weights", "none: its cfg has no width") if weights else ("no weights", "that file")
        raise ConfigError(
            f"The head {head!r} was saved with {found} ({_WEIGHTS}). Expected {expected}. The copy is incomplete, or "
            f"a save was interrupted. {_AGAIN}"
        )
    return _read_weights(weights, head, cfg["width"]) if weights else {}


def _check_cfg(cfg: dict[str, Any], head: str) -> None:
    rules = (
        ("labels", _are_labels(cfg.get("labels")), "a list of distinct, non-empty strings"),
        ("width", cfg.get("width", 0) is None or _is_count(cfg.get("width")), "a whole number above 0, or null"),
        ("targets_per_doc", _is_positive(cfg.get("targets_per_doc")), "a number above 0"),
        ("labels_given", isinstance(cfg.get("labels_given", False), bool), "true or false"),
        ("statistics", isinstance(cfg.get("statistics", {}), dict), "an object"),
        (SAVE_ID, isinstance(cfg.get(SAVE_ID), str | None), "a string, or null"),
    )
    for key, fits, expected in rules:
        if not fits:
            found = repr(cfg[key])[:80] if key in cfg else "nothing"
            raise ConfigError(
                f"The saved {_CFG} of the head {head!r} has {found} as {key!r}. Expected {expected}. Undo the change, "
                "or train the pipeline anew."
            )


def _are_labels(found: Any) -> bool:
    are_texts = isinstance(found, list) and all(isinstance(one, str) and one for one in found)
    return are_texts and len(set(found)) == len(found)


def _is_count(found: Any) -> bool:
    return isinstance(found, int) and not isinstance(found, bool) and found > 0


def _is_positive(found: Any) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool) and 0 < found < math.inf


def _check_save_id(cfg: dict[str, Any], head: str, encoder: str | None) -> None:
    found = cfg.get(SAVE_ID)
    if None not in (found, encoder) and found != encoder:
        raise ConfigError(
            f"The head {head!r} and its encoder are from different saves ({found} and {encoder}): most likely a save "
            "was interrupted, and one of them is older than the other. Expected both from one save. Use a complete "
            "copy of the pipeline, for example model-last instead of model-best, or train it anew. If they do belong "
            f'together, set "{SAVE_ID}" in the {_CFG} of the head to null.'
        )


def _read_weights(weights: bytes, head: str, width: int) -> dict[str, Floats]:
    try:
        arrays = {name: found.astype(np.float32) for name, found in safetensors.numpy.load(weights).items()}
    except (SafetensorError, ValueError, KeyError, TypeError) as error:  # of a dtype that numpy does not know
        raise ConfigError(
            f"The saved weights of the head {head!r} ({_WEIGHTS}) can't be read: {error} Expected the complete "
            f"file, as saved. {_AGAIN}"
        ) from error
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise ConfigError(
            f"The saved weights of the head {head!r} ({_WEIGHTS}) hold NaN or infinite numbers, in {listed(broken)}. "
            "Expected finite ones: its training diverged, or the file is damaged. Use an earlier copy, or train with "
            "a lower learning rate."
        )
    # A module of this width is built before they are loaded: a wrong width must not allocate billions of columns.
    if not any(size >= width for array in arrays.values() for size in array.shape):
        shapes = [f"{name} {array.shape}" for name, array in arrays.items()]
        raise ConfigError(
            f"The saved weights of the head {head!r} ({_WEIGHTS}) are {listed(shapes)}. Expected matrices with {width} "
            f"columns, the width in its {_CFG}. {_AGAIN}"
        )
    return arrays


def load_weights(module: nn.Module, weights: Mapping[str, Floats], *, head: str, settings: str) -> None:
    """Load weights into a module. Raises a ConfigError if they don't fit. head: its name; settings: for the message."""
    import torch

    try:
        module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
    except RuntimeError as error:
        raise dont_fit(head, settings, str(error).splitlines()[-1].strip()) from error


def dont_fit(head: str, settings: str, found: str) -> ConfigError:
    """The error for weights of other settings."""
    return ConfigError(
        f"The saved weights of the head {head!r} don't fit its settings ({settings}): {found} Expected the settings it "
        "was trained with. Undo the change in config.cfg, or train it anew."
    )
