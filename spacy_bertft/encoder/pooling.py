"""Rows of subwords -> vectors of tokens and of documents; of torch's tensors, or of numpy's arrays without torch."""

from __future__ import annotations

from typing import Literal

import numpy as np

from spacy_bertft.errors import ConfigError
from spacy_bertft.text.alignment import ramps
from spacy_bertft.types import Features, Floats, Ints, Rows

TokenPooling = Literal["first", "mean"]
DocPooling = Literal["cls", "mean", "mean_all"]


def token_vectors(features: Features, how: TokenPooling | Literal["last"]) -> Rows:
    """One subword of each token, or the mean of its subwords; zeros for a token without subwords. -> (T, D)."""
    rows, counts = features.rows[features.token_subwords], features.token_subword_counts
    if how != "mean":
        behind = np.cumsum(counts)
        chosen = behind - counts if how == "first" else behind - 1
        rows, counts = rows[chosen[counts > 0]], np.minimum(counts, 1)
        if counts.all():
            return take(features.hidden, rows)
    return _segment_mean(features.hidden, rows, counts)


def doc_vectors(features: Features, how: DocPooling) -> Rows:
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


def take(hidden: Rows, rows: Ints) -> Rows:
    """The chosen rows. (N, D), (R,) -> (R, D)."""
    return hidden[rows] if isinstance(hidden, np.ndarray) else hidden[_tensor(rows, hidden)]


def _segment_mean(hidden: Rows, rows: Ints, counts: Ints) -> Rows:
    """Mean of the rows of each group, zeros for an empty one. (N, D), (R,), (G,) -> (G, D)."""
    starts = np.cumsum(counts) - counts
    if isinstance(hidden, np.ndarray):
        return _numpy_mean(hidden, rows, starts, counts)
    from torch.nn.functional import embedding_bag

    return embedding_bag(_tensor(rows, hidden), hidden, _tensor(starts, hidden), mode="mean")


def _numpy_mean(hidden: Floats, rows: Ints, starts: Ints, counts: Ints) -> Floats:
    filled = counts > 0
    if counts.max(initial=0) == 1 and filled.all():
        return hidden[rows]
    means = np.zeros((len(counts), hidden.shape[1]), dtype=np.float32)
    if filled.any():
        means[filled] = np.add.reduceat(hidden[rows], starts[filled], axis=0) / counts[filled, None].astype(np.float32)
    return means


def _tensor(array: Ints, like: Rows) -> Rows:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(like.device)
