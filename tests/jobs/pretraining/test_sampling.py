"""Windows of a corpus and their order."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_bertft.jobs.pretraining.sampling import (
    BLOCK,
    Stretches,
    batches,
    neighbour_windows,
    order,
    pair_stretch,
    plain_windows,
    stretch,
)

pytestmark = pytest.mark.touches_transformers

modest = settings(deadline=None, max_examples=150)
corpora = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=6), min_size=1, max_size=6)


def ends(documents):
    counts = [count for document in documents for count in document]
    return np.cumsum(counts), np.cumsum([len(document) for document in documents])


@modest
@given(corpora, st.integers(1, 15))
def test_windows_hold_every_subword_once_and_stay_in_their_text(documents, size):
    text_ends, document_ends = ends(documents)
    found = stretch(text_ends, document_ends, size=size)
    held = [subword for start, end in zip(found.starts, found.ends, strict=True) for subword in range(start, end)]
    assert held == list(range(text_ends[-1]))
    text_of = np.repeat(np.arange(len(text_ends)), np.diff(text_ends, prepend=0))
    document_of = np.repeat(np.arange(len(document_ends)), np.diff(document_ends, prepend=0))
    for start, end, document in zip(found.starts, found.ends, found.documents, strict=True):
        assert 0 < end - start <= size
        assert len(set(text_of[start:end])) == 1
        assert document_of[text_of[start]] == document


@modest
@given(corpora, st.integers(2, 60))
def test_stretches_for_pairs_hold_every_subword_once_and_stay_in_their_document(documents, size):
    text_ends, document_ends = ends(documents)
    found = pair_stretch(text_ends, document_ends, size=size)
    held = [subword for start, end in zip(found.starts, found.ends, strict=True) for subword in range(start, end)]
    assert held == list(range(text_ends[-1]))
    subwords_of = [sum(document) for document in documents]
    document_of = np.repeat(np.arange(len(documents)), subwords_of)
    for start, end, document in zip(found.starts, found.ends, found.documents, strict=True):
        assert 0 < end - start <= size
        assert set(document_of[start:end]) == {document}


@pytest.mark.parametrize("n_windows", [1, 10, BLOCK, 3 * BLOCK + 7, 150 * BLOCK + 1])
def test_each_epoch_has_every_window_once_in_an_order_of_its_own(n_windows):
    stream = (number for numbers in order(n_windows, seed=3) for number in numbers.tolist())
    first, second = list(islice(stream, n_windows)), list(islice(stream, n_windows))
    assert sorted(first) == sorted(second) == list(range(n_windows))
    if n_windows > 100:
        assert first != second
        assert first != sorted(first)
    again = [number for numbers in islice(order(n_windows, seed=3), 1) for number in numbers.tolist()]
    assert again == first[: len(again)]


@modest
@given(st.integers(1, 3000), st.integers(1, 200), st.integers(0, 60))
def test_skipping_batches_goes_on_where_they_end(n_windows, size, skip):
    every = [batch.tolist() for batch in islice(batches(n_windows, size, seed=1), skip + 3)]
    assert all(len(batch) == size for batch in every)
    assert [batch.tolist() for batch in islice(batches(n_windows, size, seed=1, skip=skip), 3)] == every[skip:]


def many_documents():
    generator = np.random.default_rng(0)
    documents = [generator.integers(3, 30, generator.integers(1, 8)).tolist() for _ in range(300)]
    return ends(documents)


def test_half_of_the_second_segments_follow_the_first():
    size = 60
    text_ends, document_ends = many_documents()
    stretches = pair_stretch(text_ends, document_ends, size=size)
    chosen = np.tile(np.arange(len(stretches)), 20)
    windows, is_next = neighbour_windows(stretches, chosen, text_ends, size=size, generator=np.random.default_rng(1))
    n = len(chosen)
    assert abs(is_next.mean() - 0.5) < 5 * 0.5 / np.sqrt(n)
    assert windows.paired.all()
    first, second = windows.firsts, windows.pieces
    assert ((first.ends > first.starts) & (second.ends > second.starts)).all()
    assert (first.ends - first.starts + second.ends - second.starts <= size).all()
    follows = is_next == 1
    assert (second.starts[follows] == first.ends[follows]).all()
    assert (second.ends[follows] == stretches.ends[chosen][follows]).all()
    # The others are the beginning of a stretch of another document.
    place = np.searchsorted(stretches.starts, second.starts[~follows])
    assert (stretches.starts[place] == second.starts[~follows]).all()
    assert (stretches.documents[place] != stretches.documents[chosen][~follows]).all()
    # Segments are divided between texts where there are two.
    inside = np.isin(first.ends, text_ends)
    several = np.searchsorted(text_ends, stretches.ends - 1, side="right") > np.searchsorted(
        text_ends, stretches.starts, side="right"
    )
    assert inside[several[chosen]].all()


def test_a_corpus_of_one_document_has_pairs_too():
    text_ends = np.cumsum([5] * 20)
    stretches = pair_stretch(text_ends, np.array([20]), size=20)
    windows, _ = neighbour_windows(
        stretches, np.arange(len(stretches)), text_ends, size=20, generator=np.random.default_rng(0)
    )
    assert (windows.pieces.ends > windows.pieces.starts).all()


def test_plain_windows_are_the_stretches():
    stretches = Stretches(np.array([0, 5, 9]), np.array([5, 9, 12]), np.array([0, 0, 1]))
    windows = plain_windows(stretches, np.array([2, 0]))
    assert windows.pieces.starts.tolist() == [9, 0]
    assert windows.pieces.ends.tolist() == [12, 5]
    assert windows.firsts is None
