"""Vectors of tokens and of docs, and their gradients, against plain loops over the rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from feature_batches import WIDTH, batch, batches_of_docs, modest, read, read_specials
from hypothesis import given
from hypothesis import strategies as st

from spacy_bertft.encoder.pooling import doc_vectors, token_vectors
from spacy_bertft.errors import ConfigError

OF_TOKEN = {"first": lambda rows: rows[:1], "last": lambda rows: rows[-1:], "mean": lambda rows: rows}


def mean(vectors):
    return torch.stack(vectors).mean(0) if vectors else torch.zeros(WIDTH)


@pytest.mark.parametrize("how", OF_TOKEN)
@modest
@given(of_docs=batches_of_docs)
def test_token_vectors_are_the_mean_of_the_subwords_asked_for(how, of_docs):
    features = batch(of_docs)
    tokens = [token for _, _, of_doc in read(features) for token in of_doc]
    expected = [mean(OF_TOKEN[how](token)) for token in tokens]
    assert_same(token_vectors(features, how), expected, features.hidden)


@modest
@given(batches_of_docs, st.sampled_from(["cls", "mean", "mean_all"]))
def test_doc_vectors_are_the_mean_of_first_specials_or_of_subwords_or_of_all(of_docs, how):
    features = batch(of_docs)
    of = {
        "cls": lambda heads, rows, specials: heads,
        "mean": lambda heads, rows, specials: rows,
        "mean_all": lambda heads, rows, specials: [*rows, *specials],
    }[how]
    both = zip(read(features), read_specials(features), strict=True)
    expected = [mean(of(heads, rows, specials)) for (heads, rows, _), specials in both]
    assert_same(doc_vectors(features, how), expected, features.hidden)


def assert_same(vectors, expected, hidden):
    """The same vectors, and the same gradient of a scalar of them."""
    expected = torch.stack(expected) if expected else torch.zeros(0, WIDTH)
    torch.testing.assert_close(vectors, expected)
    weights = torch.arange(1.0, vectors.numel() + 1).reshape(vectors.shape)
    if expected.requires_grad:
        gradients = [torch.autograd.grad((weights * found).sum(), hidden)[0] for found in (vectors, expected)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("how", OF_TOKEN)
def test_tokens_without_subwords_get_zeros_and_their_neighbours_their_own(how):
    features = batch([(1, 2, [[], [0], [], [1], []])])
    vectors = token_vectors(features, how)
    assert not vectors[[0, 2, 4]].any()
    assert torch.equal(vectors[[1, 3]], features.hidden[features.rows])


def test_the_mean_of_all_needs_features_that_know_their_special_subwords():
    features = replace(batch([(1, 2, [[0]])]), special_rows=None, special_counts=None)
    with pytest.raises(
        ConfigError, match=r'pooling of a head is "mean_all", but .*Expected a bertft_encoder\. Set pool'
    ):
        doc_vectors(features, "mean_all")


@pytest.mark.parametrize("how", OF_TOKEN)
def test_docs_without_tokens_have_no_token_vectors(how):
    assert token_vectors(batch([(1, 0, []), (1, 0, [])]), how).shape == (0, WIDTH)


def test_a_subword_that_two_tokens_share_counts_for_both():
    features = batch([(1, 1, [[0], [0]])])
    first, second = token_vectors(features, "mean")
    assert torch.equal(first, second)
    assert torch.equal(first, features.hidden[features.rows[0]])


def test_without_special_subwords_docs_get_zeros():
    features = batch([(1, 2, [[0]]), (2, 1, [[0]])])
    none = replace(features, cls_rows=features.cls_rows[:0], window_counts=np.zeros_like(features.window_counts))
    assert doc_vectors(none, "cls").tolist() == [[0.0] * WIDTH] * 2
    assert doc_vectors(none, "mean").abs().min() > 0


def test_a_doc_without_subwords_gets_zeros():
    features = batch([(1, 0, []), (1, 2, [[0]])])
    empty, other = doc_vectors(features, "mean")
    assert not empty.any()
    assert other.abs().min() > 0
