"""Features of made-up docs with random rows, for hypothesis, and what they say, read with plain loops."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

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
    places = random.permutation(2 * sum(n_windows) + sum(n_subwords) + 2)
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
        # Each window's first special subword, and one after its subwords.
        special_rows=ints(places[sum(n_subwords) : sum(n_subwords) + 2 * sum(n_windows)]).reshape(2, -1).T.reshape(-1),
        special_counts=ints(n_windows) * 2,
    )


def read_specials(features):
    """The rows of the special subwords of each doc, read with plain loops."""
    found, place = [], 0
    for count in features.special_counts:
        found.append([features.hidden[row] for row in features.special_rows[place : place + count]])
        place += count
    return found


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
