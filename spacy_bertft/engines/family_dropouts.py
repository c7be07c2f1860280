"""Where the BERT family has dropout, and how much, read from transformers' model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from spacy_bertft.engines.family_weights import FAMILIES, Shape

# The modules in a layer, by the name of the layers, in the order of LayerDropouts; None: no dropout there.
_MODULES: Mapping[str, tuple[str, str | None, str]] = {
    "encoder.layer": ("attention.self.dropout", "attention.output.dropout", "output.dropout"),
    "transformer.layer": ("attention.dropout", None, "ffn.dropout"),
}


@dataclass(frozen=True, slots=True)
class LayerDropouts:
    """Probabilities of dropout in a layer."""

    attention: float  # of attention's weights
    out: float  # of what attention adds
    down: float  # of what the feed-forward net adds


@dataclass(frozen=True, slots=True)
class Dropouts:
    """Probabilities of dropout in an encoder."""

    embeddings: float
    layers: tuple[LayerDropouts, ...]


def read_dropouts(shape: Shape, model: nn.Module) -> Dropouts:
    """Read the current probabilities of dropout from transformers' model; 0 outside of training."""
    layer = FAMILIES[shape.family].layer

    def probability(name: str) -> float:
        module: Any = model.get_submodule(name)
        return float(module.p) if module.training else 0.0

    layers = [
        LayerDropouts(*(probability(f"{layer}.{number}.{name}") if name else 0.0 for name in _MODULES[layer]))
        for number in range(shape.layers)
    ]
    return Dropouts(probability("embeddings.dropout"), tuple(layers))
