"""The least that an encoder has to compute for a text, and the speed that this allows.

Counted are the matrix products alone: of the queries, keys, values and the output (4 D x D a subword), of the inner
layer (2 D x F), and those of attention (2 of length x length x D a window). A product of a multiply and an add is two
operations. Embeddings, norms, activations, softmax and heads count nothing, and no subword is encoded twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

WINDOW = 512  # subwords at most, special ones included


@dataclass(frozen=True)
class Shape:
    """Layers, width D and inner width F of an encoder."""

    layers: int
    width: int
    inner: int


def window_lengths(n_subwords: int, n_special: int) -> list[int]:
    """Lengths of the fewest windows that hold a text, spread evenly; special subwords included."""
    n_windows = max(1, -(-n_subwords // (WINDOW - n_special)))
    share, rest = divmod(n_subwords, n_windows)
    return [share + (place < rest) + n_special for place in range(n_windows)]


def gflop(shape: Shape, lengths: Iterable[int]) -> float:
    """Billions of operations for windows of these lengths."""
    lengths = list(lengths)
    linear = 2 * (4 * shape.width**2 + 2 * shape.width * shape.inner) * sum(lengths)
    attention = 4 * shape.width * sum(length**2 for length in lengths)
    return shape.layers * (linear + attention) / 1e9
