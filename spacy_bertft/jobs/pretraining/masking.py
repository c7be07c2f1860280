"""Choosing and corrupting the subwords that a masked language model predicts (Devlin et al., 2019, 3.1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.masked_lm import mask_id
from spacy_bertft.types import Ints

Draw = Literal["unigram", "uniform"]
_Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Corruption:
    """How texts are corrupted."""

    rate: float = 0.15  # fraction of subwords, or of words, that are chosen
    masked: float = 0.8  # fraction of these that becomes the mask token
    random: float = 0.1  # … a random subword; the rest stays
    whole_words: bool = False  # choose words, not subwords
    draw: Draw = "unigram"  # random subwords: by frequency in the corpus, or uniformly


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer's V subwords, as far as corruption needs them."""

    mask: int
    special: _Bools  # (V,) never chosen, and never drawn
    word_starts: _Bools  # (V,) whether a word begins with it

    @classmethod
    def of(cls, subwords: Mapping[str, int], *, mask: int, special: Ints) -> Vocabulary:
        """subwords: the tokenizer's vocabulary; special: ids of its special tokens.

        The vocabulary shows which subwords continue a word: those with "##" (WordPiece), or without "Ġ" or "▁" (BPE and
        SentencePiece).
        """
        size = max(subwords.values()) + 1
        is_special = np.zeros(size, dtype=bool)
        is_special[special] = True
        starts = np.ones(size, dtype=bool)
        marks = [mark for mark in ("Ġ", "▁") if sum(text.startswith(mark) for text in subwords) > size // 20]
        for text, number in subwords.items():
            starts[number] = text.startswith(tuple(marks)) if marks else not text.startswith("##")
        return cls(mask, is_special, starts | is_special)


def vocabulary_of(encoder: Encoder) -> Vocabulary:
    """The vocabulary of an encoder's tokenizer. Raises EncoderError if it has no mask token."""
    content = json.loads(encoder.checkpoint.files["tokenizer.json"])
    special = [int(token["id"]) for token in content.get("added_tokens", []) if token.get("special")]
    return Vocabulary.of(encoder.tokenizer.get_vocab(), mask=mask_id(encoder), special=np.array(special))


@dataclass(frozen=True, slots=True)
class Corrupted:
    """Packed subwords after corruption, and the subwords to predict."""

    ids: Ints  # (N,)
    rows: Ints  # (M,) rows of the chosen subwords
    targets: Ints  # (M,) the original subwords


def corrupt(
    ids: Ints, settings: Corruption, vocabulary: Vocabulary, counts: Ints, generator: np.random.Generator
) -> Corrupted:
    """Choose subwords of packed windows and corrupt them.

    ids: (N,), including special tokens, in order within each window. counts: (V,) how often each subword occurs.
    """
    eligible = ~vocabulary.special[ids]
    if settings.whole_words:
        # A word begins at its first subword, and after every special token.
        starts = vocabulary.word_starts[ids] | np.append(True, ~eligible[:-1])
        word = np.cumsum(starts) - 1  # (N,)
        chosen = (generator.random(len(ids)) < settings.rate)[word] & eligible
    else:
        chosen = (generator.random(len(ids)) < settings.rate) & eligible
    (rows,) = chosen.nonzero()
    lot = generator.random(len(rows))
    corrupted = ids.copy()
    corrupted[rows[lot < settings.masked]] = vocabulary.mask
    other = rows[(lot >= settings.masked) & (lot < settings.masked + settings.random)]
    corrupted[other] = _draw(len(other), settings.draw, vocabulary, counts, generator)
    return Corrupted(corrupted, rows, ids[rows])


def _draw(n: int, how: Draw, vocabulary: Vocabulary, counts: Ints, generator: np.random.Generator) -> Ints:
    """Draw n subwords, none special."""
    weights = np.where(vocabulary.special, 0, counts if how == "unigram" else 1)
    sums = np.cumsum(weights)
    drawn: Ints = np.searchsorted(sums, generator.random(n) * sums[-1], side="right").astype(np.int64)
    return drawn
