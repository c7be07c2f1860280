"""Rows of subwords -> vectors of tokens and of documents."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from spacy_bertft.errors import ConfigError
from spacy_bertft.text.alignment import ramps
from spacy_bertft.types import Features, Ints

TokenPooling = Literal["first", "mean"]
DocPooling = Literal["cls", "mean", "mean_all"]


def token_vectors(features: Features, how: TokenPooling | Literal["last"]) -> Tensor:
    """One subword of each token, or the mean of its subwords; zeros for a token without subwords. -> (T, D)."""
    rows, counts = features.rows[features.token_subwords], features.token_subword_counts
    if how != "mean":
        behind = np.cumsum(counts)
        chosen = behind - counts if how == "first" else behind - 1
        rows, counts = rows[chosen[counts > 0]], np.minimum(counts, 1)
        if counts.all():
            return features.hidden[_tensor(rows, features.hidden)]
    return _segment_mean(features.hidden, rows, counts)


def doc_vectors(features: Features, how: DocPooling) -> Tensor:
    """A mean of subwords' rows. -> (B, D).

    how: of the windows' first special subwords ("cls"), of all subwords without special ones ("mean"), or of all
        subwords and all special ones ("mean_all").
    """
    if how == "cls":
        return _segment_mean(features.hidden, features.cls_rows, features.window_counts)
    if how == "mean":
        return _segment_mean(features.hidden, features.rows, features.subword_counts)
    if features.special_rows is None or features.special_counts is None:
        raise ConfigError(
            'The pooling of a head is "mean_all", but its source of features does not tell special subwords from '
            'padding. Expected a bertft_encoder. Set pooling = "mean" or "cls".'
        )
    counts = features.subword_counts + features.special_counts  # (B,)
    rows = np.empty(counts.sum(), dtype=np.int64)
    is_special = ramps(counts) >= np.repeat(features.subword_counts, counts)
    rows[is_special], rows[~is_special] = features.special_rows, features.rows
    return _segment_mean(features.hidden, rows, counts)


def _segment_mean(hidden: Tensor, rows: Ints, counts: Ints) -> Tensor:
    """Mean of the rows of each group, zeros for an empty one. (N, D), (R,), (G,) -> (G, D)."""
    offsets = _tensor(np.cumsum(counts) - counts, hidden)
    return embedding_bag(_tensor(rows, hidden), hidden, offsets, mode="mean")


def _tensor(array: Ints, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device)
