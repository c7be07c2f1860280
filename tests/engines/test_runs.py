"""Runs of windows: each query meets the keys that it should, and no row outside of the batch is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spacy_bertft.engines.net import Disentangled
from spacy_bertft.engines.runs import _MOST_SCORES, measured, n_idle, plan, plan_local

LENGTHS = [[1], [17], [33, 33, 33], [40, 9, 9, 9, 3, 1], [64, 48, 16], [600, 512, 257, 256, 30]]


def seen(runs, n_rows):
    """Which rows each query meets without a mask of -inf; each is a query of one run."""
    met = torch.zeros(n_rows, n_rows, dtype=torch.bool)
    queries = torch.zeros(n_rows, dtype=torch.int64)
    for run in runs:
        mask = torch.zeros(run.length, run.key_length) if run.mask is None else run.mask[0, 0]
        mask = mask.expand(run.length, run.key_length)
        for window in range(run.windows):
            first, key = run.start + window * run.length, run.key_start + window * run.length
            assert key >= 0
            assert key + run.key_length <= n_rows
            queries[first : first + run.length] += 1
            met[first : first + run.length, key : key + run.key_length] |= mask == 0
    return met, queries


def within_windows(lengths, n_rows, reach=None):
    window = np.full(n_rows, -1)
    window[: sum(lengths)] = np.repeat(np.arange(len(lengths)), lengths)
    same = (window[:, None] == window) & (window >= 0)
    far = np.abs(np.arange(n_rows)[:, None] - np.arange(n_rows))
    return torch.from_numpy(same if reach is None else same & (far <= reach))


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("reach", [None, 0, 7, 8, 64, 100, 1000])
def test_each_query_meets_the_keys_of_its_window_up_to_the_reach(lengths, reach):
    rows = np.array(lengths)
    idle = n_idle(rows)
    n_rows = sum(lengths) + idle
    assert n_rows % 32 == 0
    runs = plan(rows) if reach is None else plan_local(rows, reach=reach)
    met, queries = seen(runs, n_rows)
    assert torch.equal(met, within_windows(lengths, n_rows, reach))
    assert queries.tolist() == [1] * sum(lengths) + [0] * idle
    assert runs[-1].stop == sum(lengths)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("reach", [None, 7, 64])
def test_keys_are_read_in_whole_vectors_and_those_of_other_windows_only_behind(lengths, reach):
    for run in plan(np.array(lengths)) if reach is None else plan_local(np.array(lengths), reach=reach):
        assert run.key_length % 16 == 0
        assert run.before == 0 or reach is not None


def test_long_local_windows_do_not_read_all_their_keys():
    scores = sum(run.windows * run.length * run.key_length
                 for run in plan_local(np.array([2048]), reach=64))  # fmt: skip
    assert scores < 2048 * 300


def test_distances_of_many_windows_are_computed_in_parts():
    kind = Disentangled(span=8, buckets=0, furthest=8, key=True, query=True, shared=False, norm=False)
    lengths, heads = np.array([64] * 40 + [30] * 3), 12
    whole, parts = plan(lengths), measured(plan(lengths), kind, heads)
    assert len(parts) > len(whole)
    for run in parts:
        assert run.windows * heads * run.length * run.key_length <= _MOST_SCORES
        assert len(run.distance_rows) == len(run.distances()) == run.length + run.key_length - 1
    assert all(torch.equal(a, b) for a, b in zip(seen(parts, 3000), seen(whole, 3000), strict=True))
