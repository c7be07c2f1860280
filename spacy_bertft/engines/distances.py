"""Which distances between two subwords share a row of a table: MPNet's and DeBERTa's buckets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spacy_bertft.engines.family_settings import MPNET_BUCKETS
from spacy_bertft.engines.net import Disentangled, DistanceBias

# The distance from which on all share MPNet's last bucket.
_MPNET_FURTHEST = 128


def rows_of(kind: DistanceBias | Disentangled, distances: Tensor) -> Tensor:
    """The rows of distances, (n,) int64: the key's position minus the query's.

    Computed in float32 as in transformers, where the edge of a bucket depends on rounding.
    """
    return _deberta(distances, kind) if isinstance(kind, Disentangled) else _mpnet(distances)


def _mpnet(distances: Tensor) -> Tensor:
    """Half of the buckets are for keys after the query. Half of each half is for one distance each (T5)."""
    half = MPNET_BUCKETS // 2
    exact = half // 2
    far = distances.abs()
    share = torch.log(far.float() / exact) / math.log(_MPNET_FURTHEST / exact)
    spread = (exact + (share * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(far < exact, far, spread) + half * (distances > 0)


def _deberta(distances: Tensor, kind: Disentangled) -> Tensor:
    """One row for each near distance, and one for each bucket of far ones."""
    towards_query = -distances
    if kind.buckets:
        middle = kind.buckets // 2
        far = towards_query.abs()
        share = torch.log(far / middle) / torch.log(torch.tensor((kind.furthest - 1) / middle))
        spread = (torch.ceil(share * (middle - 1)) + middle) * towards_query.sign()
        towards_query = torch.where(far <= middle, towards_query, spread).long()
    return (towards_query + kind.span).clamp(0, 2 * kind.span - 1)
