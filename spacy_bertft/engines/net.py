"""An encoder as plain matrices, with what sets the families apart: all that our own engines know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from spacy_bertft.text.batches import positions
from spacy_bertft.types import Ints, Packed

if TYPE_CHECKING:
    from torch import Tensor

Activation = Literal["gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True, slots=True)
class Biases:
    """Which parts of the layers have biases."""

    norms: bool = True
    attention: bool = True
    feed_forward: bool = True


@dataclass(frozen=True, slots=True)
class Sharing:
    """How layers share weights (ALBERT): the layers of a group, which follow each other, have the same.

    Each of them has `repeats` inner layers, with weights of their own.
    """

    groups: int
    repeats: int


@dataclass(frozen=True, slots=True)
class Rotary:
    """Attention with rotary positions (RoFormer, Su et al., 2021): query and key are turned by position-wise angles."""

    base: float  # the angle per position is base ** (-2i / size) for the i-th pair of a head's channels
    reach: int | None  # the largest distance at which two subwords see each other; None: unlimited


@dataclass(frozen=True, slots=True)
class DistanceBias:
    """A number per head and distance is added to attention's scores (T5, MPNet). Long distances share numbers."""

    buckets: int


@dataclass(frozen=True, slots=True)
class Disentangled:
    """Attention that also compares contents with distances (DeBERTa, He et al., 2021)."""

    span: int  # half the number of embeddings of distances
    buckets: int  # above 0: far distances share embeddings, logarithmically
    furthest: int  # distance at which the last bucket begins
    key: bool  # the query meets the embedded distance ("c2p")
    query: bool  # the key meets it ("p2c")
    shared: bool  # distances are projected by the layer's own query and key
    norm: bool  # the embeddings of distances are normalised

    @property
    def parts(self) -> int:
        """Number of products that make a score."""
        return 1 + self.key + self.query


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes and settings of an encoder, from its config."""

    family: str
    width: int  # D
    inner: int  # F, the width between `up` and `down`
    layers: int
    heads: int  # H
    words: int  # V, subwords in the vocabulary
    positions: int  # P
    segments: int | None  # number of segment types; None if the config has none
    activation: Activation
    eps: float  # of the norms
    first_position: int  # of a window's first subword
    learned_positions: bool = True  # whether embeddings of positions are added to those of words
    biases: Biases = Biases()
    sharing: Sharing | None = None
    rotary: tuple[Rotary, ...] | None = None  # of each layer
    distances: DistanceBias | Disentangled | None = None

    @property
    def scale(self) -> float:
        """What attention multiplies its scores by."""
        parts = self.distances.parts if isinstance(self.distances, Disentangled) else 1
        return float((self.width // self.heads * parts) ** -0.5)


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix product with bias, which is 0 where the family has none."""

    weight: Tensor  # (out, in)
    bias: Tensor  # (out,)

    def split(self, parts: int) -> tuple[Linear, ...]:
        """The same outputs as several products."""
        return tuple(map(Linear, self.weight.chunk(parts), self.bias.chunk(parts)))


@dataclass(frozen=True, slots=True)
class Norm:
    """The scale and shift of a LayerNorm; the shift is 0 where the family has none."""

    weight: Tensor  # (D,)
    bias: Tensor  # (D,)


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer: attention, then a feed-forward net, each added to its input.

    Norms come after the sums (`out_norm`, `down_norm`) or before what is added (`attention_norm`, `up_norm`).
    """

    query: Linear  # (D, D)
    key: Linear
    value: Linear
    out: Linear
    up: Linear  # (F, D)
    down: Linear  # (D, F)
    gate: Linear | None = None  # (F, D), multiplied by what the activation gives (GeGLU)
    attention_norm: Norm | None = None
    out_norm: Norm | None = None
    up_norm: Norm | None = None
    down_norm: Norm | None = None
    rotary: Rotary | None = None
    position_key: Linear | None = None  # (D, D), of the distances that a query meets
    position_query: Linear | None = None  # (D, D), of the distances that a key meets

    def query_key_value(self) -> Linear:
        """The three products as one. (3D, D)."""
        import torch

        three = (self.query, self.key, self.value)
        return Linear(torch.cat([one.weight for one in three]), torch.cat([one.bias for one in three]))


@dataclass(frozen=True, slots=True)
class Net:
    """A whole encoder. E is the width of the embeddings, which is D unless they are projected (ELECTRA, ALBERT)."""

    shape: Shape
    words: Tensor  # (V, E)
    positions: Tensor | None  # (K, P, E), with the embedding of each of K segments added
    norm: Norm  # (E,)
    project: Linear | None  # (D, E)
    layers: tuple[Layer, ...]  # layers that share their weights are the same object
    final_norm: Norm | None = None  # (D,), after the last layer
    distance_biases: Tensor | None = None  # (R, H) of DistanceBias
    distances: Tensor | None = None  # (R, D) of Disentangled, which the layers' position_key and position_query read

    @property
    def n_segments(self) -> int:
        """How many segments it tells apart, K; 1 if none."""
        return 1 if self.positions is None else len(self.positions)

    def position_rows(self, packed: Packed) -> Ints:
        """The row of each subword in the flattened positions. (N,)."""
        rows = positions(packed, self.shape.first_position)
        if packed.segments is None or self.n_segments == 1:
            return rows
        return rows + packed.segments * self.shape.positions
