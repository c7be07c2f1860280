from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_bertft.text.alignment import align, ramps, take_groups


def ints(values):
    return np.array(values, dtype=np.int64)


def owned(alignment):
    """The subwords of each token, as lists."""
    return [group.tolist() for group in np.split(alignment.subwords, np.cumsum(alignment.counts)[:-1])]


def run(subwords, tokens):
    return align(
        *(ints([span[place] for span in subwords]) for place in (0, 1)),
        *(ints([span[place] for span in tokens]) for place in (0, 1)),
    )


def brute_force(subwords, tokens):
    return [
        [number for number, (start, end) in enumerate(subwords) if max(start, first) < min(end, behind)]
        for first, behind in tokens
    ]


@st.composite
def spans(draw):
    """Subwords anywhere, empty and overlapping ones too; tokens in order with gaps."""
    edges = sorted(draw(st.sets(st.integers(0, 30), max_size=12)))
    tokens = [pair for pair in pairwise(edges) if draw(st.booleans())]
    starts = draw(st.lists(st.integers(0, 30), max_size=20))
    return [(start, start + draw(st.integers(0, 8))) for start in starts], tokens


@settings(deadline=None, max_examples=300)
@given(spans())
def test_each_token_owns_every_subword_that_shares_a_character(case):
    subwords, tokens = case
    alignment = run(subwords, tokens)
    assert len(alignment.counts) == len(tokens)
    if tokens:
        assert owned(alignment) == brute_force(subwords, tokens)
    else:
        assert not len(alignment.subwords)


def test_subword_with_the_space_before_belongs_to_the_word_alone():
    assert owned(run([(0, 2), (2, 5)], [(0, 2), (3, 5)])) == [[0], [1]]


def test_subword_over_two_tokens_is_owned_by_both():
    assert owned(run([(0, 4), (4, 6)], [(0, 3), (3, 6)])) == [[0], [0, 1]]


def test_several_subwords_on_one_character_are_all_owned_in_order():
    assert owned(run([(0, 1), (0, 1), (0, 1)], [(0, 1)])) == [[0, 1, 2]]


def test_empty_subword_owns_nothing():
    assert owned(run([(1, 1), (1, 3)], [(0, 4)])) == [[1]]


def test_token_without_subwords_counts_zero():
    assert run([(0, 1), (3, 4)], [(0, 1), (1, 3), (3, 4)]).counts.tolist() == [1, 0, 1]


def test_nothing_on_either_side():
    assert run([], [(0, 1), (1, 2)]).counts.tolist() == [0, 0]
    assert run([(0, 1)], []).subwords.tolist() == []
    assert run([], []).counts.tolist() == []


def test_results_are_int64():
    for case in (run([], []), run([(0, 1)], [(0, 1)])):
        assert case.subwords.dtype == case.counts.dtype == np.int64


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 5)))
def test_ramps_count_up_from_zero_in_each_group(counts):
    assert ramps(ints(counts)).tolist() == [place for count in counts for place in range(count)]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.integers(), max_size=4), min_size=1, max_size=6), st.data())
def test_take_groups_gives_the_groups_in_the_order_asked_for(groups, data):
    groups = [[value % 100 for value in group] for group in groups]
    chosen = data.draw(st.lists(st.integers(0, len(groups) - 1)))
    values = ints([value for group in groups for value in group])
    taken = take_groups(values, ints([len(group) for group in groups]), ints(chosen))
    assert taken.tolist() == [value for number in chosen for value in groups[number]]
