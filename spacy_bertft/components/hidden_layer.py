"""The layer that a head may have between the encoder's vectors and its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from spacy_bertft.components.task import Head, new_linear
from spacy_bertft.errors import ConfigError

Activation = Literal["tanh", "gelu", "gelu_tanh", "relu"]
_FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "gelu": gelu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
    "relu": relu,
}


@dataclass(frozen=True, kw_only=True)
class HiddenLayer:
    """Settings of a head's hidden layer; the heads' settings include them.

    activation: what follows its dense layer: "tanh", "gelu", "gelu_tanh" (the approximation of GELU by tanh) or "relu";
        None: no hidden layer.
    norm_eps: eps of a LayerNorm after the activation; None: no LayerNorm.
    hidden_bias: whether dense layer and LayerNorm have biases.
    """

    activation: Activation | None = None
    norm_eps: float | None = None
    hidden_bias: bool = True

    def __post_init__(self) -> None:
        if self.activation is None and (self.norm_eps is not None or not self.hidden_bias):
            setting = f"norm_eps = {self.norm_eps}" if self.norm_eps is not None else "hidden_bias = false"
            raise ConfigError(
                f"Found {setting} for a head without a hidden layer (activation = null). Expected an activation, one "
                f"of {', '.join(_FUNCTIONS)}. Set one, or leave {setting.split()[0]} out."
            )
        if self.norm_eps is not None and not 0 < self.norm_eps < 1:
            raise ConfigError(f"norm_eps is {self.norm_eps:g}; expected a number between 0 and 1, such as 1e-5.")


@dataclass(frozen=True, kw_only=True)
class PooledHiddenLayer(HiddenLayer):
    """The same for heads that read one vector per Doc: BERT's dense layer with tanh by default."""

    activation: Activation | None = "tanh"


class HiddenHead(Head):
    """A head with the hidden layer of its settings, and dropout before the output."""

    def __init__(self, width: int, settings: HiddenLayer) -> None:
        super().__init__()
        self.dropout = nn.Dropout()
        self.dense = self.norm = None
        self.function = _FUNCTIONS.get(settings.activation or "")
        if self.function is not None:
            self.dense = new_linear(width, width, bias=settings.hidden_bias)
        if settings.norm_eps is not None:
            self.norm = nn.LayerNorm(width, settings.norm_eps, bias=settings.hidden_bias)

    def hidden(self, vectors: Tensor) -> Tensor:
        """The hidden layer's output; the vectors themselves if there is none. (…, D) -> (…, D)."""
        if self.dense is None or self.function is None:
            return vectors
        values = self.function(self.dense(vectors))
        return values if self.norm is None else self.norm(values)
