"""Reads a Net from a config and weights that are named as in transformers, which is not needed for that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from spacy_bertft.engines.family_names import FAMILIES, Names
from spacy_bertft.engines.family_settings import is_size
from spacy_bertft.engines.net import Activation, Disentangled, Layer, Linear, Net, Norm, Shape

if TYPE_CHECKING:
    from torch import Tensor

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
# Settings with the same name in all families: vocabulary size and number of positions.
_WORDS, _POSITIONS = "vocab_size", "max_position_embeddings"
# Linear maps that are several in one, and these.
_SPLITS = {"query_key_value": ("query", "key", "value"), "up_gate": ("up", "gate")}
# Linear maps of the feed-forward net; the others are attention's.
_FEED_FORWARD = frozenset({"up", "down", "up_gate"})


def read_shape(config: Mapping[str, Any]) -> Shape | None:
    """Read the shape from a config.json; None if the encoder is of another family or kind."""
    family = config.get("model_type")
    names = FAMILIES.get(family) if isinstance(family, str) else None
    activation = _ACTIVATIONS.get(str(config.get(names.settings["activation"]))) if names else None
    if names is None or activation is None:
        return None
    usual = config.get("position_embedding_type", "absolute") == "absolute" and not config.get("is_decoder")
    sizes: list[Any] = [config.get(name) for name in size_settings(str(family))]
    padding: Any = config.get("pad_token_id") if names.padding == "config" else names.padding
    if not usual or not all(map(is_size, sizes)) or (names.padding is not None and not isinstance(padding, int)):
        return None
    extra = names.extra(config)
    if extra is None:
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
        eps=float(config.get(names.settings["eps"], names.eps)),
        first_position=0 if padding is None else padding + 1,
        **extra,
    )


def size_settings(family: str) -> tuple[str, ...]:
    """Names of the config settings that determine the matrix sizes of one of these families."""
    names = FAMILIES[family].settings
    return (*(names[name] for name in ("width", "inner", "layers", "heads")), _WORDS, _POSITIONS)


def eps_setting(family: str) -> str:
    """Name of the config setting for the epsilon of one of these families' norms."""
    return FAMILIES[family].settings["eps"]


def read_net(shape: Shape, weights: Mapping[str, Tensor]) -> Net | None:
    """The encoder's matrices; None if names (AutoModel's) or sizes of the weights don't match the shape."""
    if shape.width % shape.heads:
        return None
    try:
        return _net(shape, _Weights(weights))
    except _MisfitError:
        return None


def misfit(shape: Shape, weights: Mapping[str, Tensor]) -> str | None:
    """Describe a weight whose size differs from the config, for a message; None if there is none."""
    try:
        _net(shape, _Weights(weights, lenient=True))
    except _MisfitError as error:
        return error.found
    return None


def linear_names(shape: Shape) -> list[dict[str, str]]:
    """The names of each layer's linear maps, by the fields of Layer, or of the maps that are several of them in one."""
    names = FAMILIES[shape.family]
    return [
        {part: f"{prefix}.{name}" for part, name in _linears(shape, names).items()}
        for prefix in _prefixes(shape, names)
    ]


def _linears(shape: Shape, names: Names) -> dict[str, str]:
    """The linear maps that a layer of this shape has: those of distances are the layer's own, or left out."""
    linears = dict(names.linears)
    if isinstance(shape.distances, Disentangled):
        for part, used in (("key", shape.distances.key), ("query", shape.distances.query)):
            if not used:
                linears.pop(f"position_{part}")
            elif shape.distances.shared:
                linears[f"position_{part}"] = linears[part]
    return linears


def _prefixes(shape: Shape, names: Names) -> Iterator[str]:
    """How the names of each layer's weights begin; the same for layers that share them."""
    groups, repeats = (shape.layers, 1) if shape.sharing is None else (shape.sharing.groups, shape.sharing.repeats)
    for number in range(shape.layers):
        for inner in range(repeats):
            yield names.layer.format(group=int(number / (shape.layers / groups)), inner=inner)


class _MisfitError(Exception):
    """A weight is missing (`found` is None), or its size differs from the config."""

    def __init__(self, found: str | None = None) -> None:
        super().__init__()
        self.found = found


class _Weights:
    """Takes weights by name, and checks their sizes."""

    def __init__(self, weights: Mapping[str, Tensor], *, lenient: bool = False) -> None:
        """lenient: put up with missing weights, and give only sizes."""
        self.weights = weights
        self.lenient = lenient
        self.left = 2 * len(weights)  # to be missing: the config may claim a million layers

    def __contains__(self, name: str) -> bool:
        return name in self.weights

    def take(self, name: str, *size: int) -> Tensor:
        """A weight of this size."""
        found = self.weights.get(name)
        if found is None:
            self.left -= 1
            if not self.lenient or self.left < 0:
                raise _MisfitError
        elif tuple(found.shape) != size:
            raise _MisfitError(f"{name} is {tuple(found.shape)}, but config.json says {size}")
        if found is not None and not self.lenient:
            return found
        import torch

        return torch.empty(size, device="meta")

    def columns(self, *names: str) -> int | None:
        """The number of columns of the first of these weights that there is."""
        return next((self.weights[name].shape[-1] for name in names if name in self.weights), None)

    def table(self, name: str, rows: int | None, width: int) -> Tensor:
        """A table of embeddings; rows: None for any number of them."""
        if rows is None:
            found = self.weights.get(f"{name}.weight")
            rows = 1 if found is None else len(found)
        return self.take(f"{name}.weight", rows, width)

    def linear(self, name: str, out: int, into: int, *, bias: bool = True) -> Linear:
        """A linear map."""
        weight = self.take(f"{name}.weight", out, into)
        return Linear(weight, self.take(f"{name}.bias", out) if bias else weight.new_zeros(out))

    def norm(self, name: str, width: int, *, bias: bool = True) -> Norm:
        """A LayerNorm."""
        weight = self.take(f"{name}.weight", width)
        return Norm(weight, self.take(f"{name}.bias", width) if bias else weight.new_zeros(width))


def _net(shape: Shape, weights: _Weights) -> Net:
    names, with_bias = FAMILIES[shape.family], shape.biases.norms
    project = None
    embedded = shape.width
    if names.project and (names.needs_project or f"{names.project}.weight" in weights):
        embedded = weights.columns(f"{names.project}.weight", f"{names.words}.weight") or embedded
        project = weights.linear(names.project, shape.width, embedded)
    layers: dict[str, Layer] = {}
    stack = []
    for number, prefix in enumerate(_prefixes(shape, names)):
        if prefix not in layers:
            layers[prefix] = _layer(shape, weights, prefix, number)
        stack.append(layers[prefix])
    return Net(
        shape=shape,
        words=weights.table(names.words, shape.words, embedded),
        positions=_positions(shape, weights, embedded),
        norm=weights.norm(names.norm, embedded, bias=with_bias),
        project=project,
        layers=tuple(stack),
        final_norm=weights.norm(names.final_norm, shape.width, bias=with_bias) if names.final_norm else None,
        **_distances(shape, weights),
    )


def _positions(shape: Shape, weights: _Weights, embedded: int) -> Tensor | None:
    """The embeddings of positions, with those of segments added. (K, P, E)."""
    names = FAMILIES[shape.family]
    positions = weights.table(names.positions, shape.positions, embedded) if shape.learned_positions else None
    if names.segments is None or (shape.segments is None and f"{names.segments}.weight" not in weights):
        return None if positions is None else positions[None]
    segments = weights.table(names.segments, shape.segments, embedded)
    if positions is None:
        positions = segments.new_zeros(shape.positions, embedded)
    if weights.lenient:  # sizes alone; to add them, torch would import all of torch._dynamo, which takes a second
        return positions
    return positions + segments[:2, None]


def _layer(shape: Shape, weights: _Weights, prefix: str, number: int) -> Layer:
    names, wide, inner, biases = FAMILIES[shape.family], shape.width, shape.inner, shape.biases
    sizes = {"query_key_value": (3 * wide, wide), "up": (inner, wide), "up_gate": (2 * inner, wide),
             "down": (wide, inner)}  # fmt: skip
    fields: dict[str, Any] = {}
    for part, name in _linears(shape, names).items():
        bias = biases.feed_forward if part in _FEED_FORWARD else biases.attention
        whole = weights.linear(f"{prefix}.{name}", *sizes.get(part, (wide, wide)), bias=bias)
        if part in _SPLITS:
            fields |= zip(_SPLITS[part], whole.split(len(_SPLITS[part])), strict=True)
        else:
            fields[part] = whole
    for part, name in names.norms.items():
        if number or part != "attention_norm":  # the norm of the embeddings comes before the first layer
            fields[part] = weights.norm(f"{prefix}.{name}", wide, bias=biases.norms)
    return Layer(**fields, rotary=shape.rotary[number] if shape.rotary else None)


def _distances(shape: Shape, weights: _Weights) -> dict[str, Tensor]:
    """The fields of Net for attention by distance."""
    names, found = FAMILIES[shape.family], shape.distances
    if found is None or names.distances is None:
        return {}
    if not isinstance(found, Disentangled):
        return {"distance_biases": weights.table(names.distances, found.buckets, shape.heads)}
    rows = weights.table(names.distances, 2 * found.span, shape.width)
    if found.norm and names.distance_norm:
        from torch.nn.functional import layer_norm

        norm = weights.norm(names.distance_norm, shape.width)
        if not weights.lenient:
            rows = layer_norm(rows, norm.weight.shape, norm.weight, norm.bias, shape.eps)
    return {"distances": rows}
