"""What the encoder reads of Docs: texts, offsets of tokens, segments."""

from __future__ import annotations

import numpy as np
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc

from spacy_bertft import pair_doc
from spacy_bertft.components.doc_texts import content_of, n_characters, texts_of

NLP = spacy.blank("en")
TEXTS = ["Anna lives in Berlin.", "", "  two  spaces \n", "a", "naïve 🏳️‍🌈 東京 don't"]


def with_words(words, spaces):
    return Doc(NLP.vocab, words=words, spaces=spaces)


words_and_spaces = st.lists(st.tuples(st.text(min_size=1, max_size=5), st.booleans()), max_size=6)


def check(docs):
    found = texts_of(docs)
    assert found.texts == [doc.text for doc in docs]
    assert found.token_counts.tolist() == [len(doc) for doc in docs]
    tokens = [token for doc in docs for token in doc]
    assert found.token_starts.tolist() == [token.idx for token in tokens]
    assert found.token_ends.tolist() == [token.idx + len(token.text) for token in tokens]
    assert {array.dtype for array in (found.token_starts, found.token_ends, found.token_counts)} == {np.dtype(np.int64)}


@pytest.mark.parametrize("texts", [TEXTS, ["", ""], [], TEXTS[:1]], ids=len)
def test_tokens_have_the_offsets_of_their_own_text(texts):
    check([NLP.make_doc(text) for text in texts])


@given(st.lists(words_and_spaces, max_size=3))
def test_any_tokens_will_do(of_docs):
    check([with_words([word for word, _ in doc], [space for _, space in doc]) for doc in of_docs])


def test_docs_without_segments_have_none():
    assert texts_of([NLP.make_doc(text) for text in TEXTS]).segments is None


def test_segments_are_where_their_characters_are():
    pair = pair_doc(NLP, "Anna lives", "in Berlin now")
    found = texts_of([NLP.make_doc("alone"), pair])
    assert found.segments.tolist() == [[-1, -1, -1, -1], [0, 10, 11, 24]]
    assert pair.text[11:24] == "in Berlin now"


# --- content


def test_copies_have_the_same_content():
    doc = NLP.make_doc(TEXTS[4])
    changed = doc.copy()
    changed.cats = {"home": 1.0}
    changed[0].tag_ = "X"
    assert content_of(changed) == content_of(doc) == content_of(NLP.make_doc(TEXTS[4]))


def test_content_is_words_and_spaces():
    doc = with_words(["New", "York"], [True, False])
    others = [
        with_words(["New", "York"], [True, True]),
        with_words(["New", "york"], [True, False]),
        with_words(["New York"], [False]),
        with_words(["New"], [True]),
        with_words([], []),
    ]
    assert len({content_of(one) for one in (doc, *others)}) == 6


# --- length


@pytest.mark.parametrize(
    ("text", "n"), [("", 0), ("a", 1), ("Anna lives", 10), ("Anna lives ", 10), ("東京", 2), ("a🏳b", 3)]
)
def test_characters_are_counted_but_for_white_space_at_the_end(text, n):
    assert n_characters(NLP.make_doc(text)) == n


@given(words_and_spaces)
def test_characters_are_those_of_the_text(tokens):
    doc = with_words([word for word, _ in tokens], [space for _, space in tokens])
    assert n_characters(doc) == len(doc.text) - (len(doc) > 0 and len(doc[-1].whitespace_))
