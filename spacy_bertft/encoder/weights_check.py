"""Whether the weights of a checkpoint are those that its encoder needs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spacy_bertft.errors import EncoderError

# What transformers calls its models with a head that was trained for a task.
_FINE_TUNED = ("ForTokenClassification", "ForSequenceClassification", "ForQuestionAnswering", "ForMultipleChoice")


def check_weights(source: str, model: Any, absent: list[str], unknown: list[str], *, saved: bool) -> None:
    """What a checkpoint lacks, or has too much, is an error or a warning."""
    kind = type(model).__name__
    needed = sum(not may_be_left(name) for name, _ in model.named_parameters())
    if saved and (absent or unknown):
        raise EncoderError(
            f"The weights of the saved encoder {source!r} are not those of its {kind}: found {needed - len(absent)} "
            f"of {needed} parameters (missing: {listed(absent)}) and {len(unknown)} others ({listed(unknown)}). "
            "Expected the file that was saved with the pipeline. Copy it again, or train the pipeline anew."
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
    if trained_head and unknown:
        labels = [str(label) for label in (model.config.id2label or {}).values()]
        warnings.warn(
            f"{source!r} is a fine-tuned {trained_head[0]} (labels: {listed(labels)}). Its encoder is used, its head "
            f"is not ({listed(unknown)}): the heads of this pipeline start at random. Train them.",
            stacklevel=3,
        )


def check_finite(source: str, weights: Mapping[str, Tensor]) -> None:
    """An EncoderError for weights that are no numbers."""
    # A sum takes one pass, and is no number if one of its parts is none.
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor.sum(dtype=torch.float64))]
    if broken:
        raise EncoderError(
            f"The weights of {source!r} hold NaN or infinite numbers, in {listed(broken)}. Expected finite ones: "
            "its training diverged, or the file is damaged. Take an earlier checkpoint, or train with a lower learning "
            "rate."
        )


def may_be_left(name: str) -> bool:
    """Whether an encoder may lack this weight, or leave it unused: a pooler, or numbers that count positions."""
    return "pooler" in name or name.endswith("position_ids")


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names for a message, the first of them if there are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "nothing"
