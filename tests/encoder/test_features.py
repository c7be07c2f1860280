"""Features of docs: gathered from several batches, and split."""

from __future__ import annotations

from dataclasses import replace

import torch
from feature_batches import batch, batches_of_docs, ints, modest, read, read_specials
from hypothesis import given
from hypothesis import strategies as st

from spacy_bertft.encoder.features import gather, group_sums, split
from spacy_bertft.encoder.pooling import token_vectors


def plain(found):
    """The same as lists of numbers."""
    if isinstance(found, torch.Tensor):
        return found.tolist()
    return [plain(part) for part in found]


@modest
@given(st.lists(batches_of_docs, min_size=1, max_size=3), st.data())
def test_gathered_features_are_those_of_the_docs_in_the_order_asked_for(of_batches, data):
    batches = [batch(of_docs, seed) for seed, of_docs in enumerate(of_batches)]
    everyone = [(features, place) for features in batches for place in range(len(features.token_counts))]
    parts = data.draw(st.lists(st.sampled_from(range(len(everyone))), min_size=1, max_size=6))
    gathered = gather([everyone[number] for number in parts])
    expected = [read(features)[place] for features, place in (everyone[number] for number in parts)]
    assert plain(read(gathered)) == plain(expected)
    specials = [read_specials(features)[place] for features, place in (everyone[number] for number in parts)]
    assert plain(read_specials(gathered)) == plain(specials)


@modest
@given(batches_of_docs)
def test_split_features_are_those_of_each_doc_with_its_own_rows_alone(of_docs):
    features = batch(of_docs)
    parts = split(features)
    assert plain([one for part in parts for one in read(part)]) == plain(read(features))
    assert plain([one for part in parts for one in read_specials(part)]) == plain(read_specials(features))
    assert sum(len(part.hidden) for part in parts) == len({*features.rows, *features.special_rows})


@modest
@given(batches_of_docs)
def test_where_special_subwords_are_not_known_they_stay_unknown(of_docs):
    known, unknown = batch(of_docs), replace(batch(of_docs), special_rows=None, special_counts=None)
    for features in (*split(unknown), gather([(unknown, 0)]), gather([(known, 0), (unknown, 0)])):
        assert features.special_rows is None
        assert features.special_counts is None


def test_a_whole_batch_in_order_is_given_back_as_it_is():
    features = batch([(1, 2, [[0]]), (1, 1, [[0]])])
    assert gather([(features, 0), (features, 1)]) is features


def test_gradients_of_gathered_features_reach_each_batch():
    first, second = batch([(1, 2, [[0], [1]])], 1), batch([(1, 2, [[0], [1]])], 2)
    token_vectors(gather([(second, 0), (first, 0)]), "first").sum().backward()
    for features in (first, second):
        assert set(features.hidden.grad.sum(1).nonzero().flatten().tolist()) == set(features.rows.tolist())


def test_group_sums_of_empty_groups_are_zero():
    assert group_sums(ints([1, 2, 3]), ints([0, 2, 0, 1])).tolist() == [0, 3, 0, 3]
    assert group_sums(ints([]), ints([])).tolist() == []
