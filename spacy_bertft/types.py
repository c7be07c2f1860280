"""Frozen dataclasses that cross floors. Arrays are int64 numpy arrays unless said otherwise.

Letters used for shapes everywhere: B docs, T tokens, S subwords (special ones not counted), W windows,
N rows of a packed batch (subwords and special ones), D width, L labels or tags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Subwords:
    """The subwords of B texts, one after the other, without special ones."""

    ids: Ints  # (S,) row of each subword in the vocabulary
    starts: Ints  # (S,) first character in its own text
    ends: Ints  # (S,) character behind the last in its own text
    counts: Ints  # (B,) subwords of each text


@dataclass(frozen=True, slots=True)
class Alignment:
    """Which subwords each token owns; a subword over two tokens is owned by both."""

    subwords: Ints  # (P,) subwords, grouped by token, in order
    counts: Ints  # (T,) subwords of each token; 0 for white space and control characters


@dataclass(frozen=True, slots=True)
class Windows:
    """Overlapping pieces of the texts' subwords, in the order of the texts.

    The kept parts of the windows hold each subword exactly once.
    """

    starts: Ints  # (W,) first subword
    ends: Ints  # (W,) subword behind the last
    keep_starts: Ints  # (W,) first subword that is read from this window
    keep_ends: Ints  # (W,) subword behind the last that is read from this window
    counts: Ints  # (B,) windows of each text, at least one


@dataclass(frozen=True, slots=True)
class Packed:
    """Windows side by side in one sequence, special subwords added, nothing padded. Longest first."""

    ids: Ints  # (N,)
    positions: Ints  # (N,) 0 at the start of each window
    lengths: Ints  # (W,)


@dataclass(frozen=True, slots=True)
class Features:
    """What the encoder says of B docs: rows of `hidden`, and where to find what in it."""

    hidden: torch.Tensor  # (N, D) float32
    rows: Ints  # (S,) row of each subword, from the window where it is most central
    subword_counts: Ints  # (B,)
    token_subwords: Ints  # (P,) subwords (places in `rows`) of the tokens, grouped by token
    token_subword_counts: Ints  # (T,)
    token_counts: Ints  # (B,)
    cls_rows: Ints  # (W,) row of each window's first special subword; empty if the tokenizer adds none
    window_counts: Ints  # (B,)
