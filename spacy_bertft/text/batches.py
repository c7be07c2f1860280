"""Length buckets within a budget of subwords, and the packed form of a bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from spacy_bertft.text.alignment import ramps
from spacy_bertft.types import Ints, Packed, Pieces, Specials, Windows

T = TypeVar("T")


def bucket(lengths: Ints, *, budget: int, padded: bool) -> list[Ints]:
    """Group windows of similar length, longest first, with at most `budget` subwords per group.

    lengths: (W,) with special subwords. A window longer than the budget gets a separate group.
    padded: count each window as long as the longest of its group.
    """
    order = np.argsort(-lengths, kind="stable")
    groups: list[Ints] = []
    start = total = 0
    for place, length in enumerate(lengths[order].tolist()):
        longest = int(lengths[order[start]])
        after = longest * (place - start + 1) if padded else total + length
        if place > start and after > budget:
            groups.append(order[start:place])
            start, total = place, 0
        total += length
    if len(order):
        groups.append(order[start:])
    return groups


def window_lengths(windows: Windows, specials: Specials) -> Ints:
    """Number of rows of each window (W,), special subwords included."""
    lengths: Ints = windows.pieces.ends - windows.pieces.starts + specials.count(paired=False)
    if windows.firsts is not None and windows.paired is not None:
        lengths = lengths + windows.firsts.ends - windows.firsts.starts + windows.paired * len(specials.middle)
    return lengths


def subword_rows(windows: Windows, first_rows: Ints, specials: Specials, *, n_subwords: int) -> Ints:
    """The row (S,) of each subword in the window that it is read from. first_rows: (W,) first row of each window."""
    rows = np.empty(n_subwords, dtype=np.int64)
    for pieces, before in _places(windows, specials):
        kept = pieces.keep_ends - pieces.keep_starts  # (W,)
        subwords = np.repeat(pieces.keep_starts, kept) + ramps(kept)
        rows[subwords] = subwords + np.repeat(first_rows + before - pieces.starts, kept)
    return rows


def special_rows(windows: Windows, first_rows: Ints, specials: Specials) -> tuple[Ints, Ints]:
    """The rows (X,) of the special subwords, text by text, and how many each text has (B,).

    first_rows: (W,) first row of each window.
    """
    after = first_rows + window_lengths(windows, specials)  # (W,)
    columns = [first_rows[:, None] + np.arange(len(specials.prefix))]
    if windows.paired is not None:
        second = first_rows + _places(windows, specials)[-1][1]  # (W,) where the second segment begins
        middle = second[:, None] - np.arange(len(specials.middle), 0, -1)
        columns.append(np.where(windows.paired[:, None], middle, -1))
    columns.append(after[:, None] - np.arange(len(specials.suffix), 0, -1))
    rows = np.concatenate(columns, axis=1)
    per_window = (rows >= 0).sum(axis=1)  # (W,)
    text_of = np.repeat(np.arange(len(windows.counts)), windows.counts)
    counts: Ints = np.bincount(text_of, weights=per_window, minlength=len(windows.counts)).astype(np.int64)
    return rows[rows >= 0], counts


def _places(windows: Windows, specials: Specials) -> list[tuple[Pieces, Ints]]:
    """The pieces of the windows, each with the number of rows (W,) that precede it in its window."""
    before: Ints = np.full(len(windows.pieces.starts), len(specials.prefix))
    if windows.firsts is None or windows.paired is None:
        return [(windows.pieces, before)]
    behind = before + windows.firsts.ends - windows.firsts.starts + windows.paired * len(specials.middle)
    return [(windows.firsts, before), (windows.pieces, behind)]


def pack(ids: Ints, windows: Windows, chosen: Ints, specials: Specials) -> Packed:
    """Lay the chosen windows side by side, with the special subwords around and between their pieces.

    ids: (S,) the subwords of all texts.
    """
    lengths = window_lengths(windows, specials)[chosen]  # (W,)
    positions = ramps(lengths)  # (N,)
    starts = np.cumsum(lengths) - lengths  # (W,)
    packed = np.empty(len(positions), dtype=np.int64)

    def fill(values: Ints, at: Ints) -> None:
        for place, special in enumerate(values):
            packed[at + place] = special

    parts = _places(windows, specials)
    for pieces, before in parts:
        sizes = (pieces.ends - pieces.starts)[chosen]
        within = ramps(sizes)
        packed[np.repeat(starts + before[chosen], sizes) + within] = ids[
            np.repeat(pieces.starts[chosen], sizes) + within
        ]
    fill(specials.prefix, starts)
    fill(specials.suffix, starts + lengths - len(specials.suffix))
    if windows.paired is None:
        return Packed(packed, positions, lengths)
    paired = windows.paired[chosen]
    second = parts[-1][1][chosen]  # (W,) where the second segment begins
    fill(specials.middle, (starts + second - len(specials.middle))[paired])
    return Packed(packed, positions, lengths, (positions >= np.repeat(np.where(paired, second, lengths), lengths)) * 1)


def positions(packed: Packed, first: int) -> Ints:
    """Position ids (N,) as the family counts them: RoBERTa's start after the padding id and skip padding in a text.

    first: the position of a window's first subword.
    """
    if not first:
        return packed.positions
    padding = first - 1
    counted = (packed.ids != padding).astype(np.int64)
    so_far = np.cumsum(counted)
    before = (so_far - counted)[packed.positions == 0]  # (W,) counted in the windows before
    shifted: Ints = padding + counted * (so_far - np.repeat(before, packed.lengths))
    return shifted


def pad(values: Ints, lengths: Ints, padding: int) -> tuple[NDArray[np.bool_], Ints]:
    """Pad each window to the longest: a mask of the real cells, and the padded values. (W, longest) both.

    values: (N,) of packed windows.
    """
    real = np.arange(lengths.max(initial=1)) < lengths[:, None]
    cells = np.full(real.shape, padding, dtype=np.int64)
    cells[real] = values
    return real, cells


def chunk(items: Iterable[T], *, size: int, budget: int, cost: Callable[[T], int]) -> Iterator[list[T]]:
    """Cut a stream into lists of at most `size` items, closed as soon as their costs reach `budget`."""
    held: list[T] = []
    spent = 0
    for item in items:
        held.append(item)
        spent += cost(item)
        if len(held) >= size or spent >= budget:
            yield held
            held, spent = [], 0
    if held:
        yield held
