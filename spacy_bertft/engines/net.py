"""The BERT family's encoder as plain matrices, read from a config and weights named as in transformers.

The engines of ours work on this form: one place knows the families' names, and nothing here needs transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Activation = Literal["gelu", "gelu_tanh", "relu"]

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True, slots=True)
class _Names:
    """How a family names its settings and weights."""

    settings: Mapping[str, str]
    layer: str
    query: str
    key: str
    value: str
    out: str
    out_norm: str
    up: str
    down: str
    down_norm: str


_BERT = _Names(
    settings={
        "width": "hidden_size",
        "inner": "intermediate_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "activation": "hidden_act",
    },
    layer="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    out="attention.output.dense",
    out_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    down_norm="output.LayerNorm",
)
_DISTILBERT = _Names(
    settings={
        "width": "dim",
        "inner": "hidden_dim",
        "layers": "n_layers",
        "heads": "n_heads",
        "activation": "activation",
    },
    layer="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    out="attention.out_lin",
    out_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    down_norm="output_layer_norm",
)
FAMILIES: Mapping[str, _Names] = {
    "bert": _BERT,
    "roberta": _BERT,
    "camembert": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "distilbert": _DISTILBERT,
}
# Families whose positions count from behind the padding's.
_POSITIONS_BEHIND_PADDING = frozenset({"roberta", "camembert", "xlm-roberta"})


@dataclass(frozen=True, slots=True)
class Shape:
    """What the config says of an encoder of these families."""

    family: str
    width: int  # D
    inner: int  # F, the width between `up` and `down`
    layers: int
    heads: int  # H
    activation: Activation
    eps: float  # of the norms
    first_position: int  # of a window's first subword


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix product with bias."""

    weight: Tensor  # (out, in)
    bias: Tensor  # (out,)


@dataclass(frozen=True, slots=True)
class Norm:
    """The scale and shift of a LayerNorm."""

    weight: Tensor  # (D,)
    bias: Tensor  # (D,)


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer."""

    query: Linear  # (D, D)
    key: Linear
    value: Linear
    out: Linear
    out_norm: Norm
    up: Linear  # (F, D)
    down: Linear  # (D, F)
    down_norm: Norm

    def query_key_value(self) -> Linear:
        """The three products as one. (3D, D)."""
        three = (self.query, self.key, self.value)
        return Linear(torch.cat([one.weight for one in three]), torch.cat([one.bias for one in three]))


@dataclass(frozen=True, slots=True)
class Net:
    """A whole encoder. E is the embeddings' width, which is D but for ELECTRA's small ones."""

    shape: Shape
    words: Tensor  # (V, E)
    positions: Tensor  # (K, positions, E), with the embedding of each of K segments added
    norm: Norm  # (E,)
    project: Linear | None  # (D, E)
    layers: tuple[Layer, ...]


def read_shape(config: Mapping[str, Any]) -> Shape | None:
    """What a config.json says; None if the encoder is of another family or kind."""
    family = config.get("model_type")
    names = FAMILIES.get(family) if isinstance(family, str) else None
    activation = _ACTIVATIONS.get(str(config.get(names.settings["activation"]))) if names else None
    if names is None or activation is None:
        return None
    usual = (
        config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder")
        and not config.get("sinusoidal_pos_embds")
    )
    sizes: list[Any] = [config.get(names.settings[name]) for name in ("width", "inner", "layers", "heads")]
    padding: Any = config.get("pad_token_id")
    behind = family in _POSITIONS_BEHIND_PADDING
    if not usual or not all(isinstance(size, int) for size in sizes) or (behind and not isinstance(padding, int)):
        return None
    width, inner, layers, heads = sizes
    return Shape(
        family=str(family),
        width=width,
        inner=inner,
        layers=layers,
        heads=heads,
        activation=activation,
        eps=float(config.get("layer_norm_eps", 1e-12)),
        first_position=padding + 1 if behind else 0,
    )


def read_net(shape: Shape, weights: Mapping[str, Tensor]) -> Net | None:
    """The encoder's matrices; None if the weights are not those of the shape, named as AutoModel names them."""
    names = FAMILIES[shape.family]

    def linear(name: str) -> Linear:
        return Linear(weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str) -> Norm:
        return Norm(weights[f"{name}.weight"], weights[f"{name}.bias"])

    def layer(number: int) -> Layer:
        inside = f"{names.layer}.{number}"
        return Layer(
            query=linear(f"{inside}.{names.query}"),
            key=linear(f"{inside}.{names.key}"),
            value=linear(f"{inside}.{names.value}"),
            out=linear(f"{inside}.{names.out}"),
            out_norm=norm(f"{inside}.{names.out_norm}"),
            up=linear(f"{inside}.{names.up}"),
            down=linear(f"{inside}.{names.down}"),
            down_norm=norm(f"{inside}.{names.down_norm}"),
        )

    try:
        segments = weights.get("embeddings.token_type_embeddings.weight")
        positions = weights["embeddings.position_embeddings.weight"]
        net = Net(
            shape=shape,
            words=weights["embeddings.word_embeddings.weight"],
            positions=positions[None] if segments is None else positions + segments[:2, None],
            norm=norm("embeddings.LayerNorm"),
            project=linear("embeddings_project") if "embeddings_project.weight" in weights else None,
            layers=tuple(map(layer, range(shape.layers))),
        )
    except (KeyError, RuntimeError):  # a name that is not there, sizes that don't fit each other
        return None
    return net if _fits(net) else None


def _fits(net: Net) -> bool:
    """Whether the weights have the sizes that the config says."""
    wide, inner = net.shape.width, net.shape.inner
    embedded = wide if net.project is None else int(net.project.weight.shape[1])
    return (
        wide % net.shape.heads == 0
        and net.words.shape[1:] == net.positions.shape[2:] == net.norm.weight.shape == (embedded,)
        and (net.project is None or net.project.weight.shape[0] == wide)
        and all(
            all(one.weight.shape == (wide, wide) for one in (layer.query, layer.key, layer.value, layer.out))
            and layer.up.weight.shape == (inner, wide)
            and layer.down.weight.shape == (wide, inner)
            for layer in net.layers
        )
    )
