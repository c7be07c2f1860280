from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_bertft.text.batches import bucket, chunk, pack, special_rows, window_lengths
from spacy_bertft.text.windows import cut, cut_pairs
from spacy_bertft.types import Specials


def ints(values):
    return np.array(values, dtype=np.int64)


modest = settings(deadline=None, max_examples=150)
lengths_and_budget = given(st.lists(st.integers(1, 20), max_size=25), st.integers(1, 60), st.booleans())


@modest
@lengths_and_budget
def test_buckets_hold_each_window_once_longest_first(lengths, budget, padded):
    groups = bucket(ints(lengths), budget=budget, padded=padded)
    assert sorted(np.concatenate([ints([]), *groups]).tolist()) == list(range(len(lengths)))
    in_order = [lengths[window] for group in groups for window in group]
    assert in_order == sorted(lengths, reverse=True)
    assert all(len(group) for group in groups)


@modest
@lengths_and_budget
def test_buckets_stay_within_the_budget(lengths, budget, padded):
    for group in bucket(ints(lengths), budget=budget, padded=padded):
        own = [lengths[window] for window in group]
        cost = max(own) * len(own) if padded else sum(own)
        assert cost <= budget or len(own) == 1


@modest
@lengths_and_budget
def test_buckets_are_filled_before_the_next_is_begun(lengths, budget, padded):
    groups = bucket(ints(lengths), budget=budget, padded=padded)
    for group, after in pairwise(groups):
        own = [lengths[window] for window in [*group, after[0]]]
        assert (max(own) * len(own) if padded else sum(own)) > budget


def test_windows_of_one_length_keep_their_order():
    (group,) = bucket(ints([3, 3, 5, 3]), budget=100, padded=False)
    assert group.tolist() == [2, 0, 1, 3]


@modest
@given(
    st.lists(st.integers(0, 15), min_size=1, max_size=4),
    st.lists(st.integers(100, 105), max_size=3),
    st.lists(st.integers(200, 205), max_size=3),
    st.data(),
)
def test_pack_lays_windows_side_by_side_between_special_subwords(counts, prefix, suffix, data):
    ids = ints(data.draw(st.permutations(range(sum(counts)))))
    windows = cut(ints(counts), size=6, overlap=2)
    pieces = windows.pieces
    chosen = data.draw(st.lists(st.sampled_from(range(len(pieces.starts))), unique=True))
    packed = pack(ids, windows, ints(chosen), Specials(ints(prefix), ints([]), ints(suffix)))
    expected = [[*prefix, *ids[pieces.starts[window] : pieces.ends[window]].tolist(), *suffix] for window in chosen]
    assert packed.ids.tolist() == [number for row in expected for number in row]
    assert packed.positions.tolist() == [place for row in expected for place in range(len(row))]
    assert packed.lengths.tolist() == [len(row) for row in expected]
    assert packed.ids.dtype == packed.positions.dtype == packed.lengths.dtype == np.int64


@modest
@given(st.lists(st.integers(0, 9)), st.integers(1, 5), st.integers(1, 20))
def test_chunk_closes_a_list_when_size_or_budget_is_reached(costs, size, budget):
    chunks = list(chunk(costs, size=size, budget=budget, cost=lambda cost: cost))
    assert [cost for held in chunks for cost in held] == costs
    assert all(0 < len(held) <= size for held in chunks)
    for held in chunks:
        assert sum(held[:-1]) < budget
    for held in chunks[:-1]:
        assert len(held) == size or sum(held) >= budget


def test_chunk_reads_no_further_than_it_gives():
    def stream():
        yield from (1, 1)
        pytest.fail("read ahead")

    assert next(chunk(stream(), size=2, budget=100, cost=lambda cost: cost)) == [1, 1]


@pytest.mark.parametrize("paired", [False, True])
@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=5), st.integers(0, 2))
def test_special_rows_are_those_of_the_special_subwords_of_each_text(paired, texts, n_suffix):
    counts = np.array([count for count, _ in texts], dtype=np.int64)
    firsts = np.array([count // 2 if pair and count > 1 else -1 for count, pair in texts], dtype=np.int64)
    specials = Specials(np.array([1]), np.array([2, 2]), np.full(n_suffix, 3))
    windows = cut_pairs(counts, firsts, size=6, pair_size=4, overlap=1) if paired else cut(counts, size=6, overlap=1)
    everyone = np.arange(len(windows.pieces.starts))
    packed = pack(np.full(counts.sum(), 9), windows, everyone, specials)
    lengths = window_lengths(windows, specials)
    rows, found = special_rows(windows, np.cumsum(lengths) - lengths, specials)
    assert rows.tolist() == (packed.ids < 9).nonzero()[0].tolist()
    text_of = np.repeat(np.repeat(np.arange(len(counts)), windows.counts), lengths)
    assert found.tolist() == [int((packed.ids[text_of == text] < 9).sum()) for text in range(len(counts))]
