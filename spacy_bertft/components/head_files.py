"""A head at rest: its cfg as JSON, and its weights as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import srsly
from torch import nn

from spacy_bertft.errors import ConfigError

_CFG, WEIGHTS = "cfg", "model.safetensors"


def write_head(folder: Path, cfg: dict[str, Any], weights: bytes) -> None:
    """Write both to a folder; no weights are no file."""
    folder.mkdir(parents=True, exist_ok=True)
    srsly.write_json(folder / _CFG, cfg)
    if weights:
        (folder / WEIGHTS).write_bytes(weights)
    else:
        (folder / WEIGHTS).unlink(missing_ok=True)  # of an earlier save


def read_head(folder: Path) -> tuple[dict[str, Any], bytes]:
    """What `write_head` wrote."""
    weights = folder / WEIGHTS
    return srsly.read_json(folder / _CFG), weights.read_bytes() if weights.exists() else b""


def pack_head(cfg: dict[str, Any], weights: bytes) -> bytes:
    """Both in one bytestring."""
    packed: bytes = srsly.msgpack_dumps({"cfg": cfg, "model": weights})
    return packed


def unpack_head(packed: bytes) -> tuple[dict[str, Any], bytes]:
    """What `pack_head` packed."""
    content = srsly.msgpack_loads(packed)
    return content["cfg"], content["model"]


def load_weights(module: nn.Module, weights: bytes, *, head: str, settings: str) -> None:
    """Put weights into a module. A ConfigError if they don't fit. head: its name; settings: what it was made from."""
    try:
        module.load_state_dict(safetensors.torch.load(weights))
    except RuntimeError as error:
        raise ConfigError(
            f"The saved weights of the head {head!r} don't fit its settings ({settings}): "
            f"{str(error).splitlines()[-1].strip()} Expected the settings it was trained with. Undo the change in "
            "config.cfg, or train it anew."
        ) from error
