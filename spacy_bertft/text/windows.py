"""Subwords -> overlapping windows. Their size is counted in subwords, so nothing is ever dropped."""

from __future__ import annotations

import numpy as np

from spacy_bertft.errors import ConfigError
from spacy_bertft.text.alignment import ramps
from spacy_bertft.types import Ints, Pieces, Windows


def cut(counts: Ints, *, size: int, overlap: int) -> Windows:
    """Cut each text into windows of at most `size` subwords, neighbours sharing at least `overlap`.

    counts: (B,) subwords of each text. A text without any gets one empty window, with special subwords only.

    The windows of a long text are as few as do, equally long, and no longer than that takes: full ones would share more
    subwords than was asked for, and each of those is encoded twice. The border between two neighbours is the middle of
    their overlap, so each subword is read from the window where it is most central.

        subwords   0 1 2 3 4 5 6 7 8 9        size 7, overlap 2
        window 0   [K K K K K . ]
        window 1           [. K K K K K ]     K: kept
    """
    if not 0 <= overlap < size:
        raise ConfigError(
            f"The encoder's overlap is {overlap} and its window holds {size} subwords (special ones not counted); "
            f"expected 0 <= overlap < {size}. Set a smaller overlap or a larger window."
        )
    pieces, n_pieces = _spread(counts, np.cumsum(counts) - counts, np.full_like(counts, size), overlap)
    return Windows(pieces, n_pieces)


def cut_pairs(counts: Ints, firsts: Ints, *, size: int, pair_size: int, overlap: int) -> Windows:
    """Cut texts, some of which have two segments; each window of such a text holds a piece of both.

    counts: (B,) subwords of each text; firsts: (B,) how many of them are in the first segment, -1: no segments.
    size: subwords in a window of a text without segments; pair_size: in a window of a text with two.

    A segment that leaves at least half of the window to the other is repeated in every window. If both are longer, each
    piece of the first is combined with each piece of the second. A piece is read from the first window that holds it.
    """
    paired = firsts >= 0
    first, second = np.maximum(firsts, 0), counts - np.maximum(firsts, 0)  # (B,)
    half = pair_size // 2
    first_size = np.where(first + second <= pair_size, first, np.maximum(half, pair_size - second))
    first_size = np.maximum(np.where(first <= half, first, first_size), 1)
    second_size = np.maximum(np.where(paired, pair_size - np.minimum(first, first_size), size), 1)
    starts = np.cumsum(counts) - counts
    of_first, n_first = _spread(first, starts, first_size, overlap)
    of_second, n_second = _spread(second, starts + first, second_size, overlap)
    n_windows = n_first * n_second  # (B,)
    text = np.repeat(np.arange(len(counts)), n_windows)  # (W,)
    place = ramps(n_windows)
    of_window = np.divmod(place, n_second[text])  # which piece of the first, and of the second
    return Windows(
        pieces=_take(of_second, (np.cumsum(n_second) - n_second)[text] + of_window[1], kept=of_window[0] == 0),
        counts=n_windows,
        firsts=_take(of_first, (np.cumsum(n_first) - n_first)[text] + of_window[0], kept=of_window[1] == 0),
        paired=paired[text],
    )


def shorten(counts: Ints, firsts: Ints, *, pair_size: int) -> tuple[Ints, Ints]:
    """Number of subwords (B,) left of each segment if the longer one is shortened until both fit in a window."""
    first, second = np.maximum(firsts, 0), counts - np.maximum(firsts, 0)
    limit = np.maximum(pair_size // 2, pair_size - np.minimum(first, second))
    too_long = (firsts >= 0) & (first + second > pair_size)
    first_left = np.where(too_long, np.minimum(first, limit), first)
    return first_left, np.where(too_long, np.minimum(second, pair_size - first_left), second)


def _spread(counts: Ints, first_subwords: Ints, sizes: Ints, overlap: int) -> tuple[Pieces, Ints]:
    """Cut stretches of subwords into pieces of at most `sizes` (B,). Also returns the number of pieces (B,) of each."""
    overlaps = np.where(sizes > overlap, overlap, sizes // 2)  # small pieces overlap by half
    n_pieces = 1 + np.maximum(0, -(-(counts - sizes) // (sizes - overlaps)))  # (B,)
    sizes = -(-(counts + (n_pieces - 1) * overlaps) // n_pieces)
    text = np.repeat(np.arange(len(counts)), n_pieces)  # (W,)
    spare = np.maximum(counts - sizes, 0)[text]  # (W,) how far the last piece's start is from the first's
    last = np.maximum(n_pieces - 1, 1)[text]  # (W,)
    starts = first_subwords[text] + ramps(n_pieces) * spare // last
    ends = np.minimum(starts + sizes[text], (first_subwords + counts)[text])
    keep_starts, keep_ends = starts.copy(), ends.copy()
    inner = np.flatnonzero(text[1:] == text[:-1])  # pieces followed by another one of the same text
    border = (starts[inner + 1] + ends[inner]) // 2
    keep_ends[inner] = border
    keep_starts[inner + 1] = border
    return Pieces(starts, ends, keep_starts, keep_ends), n_pieces


def _take(pieces: Pieces, chosen: Ints, *, kept: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Pieces:
    """The chosen pieces (W,), of which only those `kept` (W,) are read."""
    keep_starts = pieces.keep_starts[chosen]
    return Pieces(
        pieces.starts[chosen],
        pieces.ends[chosen],
        keep_starts,
        np.where(kept, pieces.keep_ends[chosen], keep_starts),
    )
