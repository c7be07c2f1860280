"""The settings of the layer that a head may have between the encoder's vectors and its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from spacy_bertft.errors import ConfigError

Activation = Literal["tanh", "gelu", "gelu_tanh", "relu"]


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
                f"of {', '.join(get_args(Activation))}. Set one, or leave {setting.split()[0]} out."
            )
        if self.norm_eps is not None and not 0 < self.norm_eps < 1:
            raise ConfigError(f"norm_eps is {self.norm_eps:g}; expected a number between 0 and 1, such as 1e-5.")


@dataclass(frozen=True, kw_only=True)
class PooledHiddenLayer(HiddenLayer):
    """The same for heads that read one vector per Doc: BERT's dense layer with tanh by default."""

    activation: Activation | None = "tanh"
