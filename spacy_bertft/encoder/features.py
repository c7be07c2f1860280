"""Features of chosen docs, gathered from the batches in which they were encoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from spacy_bertft.text.alignment import take_groups
from spacy_bertft.types import Features, Ints


def gather(parts: Sequence[tuple[Features, int]]) -> Features:
    """Features of B docs, in the order of `parts`: for each doc, the features of its batch and its index in it."""
    batches = list({id(features): features for features, _ in parts}.values())
    joined = batches[0] if len(batches) == 1 else _join(batches)
    sizes = [len(features.token_counts) for features in batches]
    firsts = {id(features): sum(sizes[:place]) for place, features in enumerate(batches)}
    chosen = np.array([firsts[id(features)] + place for features, place in parts], dtype=np.int64)
    if np.array_equal(chosen, np.arange(len(joined.token_counts))):
        return joined
    return _select(joined, chosen)


def split(features: Features) -> list[Features]:
    """The features of each doc by itself, with copies of its hidden rows alone."""
    owned = group_sums(features.token_subword_counts, features.token_counts)
    parts = zip(
        np.split(features.rows, np.cumsum(features.subword_counts)[:-1]),
        np.split(features.cls_rows, np.cumsum(features.window_counts)[:-1]),
        np.split(features.token_subwords, np.cumsum(owned)[:-1]),
        np.split(features.token_subword_counts, np.cumsum(features.token_counts)[:-1]),
        np.cumsum(features.subword_counts) - features.subword_counts,
        strict=True,
    )
    found = []
    for rows, cls_rows, token_subwords, token_subword_counts, first in parts:
        used, places = np.unique(np.concatenate([rows, cls_rows]), return_inverse=True)
        found.append(
            Features(
                hidden=features.hidden[torch.from_numpy(used).to(features.hidden.device)],
                rows=places[: len(rows)],
                subword_counts=np.array([len(rows)]),
                token_subwords=token_subwords - first,
                token_subword_counts=token_subword_counts,
                token_counts=np.array([len(token_subword_counts)]),
                cls_rows=places[len(rows) :],
                window_counts=np.array([len(cls_rows)]),
            )
        )
    return found


def _join(batches: Sequence[Features]) -> Features:
    def concatenate(arrays: list[Ints]) -> Ints:
        return np.concatenate(arrays)

    def shifted(arrays: list[Ints], sizes: list[int]) -> Ints:
        return concatenate([array + sum(sizes[:place]) for place, array in enumerate(arrays)])

    n_rows = [len(batch.hidden) for batch in batches]
    n_subwords = [len(batch.rows) for batch in batches]
    return Features(
        hidden=torch.cat([batch.hidden for batch in batches]),
        rows=shifted([batch.rows for batch in batches], n_rows),
        subword_counts=concatenate([batch.subword_counts for batch in batches]),
        token_subwords=shifted([batch.token_subwords for batch in batches], n_subwords),
        token_subword_counts=concatenate([batch.token_subword_counts for batch in batches]),
        token_counts=concatenate([batch.token_counts for batch in batches]),
        cls_rows=shifted([batch.cls_rows for batch in batches], n_rows),
        window_counts=concatenate([batch.window_counts for batch in batches]),
    )


def _select(features: Features, chosen: Ints) -> Features:
    """The same hidden rows, with the indices of the chosen docs only."""
    counts = features.subword_counts[chosen]  # (B,)
    owned = group_sums(features.token_subword_counts, features.token_counts)  # owned subwords of each old doc
    old_starts = (np.cumsum(features.subword_counts) - features.subword_counts)[chosen]
    shift = np.cumsum(counts) - counts - old_starts  # (B,)
    return Features(
        hidden=features.hidden,
        rows=take_groups(features.rows, features.subword_counts, chosen),
        subword_counts=counts,
        token_subwords=take_groups(features.token_subwords, owned, chosen) + np.repeat(shift, owned[chosen]),
        token_subword_counts=take_groups(features.token_subword_counts, features.token_counts, chosen),
        token_counts=features.token_counts[chosen],
        cls_rows=take_groups(features.cls_rows, features.window_counts, chosen),
        window_counts=features.window_counts[chosen],
    )


def group_sums(values: Ints, counts: Ints) -> Ints:
    """Sum of each group of values; 0 for an empty group."""
    sums: Ints = np.append(0, np.cumsum(values))
    ends = np.cumsum(counts)
    groups: Ints = sums[ends] - sums[ends - counts]
    return groups
