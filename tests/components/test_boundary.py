"""The boundary between the encoder and its heads: what is published, and what goes back."""

from __future__ import annotations

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc

from spacy_bertft.components import feature_store
from spacy_bertft.components.boundary import Boundary
from spacy_bertft.types import Features

NLP = spacy.blank("en")
WIDTH = 3


def docs_of(*texts):
    return [NLP.make_doc(text) for text in texts]


def features_of(docs, dtype=torch.float32):
    """A row for each token, and none for special subwords."""
    counts = np.array([len(doc) for doc in docs], dtype=np.int64)
    n_rows = int(counts.sum())
    torch.manual_seed(0)
    return Features(
        hidden=torch.randn(n_rows, WIDTH).to(dtype).requires_grad_(),
        rows=np.arange(n_rows),
        subword_counts=counts,
        token_subwords=np.arange(n_rows),
        token_subword_counts=np.ones(n_rows, dtype=np.int64),
        token_counts=counts,
        cls_rows=np.zeros(0, dtype=np.int64),
        window_counts=np.zeros(len(docs), dtype=np.int64),
    )


@pytest.fixture
def sent():
    """The gradients that were taken into the encoder."""
    return []


@pytest.fixture
def docs():
    return docs_of("Anna lives in Berlin", "A long meeting", "")


def opened(docs, sent, features=None, *, learns=True):
    features = features_of(docs) if features is None else features
    return Boundary.open("encoder", docs, features, sent.append, learns=learns)


def test_heads_find_the_leaf_in_place_of_the_hidden_rows(docs, sent):
    features = features_of(docs)
    boundary = opened(docs, sent, features)
    for place, doc in enumerate(docs):
        entry = feature_store.find(doc, "encoder")
        assert entry.features.hidden is boundary.leaf
        assert entry.place == place
        assert entry.features.token_counts is features.token_counts
    assert torch.equal(boundary.leaf, features.hidden)
    boundary.close()


@pytest.mark.parametrize("learns", [True, False])
def test_the_leaf_wants_a_gradient_if_the_encoder_learns(docs, sent, learns):
    boundary = opened(docs, sent, learns=learns)
    assert boundary.leaf.is_leaf
    assert boundary.leaf.requires_grad is learns
    boundary.close()


def test_the_leaf_is_float32_whatever_the_encoder_computes_in(docs, sent):
    boundary = opened(docs, sent, features_of(docs, torch.bfloat16))
    assert boundary.leaf.dtype == torch.float32
    boundary.close()


def test_the_gradients_of_all_heads_add_up_and_go_back_once(docs, sent):
    boundary = opened(docs, sent)
    assert not boundary.answered
    boundary.leaf.sum().backward()
    (2 * boundary.leaf[0]).sum().backward()
    assert boundary.answered
    assert not sent
    boundary.close()
    expected = torch.ones(len(boundary.leaf), WIDTH)
    expected[0] = 3.0
    assert len(sent) == 1
    assert torch.equal(sent[0], expected)


def test_without_a_head_that_learned_nothing_goes_back(docs, sent):
    opened(docs, sent).close()
    assert not sent


def test_closing_takes_the_features_back(docs, sent):
    boundary = opened(docs, sent)
    boundary.close()
    assert not any(feature_store.find(doc, "encoder") for doc in docs)


def test_closing_leaves_what_another_has_published(docs, sent):
    boundary = opened(docs, sent)
    newer, other = features_of(docs), features_of(docs)
    feature_store.publish("encoder", docs[:1], newer, readers=(), keep=True)
    feature_store.publish("other", docs, other, readers=(), keep=True)
    boundary.close()
    assert feature_store.find(docs[0], "encoder").features is newer
    assert feature_store.find(docs[1], "encoder") is None
    assert feature_store.find(docs[1], "other").features is other


def test_heads_are_awaited_for_these_docs_until_one_has_learned(docs, sent):
    boundary = opened(docs, sent)
    assert boundary.awaits(docs)
    assert boundary.awaits(docs[1:2])
    assert not boundary.awaits([*docs, *docs_of("Another text")])
    assert not boundary.awaits([docs[0].copy()])
    boundary.leaf.sum().backward()
    assert not boundary.awaits(docs)
    boundary.close()


def test_copies_lead_to_their_originals_and_others_to_themselves(docs, sent):
    boundary = opened(docs, sent)
    other = NLP.make_doc("Another text")
    asked = [docs[1].copy(), other, docs[0], Doc(NLP.vocab), docs[0].copy()]
    expected = [docs[1], other, docs[0], docs[2], docs[0]]
    assert list(map(id, boundary.originals(asked))) == list(map(id, expected))
    boundary.close()


def test_other_spacing_makes_another_text(docs, sent):
    boundary = opened(docs, sent)
    words = [token.text for token in docs[1]]
    glued = Doc(NLP.vocab, words=words, spaces=[False] * len(words))
    assert boundary.originals([glued]) == [glued]
    boundary.close()
