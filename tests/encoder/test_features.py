from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_bertft.encoder.features import gather, group_sums
from spacy_bertft.encoder.pooling import doc_vectors, token_vectors
from spacy_bertft.types import Features

WIDTH = 3
modest = settings(deadline=None, max_examples=80)


def ints(values):
    return np.array(values, dtype=np.int64)


@st.composite
def docs(draw):
    """One doc: the number of its windows, of its subwords, and which of its subwords each token owns."""
    n_subwords = draw(st.integers(0, 5))
    owned = st.lists(st.integers(0, n_subwords - 1), max_size=3) if n_subwords else st.just([])
    return draw(st.integers(1, 3)), n_subwords, draw(st.lists(owned, max_size=4))


batches_of_docs = st.lists(docs(), min_size=1, max_size=4)


def batch(of_docs, seed=0):
    """Features of some docs with random rows."""
    n_windows, n_subwords = [doc[0] for doc in of_docs], [doc[1] for doc in of_docs]
    random = np.random.default_rng(seed)
    places = random.permutation(sum(n_windows) + sum(n_subwords) + 2)
    firsts = np.cumsum([0, *n_subwords])
    return Features(
        hidden=torch.from_numpy(random.normal(size=(len(places), WIDTH)).astype(np.float32)).requires_grad_(),
        rows=ints(places[: sum(n_subwords)]),
        subword_counts=ints(n_subwords),
        token_subwords=ints(
            [firsts[number] + s for number, doc in enumerate(of_docs) for token in doc[2] for s in token]
        ),
        token_subword_counts=ints([len(token) for doc in of_docs for token in doc[2]]),
        token_counts=ints([len(doc[2]) for doc in of_docs]),
        cls_rows=ints(places[sum(n_subwords) : sum(n_subwords) + sum(n_windows)]),
        window_counts=ints(n_windows),
    )


def read(features):
    """What each doc's features say, read with plain loops: its windows' rows, its subwords' rows, its tokens' rows."""
    found, subword, window, token, owned = [], 0, 0, 0, 0
    for n_subwords, n_windows, n_tokens in zip(
        features.subword_counts, features.window_counts, features.token_counts, strict=True
    ):
        rows = [features.hidden[row] for row in features.rows[subword : subword + n_subwords]]
        heads = [features.hidden[row] for row in features.cls_rows[window : window + n_windows]]
        tokens = []
        for count in features.token_subword_counts[token : token + n_tokens]:
            own = features.token_subwords[owned : owned + count]
            assert all(subword <= s < subword + n_subwords for s in own)
            tokens.append([features.hidden[features.rows[s]] for s in own])
            owned += count
        found.append((heads, rows, tokens))
        subword, window, token = subword + n_subwords, window + n_windows, token + n_tokens
    return found


def plain(found):
    """The same as lists of numbers."""
    if isinstance(found, torch.Tensor):
        return found.tolist()
    return [plain(part) for part in found]


def mean(vectors):
    return torch.stack(vectors).mean(0) if vectors else torch.zeros(WIDTH)


@modest
@given(st.lists(batches_of_docs, min_size=1, max_size=3), st.data())
def test_gathered_features_are_those_of_the_docs_in_the_order_asked_for(of_batches, data):
    batches = [batch(of_docs, seed) for seed, of_docs in enumerate(of_batches)]
    everyone = [(features, place) for features in batches for place in range(len(features.token_counts))]
    parts = data.draw(st.lists(st.sampled_from(range(len(everyone))), min_size=1, max_size=6))
    gathered = gather([everyone[number] for number in parts])
    expected = [read(features)[place] for features, place in (everyone[number] for number in parts)]
    assert plain(read(gathered)) == plain(expected)


def test_a_whole_batch_in_order_is_given_back_as_it_is():
    features = batch([(1, 2, [[0]]), (1, 1, [[0]])])
    assert gather([(features, 0), (features, 1)]) is features


def test_gradients_of_gathered_features_reach_each_batch():
    first, second = batch([(1, 2, [[0], [1]])], 1), batch([(1, 2, [[0], [1]])], 2)
    token_vectors(gather([(second, 0), (first, 0)]), "first").sum().backward()
    for features in (first, second):
        assert set(features.hidden.grad.sum(1).nonzero().flatten().tolist()) == set(features.rows.tolist())


@modest
@given(batches_of_docs, st.sampled_from(["first", "mean"]))
def test_token_vectors_are_the_first_or_the_mean_of_the_subwords(of_docs, how):
    features = batch(of_docs)
    tokens = [token for _, _, of_doc in read(features) for token in of_doc]
    expected = [mean(token[:1] if how == "first" else token) for token in tokens]
    assert_same(token_vectors(features, how), expected, features.hidden)


@modest
@given(batches_of_docs, st.sampled_from(["cls", "mean"]))
def test_doc_vectors_are_the_mean_of_first_specials_or_of_subwords(of_docs, how):
    features = batch(of_docs)
    expected = [mean(heads if how == "cls" else rows) for heads, rows, _ in read(features)]
    assert_same(doc_vectors(features, how), expected, features.hidden)


def assert_same(vectors, expected, hidden):
    """The same vectors, and the same gradient of a scalar of them."""
    expected = torch.stack(expected) if expected else torch.zeros(0, WIDTH)
    torch.testing.assert_close(vectors, expected)
    weights = torch.arange(1.0, vectors.numel() + 1).reshape(vectors.shape)
    if expected.requires_grad:
        gradients = [torch.autograd.grad((weights * found).sum(), hidden)[0] for found in (vectors, expected)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("how", ["first", "mean"])
def test_token_without_subwords_gets_zeros(how):
    features = batch([(1, 2, [[0], [], [1]])])
    assert token_vectors(features, how)[1].tolist() == [0] * WIDTH


@pytest.mark.parametrize("how", ["first", "mean"])
def test_docs_without_tokens_have_no_token_vectors(how):
    assert token_vectors(batch([(1, 0, []), (1, 0, [])]), how).shape == (0, WIDTH)


def test_group_sums_of_empty_groups_are_zero():
    assert group_sums(ints([1, 2, 3]), ints([0, 2, 0, 1])).tolist() == [0, 3, 0, 3]
    assert group_sums(ints([]), ints([])).tolist() == []
