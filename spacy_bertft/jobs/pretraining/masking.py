"""Which subwords a masked language model has to guess, and what stands in their places (Devlin et al., 2019, 3.1)."""

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

    rate: float = 0.15  # of subwords, or of words, that are chosen
    masked: float = 0.8  # of these, how many become the mask
    random: float = 0.1  # … another subword; the others stay
    whole_words: bool = False  # choose words, not subwords
    draw: Draw = "unigram"  # other subwords: as often as they occur in the corpus, or all alike


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What corrupting needs to know of a tokenizer's V subwords."""

    mask: int
    special: _Bools  # (V,) never chosen, and never drawn
    word_starts: _Bools  # (V,) whether a word begins with it

    @classmethod
    def of(cls, subwords: Mapping[str, int], *, mask: int, special: Ints) -> Vocabulary:
        """subwords: the tokenizer's vocabulary; special: ids of its special subwords.

        How a subword goes on with a word is read off the vocabulary: "##" before it (WordPiece), or no "Ġ" or "▁" (BPE
        and SentencePiece).
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
    """The vocabulary of an encoder's tokenizer. An EncoderError if it has no mask subword."""
    content = json.loads(encoder.checkpoint.files["tokenizer.json"])
    special = [int(token["id"]) for token in content.get("added_tokens", []) if token.get("special")]
    return Vocabulary.of(encoder.tokenizer.get_vocab(), mask=mask_id(encoder), special=np.array(special))


@dataclass(frozen=True, slots=True)
class Corrupted:
    """Packed subwords to guess from, and what to guess."""

    ids: Ints  # (N,)
    rows: Ints  # (M,) rows of the chosen subwords
    targets: Ints  # (M,) the subwords that were there


def corrupt(
    ids: Ints, settings: Corruption, vocabulary: Vocabulary, counts: Ints, generator: np.random.Generator
) -> Corrupted:
    """Choose subwords of packed windows and corrupt them.

    ids: (N,), special ones included, those of a window in order. counts: (V,) how often each subword occurs.
    """
    eligible = ~vocabulary.special[ids]
    if settings.whole_words:
        # A word begins at its first subword, and behind every special one.
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
    """n subwords, none special."""
    weights = np.where(vocabulary.special, 0, counts if how == "unigram" else 1)
    sums = np.cumsum(weights)
    drawn: Ints = np.searchsorted(sums, generator.random(n) * sums[-1], side="right").astype(np.int64)
    return drawn
