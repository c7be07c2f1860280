"""Frozen dataclasses shared by all floors. Arrays are int64 numpy arrays unless noted otherwise.

Letters used for shapes everywhere: B docs, T tokens, S subwords (special ones not counted), W windows,
N rows of a packed batch (subwords and special ones), D width, L labels or tags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
# float32: a tensor from engines that run on torch, numpy's array from ONNX Runtime, which needs no torch.
Rows: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Subwords:
    """The subwords of B texts, one after the other, without special ones."""

    ids: Ints  # (S,) row of each subword in the vocabulary
    starts: Ints  # (S,) first character, within the subword's text
    ends: Ints  # (S,) character after the last
    counts: Ints  # (B,) subwords of each text
    firsts: Ints | None = (
        None  # (B,) how many belong to the first of two segments, -1: no segments; None: no text has any
    )


@dataclass(frozen=True, slots=True)
class Specials:
    """The special subwords that a tokenizer puts around a text, and between two segments."""

    prefix: Ints
    middle: Ints
    suffix: Ints

    def count(self, *, paired: bool) -> int:
        """Number of special subwords in a window."""
        return len(self.prefix) + len(self.suffix) + (len(self.middle) if paired else 0)


@dataclass(frozen=True, slots=True)
class Alignment:
    """Which subwords each token owns; a subword over two tokens is owned by both."""

    subwords: Ints  # (P,) subwords, grouped by token, in order
    counts: Ints  # (T,) subwords of each token; 0 for white space and control characters


@dataclass(frozen=True, slots=True)
class Pieces:
    """One stretch of subwords for each of W windows, and the part of it that is read from this window."""

    starts: Ints  # (W,) first subword
    ends: Ints  # (W,) subword after the last
    keep_starts: Ints  # (W,) first subword that is read from this window
    keep_ends: Ints  # (W,) subword after the last that is read from this window


@dataclass(frozen=True, slots=True)
class Windows:
    """Overlapping pieces of the texts' subwords, in the order of the texts.

    A window holds one piece of a text or, if the text has two segments, one piece of each. The kept parts of all
    windows hold each subword exactly once.
    """

    pieces: Pieces  # of the text, or of its second segment
    counts: Ints  # (B,) windows of each text, at least one
    firsts: Pieces | None = None  # of the first segment, empty where a text has no segments; None: no text has any
    paired: NDArray[np.bool_] | None = None  # (W,) whether it holds two segments; None: none does


@dataclass(frozen=True, slots=True)
class Packed:
    """Windows side by side in one sequence, special subwords added, nothing padded. Longest first."""

    ids: Ints  # (N,)
    positions: Ints  # (N,) 0 at the start of each window
    lengths: Ints  # (W,)
    segments: Ints | None = None  # (N,) 1 in the second of two segments, else 0; None: 0 everywhere


@dataclass(frozen=True, slots=True)
class Features:
    """The encoder's output for B docs: hidden states, and the rows of each subword, token and window in them."""

    hidden: Rows  # (N, D)
    rows: Ints  # (S,) row of each subword, from the window where it is most central
    subword_counts: Ints  # (B,)
    token_subwords: Ints  # (P,) subwords (places in `rows`) of the tokens, grouped by token
    token_subword_counts: Ints  # (T,)
    token_counts: Ints  # (B,)
    cls_rows: Ints  # (W,) row of each window's first special subword; empty if the tokenizer adds none
    window_counts: Ints  # (B,)
    special_rows: Ints | None = None  # (X,) rows of the special subwords of all windows; None: not known
    special_counts: Ints | None = None  # (B,) …, of how many each doc has

    @property
    def n_subwords(self) -> int:
        """The number of subwords, each counted once."""
        return len(self.rows)
