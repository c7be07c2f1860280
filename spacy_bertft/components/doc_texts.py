"""The encoder's inputs from Docs: texts, character offsets of tokens, segments."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from spacy.attrs import IDX, LENGTH, ORTH, SPACY
from spacy.tokens import Doc

from spacy_bertft.components.pairs import segment_bounds
from spacy_bertft.text.batches import chunk
from spacy_bertft.text.subwords import Splitter, Texts
from spacy_bertft.types import Ints

# Characters per batch of a stream: without a limit, the features of long texts would fill the memory.
STREAM_CHARACTERS = 400_000
# Texts that are split at a time.
_SPLIT_TEXTS = 256


def texts_of(docs: Sequence[Doc]) -> Texts:
    """Texts, token offsets and segments of Docs."""
    bounds = [doc.to_array([IDX, LENGTH]).astype(np.int64).reshape(-1, 2) for doc in docs]
    tokens = np.concatenate([np.zeros((0, 2), dtype=np.int64), *bounds])  # (T, 2)
    return Texts(
        texts=[doc.text for doc in docs],
        token_starts=tokens[:, 0],
        token_ends=tokens.sum(axis=1),
        token_counts=np.array([len(doc) for doc in docs], dtype=np.int64),
        segments=segment_bounds(docs),
    )


def content_of(doc: Doc) -> bytes:
    """A key that copies of a Doc share: its tokens and spaces."""
    content: bytes = doc.to_array([ORTH, SPACY]).tobytes()
    return content


def digest_of(doc: Doc) -> bytes:
    """A digest of what an encoder reads of a Doc: tokens, spaces and segments. 16 bytes."""
    bounds = segment_bounds([doc])
    return blake2b(content_of(doc) + (b"" if bounds is None else bounds.tobytes()), digest_size=16).digest()


def n_characters(doc: Doc) -> int:
    """Length of a Doc's text without its trailing space, computed without building `doc.text`."""
    return doc[-1].idx + len(doc[-1]) if len(doc) else 0


def subword_counts(docs: Sequence[Doc], splitter: Splitter) -> Ints:
    """The number of subwords of each text, without special ones, (B,)."""
    parts = chunk(docs, size=_SPLIT_TEXTS, budget=STREAM_CHARACTERS, cost=n_characters)
    return np.concatenate([np.zeros(0, dtype=np.int64), *(splitter.split(texts_of(part)).counts for part in parts)])
