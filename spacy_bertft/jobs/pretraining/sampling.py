"""The windows of a cached corpus in training order: shuffled in blocks, so that few pages are read at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spacy_bertft.text.alignment import ramps
from spacy_bertft.types import Ints, Pieces, Windows

# Neighbouring windows that stay together when a corpus is shuffled, and how many such blocks are mixed.
BLOCK, _BLOCKS_MIXED = 1024, 64


@dataclass(frozen=True, slots=True)
class Stretches:
    """Stretches of a corpus's subwords that become windows, without special tokens."""

    starts: Ints  # (W,)
    ends: Ints  # (W,)
    documents: Ints  # (W,)

    def __len__(self) -> int:
        """W."""
        return len(self.starts)


def stretch(text_ends: Ints, document_ends: Ints, *, size: int) -> Stretches:
    """Cut texts into windows of about equal length, at most `size` subwords each; none crosses the end of its text.

    text_ends: (X,) index after each text's last subword; document_ends: (Y,) index after each document's last text.
    """
    starts = np.append(0, text_ends[:-1])
    counts = text_ends - starts
    n_windows = -(-counts // size)  # (X,); an empty text has none
    text = np.repeat(np.arange(len(counts)), n_windows)
    place = ramps(n_windows)
    first = starts[text] + place * counts[text] // n_windows[text]
    behind = starts[text] + (place + 1) * counts[text] // n_windows[text]
    return Stretches(first, behind, np.searchsorted(document_ends, text, side="right"))


def pair_stretch(text_ends: Ints, document_ends: Ints, *, size: int) -> Stretches:
    """Join neighbouring texts of a document into stretches of at most `size` subwords; longer texts are cut."""
    found: list[tuple[int, int, int]] = []
    first_text = start = end = 0
    for document, behind in enumerate(document_ends.tolist()):
        for text_end in text_ends[first_text:behind].tolist():
            if text_end - start > size and end > start:
                found.append((start, end, document))
                start = end
            while text_end - start > size:
                found.append((start, start + size, document))
                start += size
            end = text_end
        if end > start:
            found.append((start, end, document))
        first_text, start = behind, end
    return Stretches(*np.array(found, dtype=np.int64).reshape(-1, 3).T)


def order(n_windows: int, *, seed: int) -> Iterator[Ints]:
    """Yield window indices endlessly, several at a time, in a new order every epoch."""
    n_blocks = -(-n_windows // BLOCK)
    for epoch in range(2**62):
        generator = np.random.default_rng([seed, epoch])
        blocks = generator.permutation(n_blocks)
        for first in range(0, n_blocks, _BLOCKS_MIXED):
            mixed = blocks[first : first + _BLOCKS_MIXED]
            numbers = (mixed[:, None] * BLOCK + np.arange(BLOCK)).ravel()
            numbers = numbers[numbers < n_windows]
            yield numbers[generator.permutation(len(numbers))]


def batches(n_windows: int, size: int, *, seed: int, skip: int = 0) -> Iterator[Ints]:
    """Yield batches of `size` window indices endlessly, without the first `skip` batches."""
    held = np.zeros(0, dtype=np.int64)
    to_skip = skip * size
    for numbers in order(n_windows, seed=seed):
        if to_skip >= len(numbers):
            to_skip -= len(numbers)
            continue
        held = np.concatenate([held, numbers[to_skip:]])
        to_skip = 0
        while len(held) >= size:
            yield held[:size]
            held = held[size:]


def plain_windows(stretches: Stretches, chosen: Ints) -> Windows:
    """Make a window of each chosen stretch."""
    starts, ends = stretches.starts[chosen], stretches.ends[chosen]
    return Windows(Pieces(starts, ends, starts, ends), np.ones_like(starts))


def neighbour_windows(
    stretches: Stretches, chosen: Ints, text_ends: Ints, *, size: int, generator: np.random.Generator
) -> tuple[Windows, Ints]:
    """Make a window of two segments of each chosen stretch, and tell whether the second follows the first (W,).

    In half of them it does: the stretch is divided between two of its texts (or a single text in its middle). In the
    others it is the beginning of a stretch of another document (Devlin et al., 2019, section 3.1, task 2).
    """
    is_next = (generator.random(len(chosen)) < 0.5).astype(np.int64)
    first_ends, second_starts, second_ends = (np.empty(len(chosen), dtype=np.int64) for _ in range(3))
    for place, (number, follows) in enumerate(zip(chosen.tolist(), is_next.tolist(), strict=True)):
        start, end = int(stretches.starts[number]), int(stretches.ends[number])
        inside = text_ends[slice(*np.searchsorted(text_ends, [start, end - 1], side="right"))]
        border = int(generator.choice(inside)) if len(inside) else (start + end + 1) // 2
        first_ends[place], second_starts[place], second_ends[place] = border, border, end
        if not follows:
            other = _of_another_document(stretches, number, generator)
            begin, room = int(stretches.starts[other]), size - (border - start)
            second_starts[place], second_ends[place] = begin, min(int(stretches.ends[other]), begin + room)
    starts = stretches.starts[chosen]
    return (
        Windows(
            pieces=Pieces(second_starts, second_ends, second_starts, second_ends),
            counts=np.ones_like(starts),
            firsts=Pieces(starts, first_ends, starts, first_ends),
            paired=np.ones(len(chosen), dtype=bool),
        ),
        is_next,
    )


def _of_another_document(stretches: Stretches, number: int, generator: np.random.Generator) -> int:
    for _ in range(100):
        other = int(generator.integers(len(stretches)))
        if stretches.documents[other] != stretches.documents[number]:
            return other
    return (number + len(stretches) // 2) % len(stretches)  # the corpus has (nearly) one document
