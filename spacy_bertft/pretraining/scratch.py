"""A BERT from nothing: a vocabulary learned from texts, and random weights of a named size."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from spacy_bertft.checkpoint import read_files
from spacy_bertft.errors import DataError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
Size = Literal["tiny", "mini", "small", "medium", "base"]
# Layers and width, of Turc et al., 2019, Well-read students learn better. A head is 64 wide, the inner width is 4 D.
SIZES: Mapping[Size, tuple[int, int]] = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
}
HEAD_WIDTH = 64


def learn_vocabulary(texts: Iterable[str], size: int, *, lowercase: bool = True) -> list[str]:
    """A WordPiece vocabulary of about `size` subwords, in the order of their ids.

    Characters that are rarer than one in a million, beyond the first thousand, become unknown.
    """
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _splitters(lowercase)
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        limit_alphabet=1000,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    numbers = tokenizer.get_vocab()
    if len(numbers) <= len(SPECIAL):
        raise DataError("Found no words to learn a vocabulary from. Expected texts. Correct the corpus's paths.")
    return sorted(numbers, key=lambda subword: numbers[subword])


def _splitters(lowercase: bool) -> tuple[Any, Any]:
    from tokenizers import normalizers, pre_tokenizers

    return normalizers.BertNormalizer(lowercase=lowercase), pre_tokenizers.BertPreTokenizer()


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
    size: Size, *, vocabulary_size: int, positions: int, seed: int, next_sentence: bool = False
) -> tuple[Any, dict[str, bytes]]:
    """A BERT with its pretraining heads and random weights, and its config.json."""
    from transformers import BertConfig, BertForMaskedLM, BertForPreTraining

    layers, width = SIZES[size]
    config = BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD_WIDTH,
        intermediate_size=4 * width,
        max_position_embeddings=positions,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model: Any = (BertForPreTraining if next_sentence else BertForMaskedLM)(config)
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return model, read_files(Path(folder))
