"""Fast tokenisation of texts to subword ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from spacy_bertft.types import Ints

BATCH_TEXTS = 2_000  # tokenised in one call, or …
_BATCH_CHARACTERS = 1_000_000  # … this many characters; either is enough
MAX_TABLE = 4_000_000  # characters of words in a WordTable, about 100 MB
_LINE = 100  # words per line that WordTable tokenises

Encode = Callable[[Sequence[str]], tuple[NDArray[Any], Ints]]


def bare(tokenizer: Tokenizer) -> Tokenizer:
    """Copy a tokenizer, without truncation and padding; special tokens in texts are read as plain text."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Hash of a tokenizer, except its truncation and padding."""
    return hashlib.sha256(bare(tokenizer).to_str().encode()).hexdigest()


def in_batches(documents: Iterable[Sequence[str]]) -> Iterator[tuple[list[str], list[int]]]:
    """Yield batches of texts to tokenise, and the ends of the documents that end in them.

    An end is a number of texts of its batch. A document may continue in the next batch. The last batch may be empty.
    """
    texts: list[str] = []
    ends: list[int] = []
    size = 0
    for document in documents:
        for text in document:
            texts.append(text)
            size += len(text)
            if len(texts) >= BATCH_TEXTS or size >= _BATCH_CHARACTERS:
                yield texts, ends
                texts, ends, size = [], [], 0
        ends.append(len(texts))
    yield texts, ends


def make_encode(tokenizer: Tokenizer, dtype: np.dtype[Any]) -> Encode:
    """The fastest function from texts to their ids (S,) and the number of ids per text (X,), for a bare tokenizer."""
    if splits_at_spaces(tokenizer):
        return WordTable(tokenizer, dtype)

    def encode(texts: Sequence[str]) -> tuple[NDArray[Any], Ints]:
        ids = [encoding.ids for encoding in encode_fast(tokenizer, texts)]
        counts = np.fromiter(map(len, ids), np.int64, len(ids))
        return np.fromiter(chain.from_iterable(ids), dtype, int(counts.sum())), counts

    return encode


def encode_fast(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Encoding]:
    """Encode without special tokens, and without offsets if this version of tokenizers can."""
    encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
    encodings: list[Encoding] = encode(texts, add_special_tokens=False)
    return encodings


def splits_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether a bare tokenizer splits "a b" into the subwords of "a" and then of "b", for any a and b.

    BERT's does. Its normalizer maps characters one by one, except for decomposing and reordering combining marks, which
    never crosses a space; the pre-tokenizer splits at spaces; WordPiece handles single words. An added token that isn't
    special (special ones are not matched) might contain a space, so there must be none.
    """
    parts = json.loads(tokenizer.to_str())
    kinds = [(parts[name] or {}).get("type") for name in ("normalizer", "pre_tokenizer", "model")]
    special = all(added["special"] for added in parts["added_tokens"])
    return special and kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"]


class WordTable:
    """Tokenises each word (the text between spaces) only once; for tokenizers that split at spaces.

    Most words of a text have occurred before, and looking them up in a dict takes a tenth of the time.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype[Any]) -> None:
        self._tokenizer = tokenizer
        self._dtype = dtype
        self._ids: dict[str, bytes] = {"": b""}  # word -> its ids, as bytes
        self._size = 0  # characters

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[Any], Ints]:
        """The ids (S,) of all texts, and how many each has (X,)."""
        if self._size > MAX_TABLE:
            self._ids, self._size = {"": b""}, 0
        split = [text.split(" ") for text in texts]
        new = list(set[str]().union(*split).difference(self._ids))
        self._size += sum(map(len, new))
        self._learn(new)
        found = [b"".join(map(self._ids.__getitem__, words)) for words in split]
        counts = np.fromiter(map(len, found), np.int64, len(found)) // self._dtype.itemsize
        return np.frombuffer(b"".join(found), self._dtype), counts

    def _learn(self, words: Sequence[str]) -> None:
        """Tokenise new words, many per line, since one call per word takes twice as long.

        A subword belongs to the word that it starts in.
        """
        lines = [words[start : start + _LINE] for start in range(0, len(words), _LINE)]
        encodings = self._tokenizer.encode_batch([" ".join(line) for line in lines], add_special_tokens=False)
        for line, encoding in zip(lines, encodings, strict=True):
            starts = np.fromiter((start for start, _ in encoding.offsets), np.int64, len(encoding))
            word_ends = np.cumsum(np.fromiter(map(len, line), np.int64, len(line)) + 1)  # the space included
            ends = np.searchsorted(starts, word_ends) * self._dtype.itemsize
            ids = np.array(encoding.ids, self._dtype).tobytes()
            begin = 0
            for word, end in zip(line, ends.tolist(), strict=True):
                self._ids[word] = ids[begin:end]
                begin = end
