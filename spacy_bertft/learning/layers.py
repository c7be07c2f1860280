"""The layers of an encoder, from its embeddings to the top, whatever family it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spacy_bertft.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Layers:
    """The parameters of an encoder by layer."""

    embeddings: tuple[nn.Parameter, ...]
    layers: tuple[tuple[nn.Parameter, ...], ...]  # the lowest first
    top: tuple[nn.Parameter, ...]  # above the layers: a last norm, a pooler

    def at_least(self, n_layers: int, setting: str) -> None:
        """Raise a ConfigError if there are fewer layers. setting: the name of what asks for them."""
        if n_layers > len(self.layers):
            raise ConfigError(
                f"{setting} is {n_layers}, but the encoder has {len(self.layers)} layers with weights of their own. "
                f"Expected at most {len(self.layers)}. Lower {setting} in the encoder's tuning block."
            )


def layers_of(module: nn.Module) -> Layers:
    """Sort the parameters of an encoder. Raises a ConfigError if it has no list of layers."""
    named = list(module.named_parameters())  # first, since this builds an encoder that is built late
    groups = [tuple(layer.parameters()) for layer in stack_of(module)]
    inside = {id(parameter) for group in groups for parameter in group}
    outside = [(name, p) for name, p in named if id(p) not in inside]
    # "embed": ELECTRA's embeddings_project and DeBERTa's rel_embeddings too. DeBERTa has a norm over the latter.
    below = {id(p) for name, p in outside if "embed" in name or "encoder.LayerNorm" in name}
    return Layers(
        embeddings=tuple(p for _, p in outside if id(p) in below),
        layers=tuple(groups),
        top=tuple(p for _, p in outside if id(p) not in below),
    )


def stack_of(module: nn.Module) -> Sequence[nn.Module]:
    """The modules of the layers, the lowest first."""
    from torch import nn

    found = next((child for child in module.modules() if isinstance(child, nn.ModuleList) and len(child)), None)
    if found is None:
        raise ConfigError(
            f"The {type(module).__name__} has no list of layers. Expected an encoder of transformer layers. Use "
            "spacy-bertft.FullTuning.v1 without settings for layers, or FrozenTuning.v1."
        )
    return list(found)


def reinitialize(layers: Sequence[nn.Module], std: float) -> None:
    """Set layers back to random weights, as BERT starts: normal weights of standard deviation `std`, biases 0."""
    from torch import nn

    for layer in layers:
        for child in layer.modules():
            for name, parameter in child.named_parameters(recurse=False):
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=std)
                elif name == "bias":
                    nn.init.zeros_(parameter)
                else:  # the scale of a norm
                    nn.init.ones_(parameter)
