"""Windows of one text and of two segments: overlapping as asked for, no longer than that takes, nothing is lost."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_bertft.errors import ConfigError
from spacy_bertft.text.windows import cut, cut_pairs, shorten


@st.composite
def cases(draw):
    size = draw(st.integers(1, 12))
    return draw(st.lists(st.integers(0, 60), max_size=5)), size, draw(st.integers(0, size - 1))


def windows_of(counts, size, overlap):
    """The windows of each text: (start, end, keep_start, keep_end), counted from the text's first subword."""
    windows = cut(np.array(counts, dtype=np.int64), size=size, overlap=overlap)
    pieces = windows.pieces
    rows = list(zip(pieces.starts, pieces.ends, pieces.keep_starts, pieces.keep_ends, strict=True))
    of_texts, place, base = [], 0, 0
    for n_windows, count in zip(windows.counts.tolist(), counts, strict=True):
        of_texts.append([tuple(int(edge) - base for edge in row) for row in rows[place : place + n_windows]])
        place, base = place + n_windows, base + count
    assert place == len(rows)
    return of_texts


def fewest(count, size, overlap):
    """The fewest windows that hold a text."""
    return next(n for n in range(1, count + 2) if n * size - (n - 1) * overlap >= count)


each_case = given(cases())
modest = settings(deadline=None, max_examples=150)


@modest
@each_case
def test_windows_lie_within_their_text_and_hold_at_most_size(case):
    counts, size, overlap = case
    for count, windows in zip(counts, windows_of(counts, size, overlap), strict=True):
        assert windows[0][0] == 0
        assert windows[-1][1] == count
        assert all(0 <= start <= end <= count and end - start <= size for start, end, _, _ in windows)


@modest
@each_case
def test_kept_parts_hold_each_subword_once_and_in_order(case):
    counts, size, overlap = case
    for count, windows in zip(counts, windows_of(counts, size, overlap), strict=True):
        assert [s for _, _, first, behind in windows for s in range(first, behind)] == list(range(count))
        assert all(start <= first <= behind <= end for start, end, first, behind in windows)


@modest
@each_case
def test_neighbours_share_at_least_the_overlap(case):
    for windows in windows_of(*case):
        for (_, end, _, _), (start, _, _, _) in pairwise(windows):
            assert end - start >= case[2]


@modest
@each_case
def test_each_subword_is_kept_where_it_is_most_central(case):
    for windows in windows_of(*case):
        for _, _, first, behind in windows:
            for subword in range(first, behind):
                distances = {
                    (start, end): min(subword - start, end - 1 - subword)
                    for start, end, _, _ in windows
                    if start <= subword < end
                }
                here = next((start, end) for start, end, keep, stop in windows if keep <= subword < stop)
                assert distances[here] == max(distances.values())


@modest
@each_case
def test_no_fewer_windows_would_do(case):
    counts, size, overlap = case
    for count, windows in zip(counts, windows_of(counts, size, overlap), strict=True):
        assert len(windows) == fewest(count, size, overlap)


def test_text_without_subwords_gets_one_empty_window():
    assert windows_of([0, 2, 0], 4, 1) == [[(0, 0, 0, 0)], [(0, 2, 0, 2)], [(0, 0, 0, 0)]]


def test_no_texts_no_windows():
    assert windows_of([], 4, 1) == []


def test_windows_of_a_long_text_are_equally_long_and_spread_evenly():
    assert windows_of([10], 6, 2) == [[(0, 6, 0, 5), (4, 10, 5, 10)]]
    assert windows_of([10], 7, 2) == windows_of([10], 6, 2)
    assert windows_of([11], 6, 2) == [[(0, 5, 0, 4), (3, 8, 4, 7), (6, 11, 7, 11)]]


@modest
@each_case
def test_windows_are_no_longer_than_their_number_and_the_overlap_take(case):
    counts, size, overlap = case
    for count, windows in zip(counts, windows_of(counts, size, overlap), strict=True):
        assert len({end - start for start, end, _, _ in windows}) == 1
        shorter = windows[0][1] - windows[0][0] - 1
        assert len(windows) * shorter - (len(windows) - 1) * overlap < count or count == 0


@pytest.mark.parametrize("overlap", [-1, 4, 5])
def test_overlap_outside_the_window_is_refused(overlap):
    with pytest.raises(ConfigError, match=rf"overlap is {overlap} .* expected 0 <= overlap < 4\. Set a smaller"):
        cut(np.array([3]), size=4, overlap=overlap)


# --- two segments


def pieces_of(windows):
    """(first start, first end, second start, second end) of each window, and which subwords are kept from it."""
    first, second = windows.firsts, windows.pieces
    edges = np.stack([first.starts, first.ends, second.starts, second.ends], axis=1).tolist()
    kept = [
        [*range(first.keep_starts[w], first.keep_ends[w]), *range(second.keep_starts[w], second.keep_ends[w])]
        for w in range(len(edges))
    ]
    return edges, kept


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(-1, 40), st.integers(0, 40)), min_size=1, max_size=5),
    st.integers(2, 12),
    st.integers(1, 4),
    st.data(),
)
def test_windows_of_pairs_hold_both_segments_and_lose_nothing(texts, pair_size, middle, data):
    size = pair_size + middle
    overlap = data.draw(st.integers(0, size - 1))
    firsts = np.array([first for first, _ in texts])
    counts = np.maximum(firsts, 0) + np.array([second for _, second in texts])
    windows = cut_pairs(counts, firsts, size=size, pair_size=pair_size, overlap=overlap)
    edges, kept = pieces_of(windows)
    assert len(edges) == windows.counts.sum()
    assert sorted(subword for of_window in kept for subword in of_window) == list(range(counts.sum()))
    text = np.repeat(np.arange(len(texts)), windows.counts)
    starts = np.cumsum(counts) - counts
    assert windows.paired.tolist() == (firsts[text] >= 0).tolist()
    for number, (a, b, c, d), of_window in zip(text, edges, kept, strict=True):
        first = starts[number] + max(firsts[number], 0)
        assert starts[number] <= a <= b <= first <= c <= d <= starts[number] + counts[number]
        assert (b - a) + (d - c) <= (pair_size if firsts[number] >= 0 else size)
        assert set(of_window) <= {*range(a, b), *range(c, d)}
    for first, count, n_windows in zip(firsts.tolist(), counts.tolist(), windows.counts.tolist(), strict=True):
        if 0 <= first <= pair_size // 2:  # repeated in every window; the rest is for the other segment
            room = pair_size - first
            assert n_windows == fewest(count - first, room, overlap if room > overlap else room // 2)


def test_a_short_first_segment_is_repeated_in_every_window():
    edges, _ = pieces_of(cut_pairs(np.array([13]), np.array([3]), size=10, pair_size=8, overlap=2))
    assert edges == [[0, 3, 3, 8], [0, 3, 5, 10], [0, 3, 8, 13]]


def test_the_pieces_of_two_long_segments_all_meet():
    edges, _ = pieces_of(cut_pairs(np.array([16]), np.array([8]), size=10, pair_size=8, overlap=0))
    assert edges == [[0, 4, 8, 12], [0, 4, 12, 16], [4, 8, 8, 12], [4, 8, 12, 16]]


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [(3, 4, (3, 4)), (3, 40, (3, 7)), (40, 3, (7, 3)), (40, 41, (5, 5)), (40, 40, (5, 5)), (6, 40, (5, 5))],
)
def test_shortening_takes_from_the_longer_segment(first, second, left):
    found = shorten(np.array([first + second, 50]), np.array([first, -1]), pair_size=10)
    assert [array.tolist() for array in found] == [[left[0], 0], [left[1], 50]]
