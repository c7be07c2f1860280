"""Checks that the loss and the logits of a head are finite."""

from __future__ import annotations

import math

import numpy as np

from spacy_bertft.errors import DataError, diverged
from spacy_bertft.types import Floats


def check_loss(head: str, value: float) -> None:
    """Raise a DataError if the loss of a head is not finite. head: its name."""
    if not math.isfinite(value):
        raise diverged(f"The loss of {head!r} is {value}")


def check_logits(head: str, logits: Floats) -> None:
    """Raise a DataError if logits are not finite: scores would be NaN, or nothing would be found."""
    # A sum takes one pass, and is not finite if a logit is not. The second test is for finite logits that overflow it.
    with np.errstate(over="ignore", invalid="ignore"):
        total = logits.sum()
    if not np.isfinite(total) and not np.isfinite(logits).all():
        n_broken = int((~np.isfinite(logits)).sum())
        raise DataError(
            f"The head {head!r} computed {n_broken} NaN or infinite logits of {logits.size}. Expected "
            "finite numbers: its weights or the encoder's are not finite, or too large for the encoder's precision. "
            'Load an earlier save, train with a lower learning rate, or set the encoder\'s precision = "float32".'
        )
