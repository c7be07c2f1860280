"""Checks that a checkpoint has the weights that its encoder needs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spacy_bertft.engines.family_names import FAMILIES
from spacy_bertft.engines.family_settings import is_size
from spacy_bertft.engines.family_weights import eps_setting, misfit, read_shape, size_settings
from spacy_bertft.errors import EncoderError

if TYPE_CHECKING:
    from torch import Tensor

# Suffixes of transformers' classes with a task head.
_FINE_TUNED = ("ForTokenClassification", "ForSequenceClassification", "ForQuestionAnswering", "ForMultipleChoice")
# How the names of their weights begin, for checkpoints that don't say what they are.
_OF_HEADS = ("classifier.", "pre_classifier.", "qa_outputs.")

# Config settings that are a size of some matrix of the encoder, and settings for the number of layers.
_WIDTHS = ("hidden_size", "dim", "embedding_size", "intermediate_size", "hidden_dim")
_SIZES = (*_WIDTHS, "vocab_size", "num_attention_heads", "n_heads")
_LAYERS = ("num_hidden_layers", "n_layers", "num_hidden_groups", "inner_group_num")
_MOST_LAYERS = 1000


def check_weights(source: str, model: Any, absent: list[str], unknown: list[str], *, saved: bool) -> None:
    """Raise an error or a warning for missing and unexpected weights of a checkpoint."""
    kind = type(model).__name__
    needed = sum(not may_be_left(name) for name, _ in model.named_parameters())
    if saved and (absent or unknown):
        raise EncoderError(
            f"The weights of the saved encoder {source!r} do not match its {kind}: found {needed - len(absent)} "
            f"of {needed} parameters (missing: {listed(absent)}) and {len(unknown)} others ({listed(unknown)}). "
            "Expected the file that was saved with the pipeline. Copy it again, or train the pipeline again."
        )
    if len(absent) >= needed:
        raise EncoderError(
            f"The weights of {source!r} hold none of the {needed} parameters of {kind} (found: {listed(unknown)}). "
            "Expected a checkpoint of the family that its config.json names. Check the encoder's name, and where its "
            "weights come from."
        )
    if absent:
        warnings.warn(
            f"The weights of {source!r} lack {len(absent)} parameters of {kind}, which start at random: "
            f"{listed(absent)}. Expected all {needed}, of a checkpoint of this family; check the encoder's name.",
            stacklevel=3,
        )
    trained_head = [name for name in getattr(model.config, "architectures", None) or () if name.endswith(_FINE_TUNED)]
    if unknown and (trained_head or any(name.startswith(_OF_HEADS) for name in unknown)):
        labels = [str(label) for label in (model.config.id2label or {}).values()]
        what = trained_head[0] if trained_head else "checkpoint with a head"
        warnings.warn(
            f"{source!r} is a fine-tuned {what} (labels: {listed(labels)}). Its encoder is used, its head "
            f"is not ({listed(unknown)}): the heads of this pipeline start at random. Train them; to use the head as "
            "it is, run `bertft import`.",
            stacklevel=3,
        )


def check_finite(source: str, weights: Mapping[str, Tensor]) -> None:
    """Raise an EncoderError for weights that are NaN or infinite."""
    broken = not_finite(weights)
    if broken:
        raise EncoderError(
            f"The weights of {source!r} hold NaN or infinite numbers, in {listed(broken)}. Expected finite ones: "
            "its training diverged, or the file is damaged. Take an earlier checkpoint, or train with a lower learning "
            "rate."
        )


def check_sizes(source: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Raise an EncoderError if the sizes in a saved config are invalid or don't match the weights.

    To be called before a model is built from it: a million layers or a billion positions exhaust time or memory.
    """
    known = size_settings(config["model_type"]) if config.get("model_type") in FAMILIES else ()
    largest = max((size for tensor in weights.values() for size in tensor.shape), default=0)
    problems = [f"{key} is {config.get(key)!r:.40}" for key in known if not is_size(config.get(key))]
    for key, most in {**dict.fromkeys(_SIZES, largest), **dict.fromkeys(_LAYERS, _MOST_LAYERS)}.items():
        if is_size(config.get(key)) and config[key] > most:
            problems.append(f"{key} is {config[key]}, too large for these weights")
    eps_name = eps_setting(config["model_type"]) if known else ""
    eps = config.get(eps_name, 1e-12)
    if known and not (isinstance(eps, float) and 0 < eps < 1):
        problems.append(f"{eps_name} is {eps!r:.40}, not a number between 0 and 1")
    # With wrong types here, old versions of transformers build a model that fails at its first text or is causal.
    kinds = {"hidden_act": str, "activation": str, "hidden_activation": str, "is_decoder": bool}
    wrong = [key for key, kind in kinds.items() if key in config and not isinstance(config[key], kind)]
    problems += [f"{key} is {config[key]!r:.40}, not a {kinds[key].__name__}" for key in wrong]
    shape = None if problems else read_shape(config)
    if shape is not None:
        problems = [problem for problem in (misfit(shape, weights),) if problem]
        if not 0 <= shape.first_position < shape.positions:
            problems.append(f"pad_token_id is {config.get('pad_token_id')}, after the last position")
    if problems:
        raise EncoderError(
            f"The config.json of the saved encoder {source!r} does not fit its weights: {'; '.join(problems)}. "
            "Expected both as they were saved with the pipeline. Undo the change in config.json, or copy both again."
        )


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """The names of weights that hold NaN or infinite numbers."""
    import torch

    # A sum takes one pass, and is not finite if one of its terms is not.
    return [name for name, tensor in weights.items() if not torch.isfinite(tensor.sum(dtype=torch.float64))]


def may_be_left(name: str) -> bool:
    """Whether an encoder may lack this weight, or leave it unused: a pooler, or position ids."""
    return "pooler" in name or name.endswith("position_ids")


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names for a message, the first of them if there are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "nothing"
