"""Checkpoints with fewer subwords or layers, and checkpoints whose heads are kept."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from spacy_bertft.encoder.checkpoint import CONFIG, TOKENIZER, TOKENIZER_CONFIG, Checkpoint
from spacy_bertft.engines.family_names import FAMILIES
from spacy_bertft.errors import EncoderError
from spacy_bertft.jobs.shrink.vocabulary import Vocabulary, numbered

_WORDS = "vocab_size"
_EMBEDDINGS = ("word_embeddings.weight", "tok_embeddings.weight")
# Ends of the names of weights with a row per subword: embeddings, and what masked-LM heads have.
_ROWS = (
    *_EMBEDDINGS,
    "predictions.bias",
    "decoder.weight",
    "decoder.bias",
    "lm_head.weight",
    "lm_head.bias",
    "vocab_projector.weight",
    "vocab_projector.bias",
)
# Files of slow tokenizers, which hold the whole vocabulary once more.
_STALE = ("vocab.txt", "vocab.json", "merges.txt", "added_tokens.json")
_STALE_ENDINGS = (".model", ".spm")
# Families whose layers have weights of their own and are all of one kind.
_LAYERED = frozenset(FAMILIES) - {"albert", "modernbert"}


def named_ids(config: Mapping[str, Any]) -> dict[str, int]:
    """The ids of subwords in a config.json, such as its pad_token_id."""
    return {name: found for name, found in config.items() if name.endswith("_token_id") and type(found) is int}


def with_subwords(checkpoint: Checkpoint, vocabulary: Vocabulary, kept: set[str]) -> Checkpoint:
    """The checkpoint with these subwords only: rows of the embeddings, tokenizer and settings."""
    size = int(checkpoint.config[_WORDS])
    # A tokenizer may have more subwords than there are rows. They come last, and stay without one.
    old = [number for number in sorted(vocabulary.ids[subword] for subword in kept) if number < size]
    numbers = numbered(kept, vocabulary.ids)
    new = {vocabulary.ids[subword]: number for subword, number in numbers.items()}
    files = {
        name: _file(name, content, new)
        for name, content in checkpoint.files.items()
        if name not in _STALE and not name.endswith(_STALE_ENDINGS)
    }
    config = _with_new_ids(checkpoint.config, new) | {_WORDS: len(old)}
    files |= {CONFIG: _json(config), TOKENIZER: vocabulary.cut(kept)}
    weights = _rows(checkpoint, torch.tensor(old), size)
    return replace(checkpoint, files=files, weights=weights)


def _rows(checkpoint: Checkpoint, old: Tensor, size: int) -> dict[str, Tensor]:
    """The weights, with only the rows of some subwords. size: how many rows there were."""
    chosen = {name for name, one in checkpoint.weights.items() if name.endswith(_ROWS) and len(one) == size}
    if not any(name.endswith(_EMBEDDINGS) for name in chosen):
        raise EncoderError(
            f"The weights of the encoder's family {checkpoint.config.get('model_type')} hold no word embeddings with "
            f"{size} rows (looked for {' and '.join(_EMBEDDINGS)}). Expected an encoder of the BERT family. Leave its "
            "vocabulary as it is, or choose another encoder."
        )
    return {name: one[old] if name in chosen else one for name, one in checkpoint.weights.items()}


def _file(name: str, content: bytes, new: Mapping[int, int]) -> bytes:
    """A small file with new ids. new: old id -> new id."""
    if name == TOKENIZER_CONFIG:
        settings = _with_new_ids(json.loads(content), new)
        if "added_tokens_decoder" in settings:
            added: dict[str, Any] = settings["added_tokens_decoder"]
            settings["added_tokens_decoder"] = {
                str(new[int(old)]): one for old, one in added.items() if int(old) in new
            }
        return _json(settings)
    return _json(_with_new_ids(json.loads(content), new)) if name == "generation_config.json" else content


def _with_new_ids(settings: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    # An id that the tokenizer doesn't know is of no use to anyone.
    return {**settings, **{name: new.get(old) for name, old in named_ids(settings).items()}}


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"


def n_layers(checkpoint: Checkpoint) -> int | None:
    """The number of layers in the config; None if the family names them otherwise."""
    names = FAMILIES.get(str(checkpoint.config.get("model_type")))
    found = checkpoint.config.get(names.settings["layers"] if names else "num_hidden_layers")
    return found if isinstance(found, int) else None


def check_layers(checkpoint: Checkpoint) -> None:
    """Raise an EncoderError if the checkpoint's family is none whose layers can be dropped."""
    if checkpoint.config.get("model_type") not in _LAYERED:
        raise EncoderError(
            f"The encoder is of the family {checkpoint.config.get('model_type')}, whose layers can't be dropped. "
            f"Expected one of {', '.join(sorted(_LAYERED))}. Leave --layers out, or choose another encoder."
        )


def with_layers(checkpoint: Checkpoint, layers: Sequence[int]) -> Checkpoint:
    """The checkpoint with these of its layers only, renumbered."""
    check_layers(checkpoint)
    names = FAMILIES[str(checkpoint.config["model_type"])]
    layer = names.layer.removesuffix("{group}")
    inside = re.compile(rf"^((?:.*\.)?{re.escape(layer)})(\d+)(\..*)$")
    numbers = {old: new for new, old in enumerate(layers)}
    weights: dict[str, Tensor] = {}
    for name, one in checkpoint.weights.items():
        found = inside.match(name)
        if found is None:
            weights[name] = one
        elif int(found[2]) in numbers:
            weights[f"{found[1]}{numbers[int(found[2])]}{found[3]}"] = one
    config = {**checkpoint.config, names.settings["layers"]: len(layers)}
    return replace(checkpoint, files={**checkpoint.files, CONFIG: _json(config)}, weights=weights)


def untied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by name, each tensor once: a head that shares the embeddings is tied to them again when it is loaded."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    found: dict[str, Tensor] = {}
    # The embeddings first: in some families the head comes before them.
    for name in sorted(weights, key=lambda name: not name.endswith(_EMBEDDINGS)):
        one = weights[name]
        key = (one.data_ptr(), tuple(one.shape))
        if key not in seen or not one.numel():
            found[name] = one.detach()
        seen.add(key)
    return found


def n_parameters(checkpoint: Checkpoint) -> int:
    """The number of all weights."""
    return sum(one.numel() for one in checkpoint.weights_to_save().values())


def n_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of its weights and files on disk."""
    files = sum(map(len, checkpoint.files.values()))
    return files + sum(one.numel() * one.element_size() for one in checkpoint.weights_to_save().values())
