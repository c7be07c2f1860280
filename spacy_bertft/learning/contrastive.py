"""Supervised contrastive learning: vectors of the same class come close to each other, those of others apart.

Khosla et al., 2020, Supervised contrastive learning; for few texts, Tunstall et al., 2022, Efficient few-shot learning
without prompts (SetFit), which compares pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spacy_bertft.learning.losses import Targets

if TYPE_CHECKING:
    from torch import Tensor

_NEVER = -1e4  # similarity of a vector to itself, which is compared with others only


def shared_classes(targets: Targets, n_classes: int) -> Tensor:
    """How much each two rows have in common: of all their classes, the share that both have. (R, R), from 0 to 1.

    Rows without a class, such as texts of the unknown category and tokens outside entities, have nothing in common.
    """
    import torch

    if targets.values.ndim == 1:
        places = torch.arange(n_classes, device=targets.values.device)
        has = (targets.values[:, None] == places).float()  # (R, C)
    else:
        has = (targets.values > 0.5).float()
    if targets.classes is not None and targets.classes.none is not None:
        has[:, targets.classes.names.index(targets.classes.none)] = 0.0
    both = has @ has.T
    either = has.sum(dim=1, keepdim=True) + has.sum(dim=1) - both
    return both / either.clamp(min=1.0)


def supervised_contrastive(vectors: Tensor, in_common: Tensor, *, temperature: float) -> Tensor:
    """The mean loss of all vectors that have something in common with another one; 0 if none has. ().

    Of each, it is the cross-entropy between the softmax over its cosines with all others, divided by the temperature,
    and what they have in common with it. vectors: (R, D); in_common: (R, R), its diagonal doesn't matter.
    """
    import torch
    from torch.nn.functional import normalize

    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    unit = normalize(vectors, dim=1)
    logs = (unit @ unit.T / temperature).masked_fill(itself, _NEVER).log_softmax(dim=1)
    goals = in_common.masked_fill(itself, 0.0)
    sums = goals.sum(dim=1)
    losses = -(goals * logs).sum(dim=1) / sums.clamp(min=torch.finfo(sums.dtype).tiny)
    return losses[sums > 0].mean() if (sums > 0).any() else vectors.sum() * 0.0
