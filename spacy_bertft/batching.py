"""Length buckets under a budget of subwords, and the packed form of a bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from spacy_bertft.align import ramps
from spacy_bertft.types import Ints, Packed, Windows

T = TypeVar("T")


def bucket(lengths: Ints, *, budget: int, padded: bool) -> list[Ints]:
    """Group windows of like length, longest first, at most `budget` subwords in a group.

    lengths: (W,) with special subwords. A window longer than the budget is a group of its own.
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


def pack(ids: Ints, windows: Windows, chosen: Ints, *, prefix: Ints, suffix: Ints) -> Packed:
    """Lay the chosen windows side by side, each between the special subwords `prefix` and `suffix`.

    ids: (S,) the subwords of all texts.
    """
    bodies = windows.ends[chosen] - windows.starts[chosen]  # (W,)
    lengths = bodies + len(prefix) + len(suffix)  # (W,)
    positions = ramps(lengths)  # (N,)
    starts = np.cumsum(lengths) - lengths  # (W,)
    packed = np.empty(len(positions), dtype=np.int64)
    body_rows = np.repeat(starts + len(prefix), bodies) + ramps(bodies)
    packed[body_rows] = ids[np.repeat(windows.starts[chosen], bodies) + ramps(bodies)]
    for place, special in enumerate(prefix):
        packed[starts + place] = special
    for place, special in enumerate(suffix):
        packed[starts + len(prefix) + bodies + place] = special
    return Packed(packed, positions, lengths)


def positions(packed: Packed, first: int) -> Ints:
    """Positions (N,) as the family counts them: RoBERTa's from behind the padding's, skipping padding in a text.

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


def pad(packed: Packed, padding: int) -> tuple[NDArray[np.bool_], Ints]:
    """Each window a row, padded to the longest: which cells are real, and the ids. (W, longest) both."""
    real = np.arange(packed.lengths.max(initial=1)) < packed.lengths[:, None]
    ids = np.full(real.shape, padding, dtype=np.int64)
    ids[real] = packed.ids
    return real, ids


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
