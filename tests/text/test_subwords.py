"""Subwords of texts and of segments, and the special ones around them."""

from __future__ import annotations

import numpy as np
import pytest
from encoders import LONG, MIXED, ODD
from tiny import FAMILIES
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from spacy_bertft.errors import EncoderError
from spacy_bertft.text.subwords import Splitter, Texts, align_texts, shortened
from spacy_bertft.types import Subwords

pytestmark = pytest.mark.touches_transformers

NONE = [-1] * 4  # of a text without segments


@pytest.fixture
def splitter(tiny_encoder):
    """`splitter(family)`: that of a tiny encoder's tokenizer."""
    return lambda family: Splitter(Tokenizer.from_file(str(tiny_encoder(family) / "tokenizer.json")))


def letters():
    """A splitter that makes a subword of each letter of its vocabulary."""
    vocabulary = {letter: number for number, letter in enumerate("abcdefgh")}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return Splitter(tokenizer)


def ints(*values):
    return np.array(values, dtype=np.int64)


def texts_of(*texts, segments=None, tokens=()):
    """tokens: (start, end) of each token of each text."""
    spans = [span for of_text in tokens for span in of_text]
    return Texts(
        texts,
        ints(*(start for start, _ in spans)),
        ints(*(end for _, end in spans)),
        ints(*map(len, tokens)),
        None if segments is None else np.array(segments, dtype=np.int64),
    )


def of_each(subwords):
    """(subword, first character, one behind the last) of each subword of each text."""
    rows = np.stack([subwords.ids, subwords.starts, subwords.ends], axis=1)
    return [[tuple(row) for row in part.tolist()] for part in np.split(rows, np.cumsum(subwords.counts)[:-1])]


def assert_same(found, expected):
    for name in ("ids", "starts", "ends", "counts"):
        assert getattr(found, name).dtype == np.int64
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()


# --- texts


@pytest.mark.parametrize("family", FAMILIES)
def test_many_texts_give_what_each_gives_alone(splitter, family):
    texts = [*MIXED, LONG, *ODD.values()]
    split = splitter(family)
    together = of_each(split.tokenize(texts))
    assert together == [of_each(split.tokenize([text]))[0] for text in texts]
    assert len(together[texts.index(LONG)]) > 100


@pytest.mark.parametrize("family", FAMILIES)
def test_subwords_come_in_order_from_the_text_itself(splitter, family):
    (subwords,) = of_each(splitter(family).tokenize(["Anna lives in Berlin"]))
    assert {character for _, start, end in subwords for character in range(start, end)} >= {
        place for place, letter in enumerate("Anna lives in Berlin") if letter != " "
    }
    assert [start for _, start, _ in subwords] == sorted(start for _, start, _ in subwords)
    assert subwords[-1][2] == len("Anna lives in Berlin")


@pytest.mark.parametrize("texts", [[], [""], ["", ""]], ids=str)
def test_texts_without_subwords(splitter, texts):
    found = splitter("bert-uncased").tokenize(texts)
    assert len(found.ids) == len(found.starts) == len(found.ends) == 0
    assert found.counts.tolist() == [0] * len(texts)


def test_special_subwords_are_not_added(splitter):
    split = splitter("bert-uncased")
    specials = {*split.specials.prefix.tolist(), *split.specials.suffix.tolist()}
    assert not specials & set(split.tokenize([LONG]).ids.tolist())


def test_another_process_than_the_one_it_was_made_in_starts_no_threads(splitter, monkeypatch):
    """A fork has none of the threads that its parent's tokenizer waits for."""
    split = splitter("bert-uncased")
    expected = split.tokenize(MIXED)
    calls = []

    class Counting:
        def encode(self, text, **settings):
            calls.append(text)
            return tokenizer.encode(text, **settings)

    tokenizer, split.tokenizer = split.tokenizer, Counting()
    with pytest.raises(AttributeError, match="encode_batch"):
        split.tokenize(MIXED)
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert_same(split.tokenize(MIXED), expected)
    assert calls == MIXED


# --- special subwords


@pytest.mark.parametrize("family", FAMILIES)
def test_special_subwords_are_those_that_transformers_adds(splitter, tiny_encoder, family):
    specials = splitter(family).specials
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder(family))
    alone, pair = (tokenizer(*texts)["input_ids"] for texts in (["a"], ["a", "a"]))
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    prefix, middle, suffix = (part.tolist() for part in (specials.prefix, specials.middle, specials.suffix))
    assert prefix + text + suffix == alone
    assert prefix + text + middle + text + suffix == pair
    assert len(prefix) == len(suffix) == 1
    assert middle
    assert (specials.count(paired=False), specials.count(paired=True)) == (2, 2 + len(middle))


def test_a_tokenizer_may_have_none():
    specials = letters().specials
    assert (len(specials.prefix), len(specials.middle), len(specials.suffix)) == (0, 0, 0)


def test_a_tokenizer_that_knows_no_letter_is_refused():
    with pytest.raises(EncoderError, match=r'no subword for the text "a"\. Expected a tokenizer for the encoder\'s'):
        Splitter(Tokenizer(models.BPE()))


# --- segments


def test_without_segments_texts_are_split_whole(splitter):
    split = splitter("bert-uncased")
    found = split.split(texts_of(*MIXED))
    assert found.firsts is None
    assert_same(found, split.tokenize(MIXED))


def test_segments_are_split_apart_and_nothing_outside_of_them():
    texts = texts_of("ab--cde-", "fgh", "cd", segments=[[0, 2, 4, 7], NONE, [0, 1, 1, 2]])
    found = letters().split(texts)
    assert of_each(found) == [
        [(0, 0, 1), (1, 1, 2), (2, 4, 5), (3, 5, 6), (4, 6, 7)],
        [(5, 0, 1), (6, 1, 2), (7, 2, 3)],
        [(2, 0, 1), (3, 1, 2)],
    ]
    assert found.firsts.tolist() == [2, -1, 1]


def test_the_first_segment_may_stand_behind_the_second():
    found = letters().split(texts_of("abcd", segments=[[2, 4, 0, 2]]))
    assert of_each(found) == [[(2, 2, 3), (3, 3, 4), (0, 0, 1), (1, 1, 2)]]
    assert found.firsts.tolist() == [2]


@pytest.mark.parametrize(
    ("segments", "starts", "firsts"),
    [([0, 0, 1, 3], [1, 2], 0), ([0, 2, 3, 3], [0, 1], 2), ([1, 1, 1, 1], [], 0)],
)
def test_segments_may_be_empty(segments, starts, firsts):
    found = letters().split(texts_of("abc", "h", segments=[segments, NONE]))
    assert [start for _, start, _ in of_each(found)[0]] == starts
    assert found.firsts.tolist() == [firsts, -1]
    assert found.counts.tolist() == [len(starts), 1]


def test_no_texts_with_segments_are_no_subwords():
    found = letters().split(texts_of(segments=np.zeros((0, 4))))
    assert len(found.ids) == len(found.counts) == len(found.firsts) == 0


def test_a_piece_that_stands_in_many_texts_is_split_once(monkeypatch):
    split, seen = letters(), []
    plain = split.tokenize
    monkeypatch.setattr(split, "tokenize", lambda texts: seen.extend(texts) or plain(texts))
    found = split.split(texts_of("a cd", "b cd", "cd", segments=[[0, 1, 2, 4], [0, 1, 2, 4], NONE]))
    assert seen == ["a", "cd", "b"]
    assert of_each(found) == [
        [(0, 0, 1), (2, 2, 3), (3, 3, 4)],
        [(1, 0, 1), (2, 2, 3), (3, 3, 4)],
        [(2, 0, 1), (3, 1, 2)],
    ]


# --- shortened


def test_what_has_no_segments_is_not_shortened():
    subwords = letters().split(texts_of("abcdefgh"))
    assert shortened(subwords, pair_size=2) is subwords


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ("abc", "d", "abcd"),  # they fit
        ("abcdef", "gh", "abgh"),  # the longer one gives
        ("ab", "cdefgh", "abcd"),
        ("abcd", "efgh", "abef"),  # both
        ("", "abcdefgh", "abcd"),
        ("abcdefgh", "", "abcd"),
    ],
)
def test_the_end_of_the_longer_segment_is_cut_off(first, second, kept):
    segments = [[0, len(first), len(first) + 1, len(first) + 1 + len(second)], NONE]
    subwords = letters().split(texts_of(f"{first}-{second}", "abcdefgh", segments=segments))
    found = shortened(subwords, pair_size=4)
    of_first, other = of_each(found)
    assert "".join(f"{first}-{second}"[start] for _, start, _ in of_first) == kept
    assert all(end == start + 1 for _, start, end in of_first)
    assert found.firsts.tolist() == [sum(letter in first for letter in kept), -1]
    assert other == of_each(subwords)[1]  # a text without segments stays whole


# --- alignment


def test_tokens_own_subwords_of_their_own_text_alone():
    subwords = Subwords(ints(0, 1, 2), ints(0, 2, 0), ints(2, 4, 4), ints(2, 0, 1))
    texts = texts_of("abcd", "", "abcd", tokens=[[(0, 1), (1, 4)], [], [(0, 2), (2, 4)]])
    found = align_texts(subwords, texts)
    assert found.counts.tolist() == [1, 2, 1, 1]
    assert found.subwords.tolist() == [0, 0, 1, 2, 2]


def test_the_last_subword_of_a_text_is_not_the_first_of_the_next():
    """Not even where it ends at the last character and the next begins at the first."""
    subwords = letters().tokenize(["ab", "cd"])
    found = align_texts(subwords, texts_of("ab", "cd", tokens=[[(0, 2)], [(0, 2)]]))
    assert found.subwords.tolist() == [0, 1, 2, 3]
    assert found.counts.tolist() == [2, 2]
