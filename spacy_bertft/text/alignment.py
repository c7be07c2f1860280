"""Character offsets of subwords and of tokens -> which token owns each subword."""

from __future__ import annotations

import numpy as np

from spacy_bertft.types import Alignment, Ints


def align(subword_starts: Ints, subword_ends: Ints, token_starts: Ints, token_ends: Ints) -> Alignment:
    """Give each token every subword that shares a character with it.

    subword_starts, subword_ends: (S,) character offsets; any order, empty subwords own nothing.
    token_starts, token_ends: (T,) character offsets of tokens in order, not overlapping, none empty.

    Binary searches find each subword's first and last token. This works for WordPiece, byte-level BPE (offsets that
    include the space before, several subwords for one character) and SentencePiece alike.
    """
    # A token overlaps a subword if it ends after the subword's start and starts before its end.
    first = np.searchsorted(token_ends, subword_starts, side="right")  # (S,)
    behind_last = np.searchsorted(token_starts, subword_ends, side="left")  # (S,)
    owners = np.where(subword_ends > subword_starts, np.maximum(behind_last - first, 0), 0)  # (S,)
    subwords = np.repeat(np.arange(len(owners)), owners)  # (P,)
    tokens = np.repeat(first, owners) + ramps(owners)  # (P,)
    by_token = np.argsort(tokens, kind="stable")
    return Alignment(
        subwords=subwords[by_token],
        counts=np.bincount(tokens, minlength=len(token_starts)).astype(np.int64),
    )


def ramps(counts: Ints) -> Ints:
    """[3, 0, 2] -> [0, 1, 2, 0, 1]."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def take_groups(values: Ints, counts: Ints, groups: Ints) -> Ints:
    """The values of the chosen groups, in the order of `groups`. `values` holds all groups one after the other."""
    starts = np.cumsum(counts) - counts
    chosen = counts[groups]
    return values[np.repeat(starts[groups], chosen) + ramps(chosen)]
