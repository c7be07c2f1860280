"""Where the BERT family has dropout, and how much, read from transformers' model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from spacy_bertft.engines.family_names import FAMILIES
from spacy_bertft.engines.net import Shape

_BERT = ("attention.self.dropout", "attention.output.dropout", "output.dropout")
# The modules in a layer, by family, in the order of LayerDropouts; None: no dropout there.
_MODULES: Mapping[str, tuple[str, str | None, str]] = {
    "bert": _BERT,
    "camembert": _BERT,
    "distilbert": ("attention.dropout", None, "ffn.dropout"),
    "electra": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
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


def read_dropouts(shape: Shape, model: nn.Module) -> Dropouts | None:
    """Read the current probabilities of dropout from transformers' model; 0 outside of training.

    None: the family's layers are not those of BERT, so only transformers trains it.
    """
    modules = _MODULES.get(shape.family)
    if modules is None:
        return None
    layer = FAMILIES[shape.family].layer

    def probability(name: str) -> float:
        module: Any = model.get_submodule(name)
        return float(module.p) if module.training else 0.0

    layers = [
        LayerDropouts(*(probability(f"{layer.format(group=number)}.{name}") if name else 0.0 for name in modules))
        for number in range(shape.layers)
    ]
    return Dropouts(probability("embeddings.dropout"), tuple(layers))
