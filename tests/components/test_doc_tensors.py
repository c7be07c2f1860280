"""doc.tensor and what follows from it."""

from __future__ import annotations

import numpy as np
import pytest
import spacy
import torch

from spacy_bertft.components.doc_tensors import set_tensors
from spacy_bertft.types import Features

NLP = spacy.blank("en")


def features_of(*docs):
    """Features of Docs from lists of rows: for each Doc the rows of each of its tokens."""
    tokens = [rows for doc in docs for rows in doc]
    hidden = torch.tensor([row for rows in tokens for row in rows]).reshape(-1, 2)
    counts = np.array([sum(map(len, doc)) for doc in docs], dtype=np.int64)
    return Features(
        hidden=hidden,
        rows=np.arange(len(hidden)),
        subword_counts=counts,
        token_subwords=np.arange(len(hidden)),
        token_subword_counts=np.array([len(rows) for rows in tokens], dtype=np.int64),
        token_counts=np.array([len(doc) for doc in docs], dtype=np.int64),
        cls_rows=np.zeros(0, dtype=np.int64),
        window_counts=np.zeros(len(docs), dtype=np.int64),
    )


ONE, TWO = [[[1.0, 0.0]], [[0.0, 2.0], [0.0, 4.0]]], [[[3.0, 3.0]], []]


@pytest.fixture
def docs():
    docs = [NLP.make_doc("Anna lives"), NLP.make_doc(""), NLP.make_doc("Bob \n")]
    assert [len(doc) for doc in docs] == [2, 0, 2]
    set_tensors(docs, features_of(ONE, [], TWO))
    return docs


def test_a_tokens_row_is_the_mean_of_its_subwords(docs):
    assert [doc.tensor.tolist() for doc in docs] == [[[1.0, 0.0], [0.0, 3.0]], [], [[3.0, 3.0], [0.0, 0.0]]]
    assert docs[1].tensor.shape == (0, 2)
    assert all(doc.tensor.dtype == np.float32 for doc in docs)


def test_vectors_follow(docs):
    assert docs[0][1].vector.tolist() == [0.0, 3.0]
    assert docs[0].vector.tolist() == [0.5, 1.5]
    assert docs[0][:1].vector.tolist() == [1.0, 0.0]


def test_similarity_is_the_cosine_of_the_vectors(docs):
    first, _, third = docs
    assert first[0].similarity(first[1]) == 0.0
    assert first[0].similarity(third[0]) == pytest.approx(0.5**0.5)
    assert first[1:].similarity(third[:1]) == pytest.approx(0.5**0.5)
    assert first.similarity(third) == pytest.approx(2 / (2.5**0.5 * 2**0.5))
    assert first.similarity(first[1]) == pytest.approx(1.5 / 2.5**0.5)


def test_what_has_no_vector_is_similar_to_nothing(docs):
    first, _, third = docs
    assert third[1].similarity(third[1]) == 0.0
    assert first[0].similarity(third[1]) == 0.0


def test_no_docs_are_no_error():
    set_tensors([], features_of())
