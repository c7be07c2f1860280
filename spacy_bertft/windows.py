"""Subwords -> overlapping windows. Counted in subwords, so nothing is ever dropped."""

from __future__ import annotations

import numpy as np

from spacy_bertft.align import ramps
from spacy_bertft.errors import ConfigError
from spacy_bertft.types import Ints, Windows


def cut(counts: Ints, *, size: int, overlap: int) -> Windows:
    """Cut each text into windows of at most `size` subwords, neighbours sharing at least `overlap`.

    counts: (B,) subwords of each text. A text without any gets one empty window: special subwords alone.

    The windows of a long text are all full and spread evenly. Between two neighbours the middle of what they share
    is the border: each subword is read from the window where it is most central.

        subwords   0 1 2 3 4 5 6 7 8 9        size 6, overlap 2
        window 0   [K K K K K . ]
        window 1           [. K K K K K ]     K: kept
    """
    if not 0 <= overlap < size:
        raise ConfigError(
            f"The encoder's overlap is {overlap} and its window holds {size} subwords (special ones not counted); "
            f"expected 0 <= overlap < {size}. Set a smaller overlap or a larger window."
        )
    text_starts = np.cumsum(counts) - counts  # (B,)
    stride = size - overlap
    n_windows = 1 + np.maximum(0, -(-(counts - size) // stride))  # (B,)
    text = np.repeat(np.arange(len(counts)), n_windows)  # (W,)
    spare = np.maximum(counts - size, 0)[text]  # (W,) how far the last window's start is from the first's
    last = np.maximum(n_windows - 1, 1)[text]  # (W,)
    starts = text_starts[text] + ramps(n_windows) * spare // last
    ends = np.minimum(starts + size, (text_starts + counts)[text])
    keep_starts, keep_ends = starts.copy(), ends.copy()
    inner = np.flatnonzero(text[1:] == text[:-1])  # windows with a neighbour behind them in the same text
    border = (starts[inner + 1] + ends[inner]) // 2
    keep_ends[inner] = border
    keep_starts[inner + 1] = border
    return Windows(starts, ends, keep_starts, keep_ends, n_windows)
