"""A BERT from scratch: a vocabulary learned from texts, and random weights of a named size."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from spacy_bertft.encoder.checkpoint import saved_files
from spacy_bertft.encoder.masked_lm import set_dropout
from spacy_bertft.errors import DataError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
Size = Literal["tiny", "mini", "small", "medium", "base"]
# Layers and width D as in Turc et al., 2019, Well-read students learn better. A head has width 64, the inner layer 4 D.
SIZES: Mapping[Size, tuple[int, int]] = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
}
_HEAD_WIDTH = 64
_ALWAYS_KNOWN = 1000  # most frequent characters of a corpus


def learn_vocabulary(texts: Iterable[str], size: int, *, lowercase: bool = True) -> list[str]:
    """Learn a WordPiece vocabulary of about `size` subwords, in the order of their ids; deterministic for given texts.

    Characters rarer than one in a million become unknown, except the thousand most frequent.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    words: Counter[str] = Counter()  # split at white space
    for text in texts:
        words.update(normalizer.normalize_str(text).split())
    if not words:
        raise DataError("Found no words to learn a vocabulary from. Expected texts. Correct the corpus's paths.")
    known = _alphabet(words)
    # As special tokens, the characters get fixed ids. Otherwise the trainer numbers them in the order of a hash map,
    # and merges pairs of equal frequency in a different order every time.
    fixed = [*SPECIAL, *known, *(f"##{character}" for character in known)]
    if len(fixed) >= size:
        raise DataError(
            f"found {len(known)} different characters in the texts; expected at most {(size - len(SPECIAL)) // 2} "
            f"for a vocabulary of {size}; fix: raise encoder.vocabulary"
        )
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, min_frequency=2, special_tokens=fixed, show_progress=False)
    tokenizer.train_from_iterator(_repeated(words, known), trainer)
    numbers = tokenizer.get_vocab()
    return sorted(numbers, key=lambda subword: numbers[subword])


def _alphabet(words: Mapping[str, int]) -> list[str]:
    """The characters to keep, sorted."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    commonest = sorted(counts, key=lambda character: (-counts[character], character))
    total = counts.total()
    rare = [character for character in commonest[_ALWAYS_KNOWN:] if counts[character] * 1_000_000 < total]
    return sorted(set(commonest).difference(rare))


def _repeated(words: Mapping[str, int], known: Sequence[str]) -> Iterator[str]:
    """Yield each word of known characters as often as it occurs, since the trainer takes no counts."""
    characters = set(known)
    for word, count in words.items():
        if characters.issuperset(word):
            for done in range(0, count, 1000):
                yield " ".join([word] * min(1000, count - done))


def tokenizer_files(vocabulary: Sequence[str], *, lowercase: bool, positions: int) -> dict[str, bytes]:
    """The files of a fast BERT tokenizer."""
    from tokenizers.implementations import BertWordPieceTokenizer  # type: ignore[attr-defined]

    numbers = {subword: number for number, subword in enumerate(vocabulary)}
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase, "model_max_length": positions}
    settings |= dict(zip(names, SPECIAL, strict=True))
    with TemporaryDirectory() as folder:
        path = Path(folder, "tokenizer.json")
        BertWordPieceTokenizer(numbers, lowercase=lowercase).save(str(path))
        return {
            "tokenizer.json": path.read_bytes(),
            "tokenizer_config.json": (json.dumps(settings, indent=2) + "\n").encode(),
            "vocab.txt": "".join(f"{subword}\n" for subword in vocabulary).encode(),
        }


def new_model(
    layers: int,
    width: int,
    *,
    vocabulary_size: int,
    positions: int,
    seed: int,
    embedding_width: int | None = None,
    next_sentence: bool = False,
    dropout: float | None = None,
) -> tuple[Any, dict[str, bytes]]:
    """A BERT with its pretraining heads and random weights, and its config.json.

    embedding_width: of narrower embeddings, which a linear map widens; such a BERT is of the family ELECTRA.
    dropout: in this model, but not in its config.json; None: as in config.json.
    """
    from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, ElectraConfig, ElectraForMaskedLM

    sizes: dict[str, Any] = {
        "vocab_size": vocabulary_size,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // _HEAD_WIDTH,
        "intermediate_size": 4 * width,
        "max_position_embeddings": positions,
    }
    config: Any = BertConfig(**sizes)
    kind: Any = BertForPreTraining if next_sentence else BertForMaskedLM
    if embedding_width not in (None, width):
        config, kind = ElectraConfig(**sizes, embedding_size=embedding_width), ElectraForMaskedLM
    files = saved_files(config)
    set_dropout(config, dropout)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return kind(config), files
