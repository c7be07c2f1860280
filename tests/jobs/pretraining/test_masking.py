"""Which subwords are chosen, and what stands in their places."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spacy_bertft.jobs.pretraining.masking import Corruption, Vocabulary, corrupt

pytestmark = pytest.mark.touches_transformers

SIZE, N = 50, 400_000
SPECIAL = np.array([0, 1, 2, 3, 4])
MASK = 4


def vocabulary(word_starts=None):
    special = np.zeros(SIZE, dtype=bool)
    special[SPECIAL] = True
    starts = np.ones(SIZE, dtype=bool) if word_starts is None else word_starts
    return Vocabulary(MASK, special, starts | special)


def texts(seed=0):
    """Subwords with a special one every 40 places."""
    ids = np.random.default_rng(seed).integers(5, SIZE, N)
    ids[::40] = 2
    ids[39::40] = 3
    return ids


def run(ids=None, counts=None, seed=0, vocab=None, **settings):
    counts = np.ones(SIZE, dtype=np.int64) if counts is None else counts
    ids = texts() if ids is None else ids
    return ids, corrupt(ids, Corruption(**settings), vocab or vocabulary(), counts, np.random.default_rng(seed))


def near(share, expected, n):
    """Within five standard deviations of a share of n."""
    return abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_a_share_of_the_subwords_is_chosen_and_no_special_one(rate):
    ids, found = run(rate=rate)
    assert not np.isin(ids[found.rows], SPECIAL).any()
    eligible = int((~np.isin(ids, SPECIAL)).sum())
    assert near(len(found.rows) / eligible, rate, eligible)
    assert (np.diff(found.rows) > 0).all()


def test_the_targets_are_what_was_there_and_the_rest_is_untouched():
    ids, found = run()
    assert np.array_equal(found.targets, ids[found.rows])
    untouched = np.ones(N, dtype=bool)
    untouched[found.rows] = False
    assert np.array_equal(found.ids[untouched], ids[untouched])
    assert np.array_equal(ids, texts())


def test_of_the_chosen_80_percent_are_masked_10_replaced_and_10_kept():
    _, found = run(draw="uniform")
    now, then, n = found.ids[found.rows], found.targets, len(found.rows)
    assert near((now == MASK).mean(), 0.8, n)
    same = now == then
    # A drawn subword is by chance the one that was there.
    assert near(same.mean(), 0.1 + 0.1 / 45, n)
    assert near(((now != MASK) & ~same).mean(), 0.1 * 44 / 45, n)


@pytest.mark.parametrize("masked", [0.0, 1.0])
def test_shares_can_be_set(masked):
    _, found = run(masked=masked, random=0.0)
    assert (found.ids[found.rows] == (MASK if masked else found.targets)).all()


def test_others_are_drawn_as_often_as_they_occur():
    counts = np.arange(SIZE, dtype=np.int64) ** 2
    _, found = run(counts=counts, masked=0.0, random=1.0)
    drawn = np.bincount(found.ids[found.rows], minlength=SIZE)
    expected = np.where(np.isin(np.arange(SIZE), SPECIAL), 0, counts)
    share = expected / expected.sum()
    n = len(found.rows)
    assert (np.abs(drawn / n - share) <= 5 * np.sqrt(share * (1 - share) / n)).all()


def test_others_are_drawn_evenly_where_that_is_asked_for():
    counts = np.arange(SIZE, dtype=np.int64) ** 2
    _, found = run(counts=counts, masked=0.0, random=1.0, draw="uniform")
    drawn = np.bincount(found.ids[found.rows], minlength=SIZE)
    assert not drawn[SPECIAL].any()
    n = len(found.rows)
    assert all(near(share, 1 / 45, n) for share in drawn[5:] / n)


def test_whole_words_are_chosen_together():
    starts = np.arange(SIZE) % 3 == 0
    ids, found = run(vocab=vocabulary(starts), whole_words=True, rate=0.2)
    chosen = np.zeros(N, dtype=bool)
    chosen[found.rows] = True
    special = np.isin(ids, SPECIAL)
    goes_on = np.append(False, ~(starts[ids[1:]] | special[1:] | special[:-1]))
    assert goes_on.mean() > 0.4
    assert np.array_equal(chosen[goes_on], chosen[np.flatnonzero(goes_on) - 1])
    begins = ~goes_on & ~special
    assert near(chosen[begins].mean(), 0.2, int(begins.sum()))


def test_the_same_generator_corrupts_alike_and_another_does_not():
    (_, one), (_, again), (_, other) = run(seed=1), run(seed=1), run(seed=2)
    assert np.array_equal(one.ids, again.ids)
    assert np.array_equal(one.rows, again.rows)
    assert not np.array_equal(one.ids, other.ids)


@pytest.mark.parametrize("family", ["bert-uncased", "roberta", "xlm-roberta", "electra", "modernbert"])
def test_words_begin_where_the_tokenizer_says(tiny_encoder, family):
    from tokenizers import Tokenizer

    folder = tiny_encoder(family)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    special = np.array([token["id"] for token in added if token["special"]])
    vocab = Vocabulary.of(tokenizer.get_vocab(), mask=0, special=special)
    encoding = tokenizer.encode(" unbelievable stories were forgotten automobiles", add_special_tokens=False)
    words = list(encoding.word_ids)
    begins = [place == 0 or words[place] != words[place - 1] for place in range(len(words))]
    assert len(words) > len(set(words))  # some words are of several subwords
    assert vocab.word_starts[encoding.ids].tolist() == begins


def test_an_empty_batch_is_left_empty():
    _, found = run(ids=np.zeros(0, dtype=np.int64))
    assert len(found.ids) == len(found.rows) == len(found.targets) == 0
