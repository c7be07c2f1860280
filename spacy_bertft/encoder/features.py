"""Features of docs: located in the encoder's output, and gathered from the batches in which docs were encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spacy_bertft.encoder.pooling import take
from spacy_bertft.text.alignment import take_groups
from spacy_bertft.text.batches import special_rows, subword_rows
from spacy_bertft.text.subwords import Texts, align_texts
from spacy_bertft.types import Features, Floats, Ints, Rows, Specials, Subwords, Windows


def locate(
    hidden: Rows, first_rows: Ints, subwords: Subwords, windows: Windows, texts: Texts, specials: Specials
) -> Features:
    """Find the rows of each subword, token and window. hidden: (N, D); first_rows: (W,) first row of each window."""
    alignment = align_texts(subwords, texts)
    starts_special = len(specials.prefix) > 0
    rows_of_specials, special_counts = special_rows(windows, first_rows, specials)
    return Features(
        hidden=hidden,
        rows=subword_rows(windows, first_rows, specials, n_subwords=len(subwords.ids)),
        subword_counts=subwords.counts,
        token_subwords=alignment.subwords,
        token_subword_counts=alignment.counts,
        token_counts=texts.token_counts,
        cls_rows=first_rows if starts_special else first_rows[:0],
        window_counts=windows.counts if starts_special else np.zeros_like(windows.counts),
        special_rows=rows_of_specials,
        special_counts=special_counts,
    )


def as_numpy(hidden: Rows) -> Floats:
    """The rows as numpy's array; on a CPU, of the same memory."""
    array: Floats = hidden if isinstance(hidden, np.ndarray) else hidden.detach().float().cpu().numpy()
    return array


def as_torch(features: Features) -> Features:
    """The same with a tensor of hidden rows, to train on."""
    if not isinstance(features.hidden, np.ndarray):
        return features
    import torch

    return replace(features, hidden=torch.from_numpy(features.hidden))


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
    specials = [np.zeros(0, dtype=np.int64)] * len(features.token_counts)
    if features.special_rows is not None and features.special_counts is not None:
        specials = np.split(features.special_rows, np.cumsum(features.special_counts)[:-1])
    parts = zip(
        np.split(features.rows, np.cumsum(features.subword_counts)[:-1]),
        np.split(features.cls_rows, np.cumsum(features.window_counts)[:-1]),
        np.split(features.token_subwords, np.cumsum(owned)[:-1]),
        np.split(features.token_subword_counts, np.cumsum(features.token_counts)[:-1]),
        np.cumsum(features.subword_counts) - features.subword_counts,
        specials,
        strict=True,
    )
    known = features.special_rows is not None
    found = []
    for rows, cls_rows, token_subwords, token_subword_counts, first, others in parts:
        used, places = np.unique(np.concatenate([rows, cls_rows, others]), return_inverse=True)
        of_cls, of_specials = np.split(places[len(rows) :], [len(cls_rows)])
        found.append(
            Features(
                hidden=take(features.hidden, used),
                rows=places[: len(rows)],
                subword_counts=np.array([len(rows)]),
                token_subwords=token_subwords - first,
                token_subword_counts=token_subword_counts,
                token_counts=np.array([len(token_subword_counts)]),
                cls_rows=of_cls,
                window_counts=np.array([len(cls_rows)]),
                special_rows=of_specials if known else None,
                special_counts=np.array([len(of_specials)]) if known else None,
            )
        )
    return found


def _join(batches: Sequence[Features]) -> Features:
    def concatenate(arrays: list[Ints]) -> Ints:
        return np.concatenate(arrays)

    def shifted(arrays: list[Ints], sizes: list[int]) -> Ints:
        return concatenate([array + sum(sizes[:place]) for place, array in enumerate(arrays)])

    special_rows = [batch.special_rows for batch in batches if batch.special_rows is not None]
    special_counts = [batch.special_counts for batch in batches if batch.special_counts is not None]
    known = len(special_rows) == len(special_counts) == len(batches)
    n_rows = [len(batch.hidden) for batch in batches]
    n_subwords = [len(batch.rows) for batch in batches]
    return Features(
        hidden=_concatenated([batch.hidden for batch in batches]),
        rows=shifted([batch.rows for batch in batches], n_rows),
        subword_counts=concatenate([batch.subword_counts for batch in batches]),
        token_subwords=shifted([batch.token_subwords for batch in batches], n_subwords),
        token_subword_counts=concatenate([batch.token_subword_counts for batch in batches]),
        token_counts=concatenate([batch.token_counts for batch in batches]),
        cls_rows=shifted([batch.cls_rows for batch in batches], n_rows),
        window_counts=concatenate([batch.window_counts for batch in batches]),
        special_rows=shifted(special_rows, n_rows) if known else None,
        special_counts=concatenate(special_counts) if known else None,
    )


def _concatenated(parts: list[Rows]) -> Rows:
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    import torch

    return torch.cat(parts)


def _select(features: Features, chosen: Ints) -> Features:
    """The same hidden rows, with the indices of the chosen docs only."""
    counts = features.subword_counts[chosen]  # (B,)
    owned = group_sums(features.token_subword_counts, features.token_counts)  # owned subwords of each old doc
    old_starts = (np.cumsum(features.subword_counts) - features.subword_counts)[chosen]
    shift = np.cumsum(counts) - counts - old_starts  # (B,)
    special_rows, special_counts = features.special_rows, features.special_counts
    if special_rows is not None and special_counts is not None:
        special_rows, special_counts = take_groups(special_rows, special_counts, chosen), special_counts[chosen]
    return Features(
        hidden=features.hidden,
        rows=take_groups(features.rows, features.subword_counts, chosen),
        subword_counts=counts,
        token_subwords=take_groups(features.token_subwords, owned, chosen) + np.repeat(shift, owned[chosen]),
        token_subword_counts=take_groups(features.token_subword_counts, features.token_counts, chosen),
        token_counts=features.token_counts[chosen],
        cls_rows=take_groups(features.cls_rows, features.window_counts, chosen),
        window_counts=features.window_counts[chosen],
        special_rows=special_rows,
        special_counts=special_counts,
    )


def group_sums(values: Ints, counts: Ints) -> Ints:
    """Sum of each group of values; 0 for an empty group."""
    sums: Ints = np.append(0, np.cumsum(values))
    ends = np.cumsum(counts)
    groups: Ints = sums[ends] - sums[ends - counts]
    return groups
