"""What a head computes has to be numbers: its loss, and its logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spacy_bertft.errors import DataError
from spacy_bertft.learning.optimizer import diverged


def check_loss(head: str, value: float) -> None:
    """A DataError for a loss that is no number. head: its name."""
    if not math.isfinite(value):
        raise diverged(f"The loss of {head!r} is {value}")


def check_logits(head: str, logits: Tensor) -> None:
    """A DataError for logits that are no numbers: they would make scores of NaN, or pass for nothing found."""
    # A sum takes one pass, and is no number if one of its parts is none; so are sums of finite parts, if very seldom.
    if not torch.isfinite(logits.sum()) and not torch.isfinite(logits).all():
        n_broken = int((~torch.isfinite(logits)).sum())
        raise DataError(
            f"The head {head!r} computed {n_broken} logits of {logits.numel()} that are NaN or infinite. Expected "
            "finite numbers: its weights or the encoder's are none, or too large for the encoder's precision. Load an "
            'earlier save, train with a lower learning rate, or set precision = "float32" in the model of the encoder.'
        )
