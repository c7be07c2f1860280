"""Checkpoints with fewer layers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from spacy_bertft.encoder.checkpoint import CONFIG, Checkpoint
from spacy_bertft.engines.family_weights import FAMILIES
from spacy_bertft.errors import EncoderError


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"


def n_layers(checkpoint: Checkpoint) -> int | None:
    """The number of layers in the config; None if the family names them otherwise."""
    names = FAMILIES.get(str(checkpoint.config.get("model_type")))
    found = checkpoint.config.get(names.settings["layers"] if names else "num_hidden_layers")
    return found if isinstance(found, int) else None


def check_layers(checkpoint: Checkpoint) -> None:
    """Raise an EncoderError if the checkpoint's family is none whose layers can be dropped."""
    if checkpoint.config.get("model_type") not in FAMILIES:
        raise EncoderError(
            f"The encoder is of the family {checkpoint.config.get('model_type')}, whose layers can't be dropped. "
            f"Expected one of {', '.join(sorted(FAMILIES))}. Leave --layers out, or choose another encoder."
        )


def with_layers(checkpoint: Checkpoint, layers: Sequence[int]) -> Checkpoint:
    """The checkpoint with these of its layers only, renumbered."""
    check_layers(checkpoint)
    names = FAMILIES[str(checkpoint.config["model_type"])]
    inside = re.compile(rf"^((?:.*\.)?{re.escape(names.layer)}\.)(\d+)(\..*)$")
    numbers = {old: new for new, old in enumerate(layers)}
    weights: dict[str, Tensor] = {}
    for name, one in checkpoint.weights.items():
        found = inside.match(name)
        if found is None:
            weights[name] = one
        elif int(found[2]) in numbers:
            weights[f"{found[1]}{numbers[int(found[2])]}{found[3]}"] = one
    config = {**checkpoint.config, names.settings["layers"]: len(layers)}
    return replace(checkpoint, files={**checkpoint.files, CONFIG: _json(config)}, weights=weights)
