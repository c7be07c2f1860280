"""The BERT family's encoder as plain matrices, read from a config and weights named as in transformers.

Our own engines work on this form. Only this module knows the families' names, and it doesn't need transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
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
_WORD_ROWS, _POSITION_ROWS = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
_SEGMENT_ROWS = "embeddings.token_type_embeddings.weight"
# Settings with the same name in all families: vocabulary size and number of positions.
_WORDS, _POSITIONS = "vocab_size", "max_position_embeddings"
# Families whose positions start after the padding id.
_POSITIONS_BEHIND_PADDING = frozenset({"roberta", "camembert", "xlm-roberta"})


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes and settings of an encoder of these families, from its config."""

    family: str
    width: int  # D
    inner: int  # F, the width between `up` and `down`
    layers: int
    heads: int  # H
    words: int  # V, subwords in the vocabulary
    positions: int
    segments: int | None  # number of segment types; None if the config has none
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
        import torch

        three = (self.query, self.key, self.value)
        return Linear(torch.cat([one.weight for one in three]), torch.cat([one.bias for one in three]))


@dataclass(frozen=True, slots=True)
class Net:
    """A whole encoder. E is the width of the embeddings, which is D except in small ELECTRA models."""

    shape: Shape
    words: Tensor  # (V, E)
    positions: Tensor  # (K, positions, E), with the embedding of each of K segments added
    norm: Norm  # (E,)
    project: Linear | None  # (D, E)
    layers: tuple[Layer, ...]


def read_shape(config: Mapping[str, Any]) -> Shape | None:
    """Read the shape from a config.json; None if the encoder is of another family or kind."""
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
    sizes: list[Any] = [config.get(name) for name in size_settings(str(family))]
    padding: Any = config.get("pad_token_id")
    behind = family in _POSITIONS_BEHIND_PADDING
    if not usual or not all(map(is_size, sizes)) or (behind and not isinstance(padding, int)):
        return None
    width, inner, layers, heads, words, positions = sizes
    segments = config.get("type_vocab_size")
    return Shape(
        family=str(family),
        width=width,
        inner=inner,
        layers=layers,
        heads=heads,
        words=words,
        positions=positions,
        segments=segments if is_size(segments) else None,
        activation=activation,
        eps=float(config.get("layer_norm_eps", 1e-12)),
        first_position=padding + 1 if behind else 0,
    )


def size_settings(family: str) -> tuple[str, ...]:
    """Names of the config settings that determine the matrix sizes of one of these families."""
    names = FAMILIES[family].settings
    return (*(names[name] for name in ("width", "inner", "layers", "heads")), _WORDS, _POSITIONS)


def is_size(found: object) -> bool:
    """Whether it is an integer above 0."""
    return isinstance(found, int) and not isinstance(found, bool) and found > 0


def read_net(shape: Shape, weights: Mapping[str, Tensor]) -> Net | None:
    """The encoder's matrices; None if names (AutoModel's) or sizes of the weights don't match the shape."""
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

    if shape.width % shape.heads or any(_size(weights, name) != size for name, size in _sizes(shape, weights)):
        return None
    positions, segments = weights[_POSITION_ROWS], weights.get(_SEGMENT_ROWS)
    return Net(
        shape=shape,
        words=weights[_WORD_ROWS],
        positions=positions[None] if segments is None else positions + segments[:2, None],
        norm=norm("embeddings.LayerNorm"),
        project=linear("embeddings_project") if "embeddings_project.weight" in weights else None,
        layers=tuple(map(layer, range(shape.layers))),
    )


def linear_names(shape: Shape) -> list[dict[str, str]]:
    """The names of each layer's linear maps, by the fields of Layer."""
    names = FAMILIES[shape.family]
    parts = ("query", "key", "value", "out", "up", "down")
    return [
        {part: f"{names.layer}.{number}.{getattr(names, part)}" for part in parts} for number in range(shape.layers)
    ]


def misfit(shape: Shape, weights: Mapping[str, Tensor]) -> str | None:
    """Describe a weight whose size differs from the config, for a message; None if there is none."""
    for name, size in islice(_sizes(shape, weights), 2 * len(weights)):  # the config may claim a million layers
        found = _size(weights, name)
        if found not in (None, size):
            return f"{name} is {found}, but config.json says {size}"
    return None


def _size(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None


def _sizes(shape: Shape, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names of a net's weights and their expected sizes."""
    names, wide, inner = FAMILIES[shape.family], shape.width, shape.inner
    project = _size(weights, "embeddings_project.weight")
    embedded = wide if project is None else project[-1]  # any width if it is projected
    yield _WORD_ROWS, (shape.words, embedded)
    yield _POSITION_ROWS, (shape.positions, embedded)
    if shape.segments is not None and names is _BERT:
        yield _SEGMENT_ROWS, (shape.segments, embedded)
    elif _SEGMENT_ROWS in weights:
        yield _SEGMENT_ROWS, (len(weights[_SEGMENT_ROWS]), embedded)
    yield from _norm_sizes("embeddings.LayerNorm", embedded)
    if project is not None:
        yield from _linear_sizes("embeddings_project", wide, embedded)
    for number in range(shape.layers):
        inside = f"{names.layer}.{number}"
        for name in (names.query, names.key, names.value, names.out):
            yield from _linear_sizes(f"{inside}.{name}", wide, wide)
        yield from _norm_sizes(f"{inside}.{names.out_norm}", wide)
        yield from _linear_sizes(f"{inside}.{names.up}", inner, wide)
        yield from _linear_sizes(f"{inside}.{names.down}", wide, inner)
        yield from _norm_sizes(f"{inside}.{names.down_norm}", wide)


def _linear_sizes(name: str, out: int, into: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _norm_sizes(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
