"""Texts -> subwords with character offsets, and which token owns each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from spacy_bertft.errors import EncoderError
from spacy_bertft.text.alignment import align, ramps, take_groups
from spacy_bertft.text.windows import shorten
from spacy_bertft.types import Alignment, Ints, Specials, Subwords


@dataclass(frozen=True, slots=True)
class Texts:
    """B texts and the character offsets of their T tokens."""

    texts: Sequence[str]
    token_starts: Ints  # (T,) within the token's text
    token_ends: Ints  # (T,)
    token_counts: Ints  # (B,)
    # (B, 4) character offsets: start and end of the first segment, start and end of the second; -1: the text has no
    # segments. None: no text has any.
    segments: Ints | None = None


class Splitter:
    """A fast tokenizer without truncation and padding."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.specials = _special_subwords(tokenizer)
        self._process = os.getpid()

    def tokenize(self, texts: Sequence[str]) -> Subwords:
        """Split raw texts into subwords with character offsets, without truncation."""
        if len(texts) > 1 and os.getpid() == self._process:
            encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        else:  # encode_batch runs in a thread pool, which a forked worker would wait for forever
            encodings = [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        ids = [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        offsets = [np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) for encoding in encodings]
        bounds = np.concatenate([np.zeros((0, 2), dtype=np.int64), *offsets])
        return Subwords(
            ids=np.concatenate([np.zeros(0, dtype=np.int64), *ids]),
            starts=bounds[:, 0],
            ends=bounds[:, 1],
            counts=np.array([len(of_text) for of_text in ids], dtype=np.int64),
        )

    def split(self, texts: Texts) -> Subwords:
        """Split texts into subwords. Of a text with two segments, only these are split, each by itself."""
        if texts.segments is None:
            return self.tokenize(texts.texts)
        bounds = [
            (number, start, end)
            for number, (text, segments) in enumerate(zip(texts.texts, texts.segments.tolist(), strict=True))
            for start, end in ([(0, len(text))] if segments[0] < 0 else [segments[:2], segments[2:]])
        ]
        pieces = [texts.texts[number][start:end] for number, start, end in bounds]
        # The same context often comes with many questions: each distinct piece is tokenised once.
        places = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
        distinct = self.tokenize(list(places))
        chosen = np.array([places[piece] for piece in pieces], dtype=np.int64)
        sizes = distinct.counts[chosen]
        shift = np.repeat(np.array([start for _, start, _ in bounds], dtype=np.int64), sizes)
        text_of = np.array([number for number, _, _ in bounds], dtype=np.int64)
        paired = texts.segments[:, 0] >= 0  # (B,)
        first_places = np.searchsorted(text_of, np.arange(len(texts.texts)))
        return Subwords(
            ids=take_groups(distinct.ids, distinct.counts, chosen),
            starts=take_groups(distinct.starts, distinct.counts, chosen) + shift,
            ends=take_groups(distinct.ends, distinct.counts, chosen) + shift,
            counts=np.bincount(text_of, sizes, len(texts.texts)).astype(np.int64),
            firsts=np.where(paired, sizes[first_places], -1),
        )


def shortened(subwords: Subwords, *, pair_size: int) -> Subwords:
    """Shorten each pair of segments, the longer one first, until both fit in `pair_size` subwords."""
    if subwords.firsts is None:
        return subwords
    counts, firsts = subwords.counts, subwords.firsts
    first, second = shorten(counts, firsts, pair_size=pair_size)
    place, of_first = ramps(counts), np.repeat(np.maximum(firsts, 0), counts)
    in_second = (place >= of_first) & (place < of_first + np.repeat(second, counts))
    kept = (place < np.repeat(first, counts)) | in_second
    return Subwords(
        subwords.ids[kept],
        subwords.starts[kept],
        subwords.ends[kept],
        first + second,
        np.where(firsts < 0, -1, first),
    )


def align_texts(subwords: Subwords, texts: Texts) -> Alignment:
    """Align all texts in one call: their characters are numbered in sequence, with a gap of one between texts."""
    sizes = np.array([len(text) + 1 for text in texts.texts], dtype=np.int64)
    base = np.cumsum(sizes) - sizes  # (B,)
    of_subword = np.repeat(base, subwords.counts)  # (S,)
    of_token = np.repeat(base, texts.token_counts)  # (T,)
    return align(
        subwords.starts + of_subword,
        subwords.ends + of_subword,
        texts.token_starts + of_token,
        texts.token_ends + of_token,
    )


def _special_subwords(tokenizer: Tokenizer) -> Specials:
    """The special subwords around a text and between two; `middle` is empty if the tokenizer doesn't support pairs."""
    alone, pair = tokenizer.encode("a"), tokenizer.encode("a", "a")
    body = [place for place, special in enumerate(alone.special_tokens_mask) if not special]
    if not body:
        raise EncoderError(
            "The encoder's tokenizer gives no subword for the text \"a\". Expected a tokenizer for the encoder's "
            "language and script, with a vocabulary that covers this text or contains an unknown subword."
        )
    ids = np.array(alone.ids, dtype=np.int64)
    second = pair.sequence_ids.index(1)
    between = slice(body[-1] + 1, second)
    return Specials(ids[: body[0]], np.array(pair.ids[between], dtype=np.int64), ids[body[-1] + 1 :])
