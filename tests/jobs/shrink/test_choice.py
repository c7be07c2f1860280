"""Which subwords and layers stay."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.shrink.choice import Plan, choose_layers, choose_subwords
from spacy_bertft.jobs.shrink.vocabulary import read_vocabulary

SUBWORDS = ["[UNK]", "a", "##a", "aa", "##aa", "aaa", "aaaa"]
REQUIRED = {"[UNK]", "a", "##a"}


@pytest.fixture(scope="module")
def vocabulary():
    ids = {subword: number for number, subword in enumerate(SUBWORDS)}
    return read_vocabulary(Tokenizer(models.WordPiece(ids, unk_token="[UNK]")).to_str().encode())


@pytest.mark.parametrize(
    ("counts", "plan", "more"),
    [
        ([0, 0, 0, 0, 0, 0, 0], Plan(), set()),
        ([9, 0, 0, 1, 0, 0, 2], Plan(), {"aa", "aaaa"}),
        ([9, 0, 0, 1, 3, 0, 2], Plan(min_count=2), {"##aa", "aaaa"}),
        ([9, 0, 0, 1, 3, 0, 2], Plan(max_size=4), {"##aa"}),
        ([9, 0, 0, 1, 3, 0, 2], Plan(max_size=5), {"##aa", "aaaa"}),
        ([9, 0, 0, 2, 0, 2, 2], Plan(max_size=5), {"aa", "aaa"}),  # of equal counts, the lower ids
        ([0, 0, 0, 0, 0, 0, 0], Plan(max_size=3), set()),
        ([0, 0, 0, 0, 0, 0, 1], Plan(min_size=5), {"aaaa", "aa"}),  # filled up with the lower ids
        ([0, 0, 0, 0, 0, 0, 1], Plan(min_size=4), {"aaaa"}),
        ([0, 0, 0, 0, 2, 2, 1], Plan(min_size=4, max_size=4), {"##aa"}),
        ([0, 0, 0, 0, 0, 0, 0], Plan(min_size=99), {*SUBWORDS}),
    ],
)
def test_the_commonest_subwords_stay(vocabulary, counts, plan, more):
    assert choose_subwords(vocabulary, np.array(counts), plan) == REQUIRED | more


def test_named_ids_stay_and_those_of_no_subword_are_passed_over(vocabulary):
    assert choose_subwords(vocabulary, np.zeros(7, dtype=np.int64), Plan(), also=[5, 99]) == REQUIRED | {"aaa"}


def test_without_characters_only_what_occurs_stays(vocabulary):
    plan = Plan(characters=False)
    assert choose_subwords(vocabulary, np.array([0, 0, 0, 1, 0, 0, 0]), plan) == {"[UNK]", "aa"}


def test_a_size_below_what_must_stay_is_refused(vocabulary):
    counts = np.ones(7, dtype=np.int64)
    with pytest.raises(
        ConfigError, match=r"max_size is 2, but 3 subwords must stay: .*, single characters.* least 3\."
    ):
        choose_subwords(vocabulary, counts, Plan(max_size=2))
    with pytest.raises(
        ConfigError, match=r"max_size is 2, but 3 .* rests on\. Expected at least 3\. Set a larger one\.$"
    ):
        choose_subwords(vocabulary, counts, Plan(max_size=2, characters=False), also=[1, 2])


def test_rows_that_were_not_trained_fill_nothing():
    ids = {subword: number for number, subword in enumerate(["[UNK]", "[unused1]", "a", "##a", "aa"])}
    vocabulary = read_vocabulary(Tokenizer(models.WordPiece(ids, unk_token="[UNK]")).to_str().encode())
    found = choose_subwords(vocabulary, np.zeros(5, dtype=np.int64), Plan(min_size=5, characters=False))
    assert found == {"[UNK]", "a", "##a", "aa"}


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"min_count": 0}, r"min_count is 0\. Expected"),
        ({"max_size": 0}, r"max_size is 0\. Expected"),
        ({"min_size": -1}, r"min_size is -1\. Expected a number of subwords, 0 or more\."),
        ({"min_size": 5, "max_size": 4}, r"min_size is 5\. Expected .* 0 or more and at most max_size, 4\."),
    ],
)
def test_counts_below_1_are_refused(plan, said):
    with pytest.raises(ConfigError, match=said):
        Plan(**plan)


@pytest.mark.parametrize(
    ("n_layers", "wanted", "kept"),
    [
        (12, None, tuple(range(12))),
        (12, 6, (0, 2, 4, 7, 9, 11)),  # DistilBERT's
        (6, 3, (0, 2, 5)),
        (12, 4, (0, 4, 7, 11)),
        (12, 1, (0,)),
        (12, 2, (0, 11)),
        (3, 3, (0, 1, 2)),
        (6, (0, 2, 5), (0, 2, 5)),
        (6, (4,), (4,)),
    ],
)
def test_layers_by_number_and_by_name(n_layers, wanted, kept):
    assert choose_layers(n_layers, Plan(layers=wanted)) == kept


def test_evenly_spaced_layers_are_different_ones():
    for n_layers in range(1, 49):
        for wanted in range(1, n_layers + 1):
            kept = choose_layers(n_layers, Plan(layers=wanted))
            assert len(kept) == wanted
            assert list(kept) == sorted(set(kept))
            assert kept[0] == 0
            assert wanted == 1 or kept[-1] == n_layers - 1


@pytest.mark.parametrize("wanted", [0, 7, -1, (), (6,), (2, 0), (1, 1), (-1, 2)])
def test_layers_that_are_not_there_are_refused(wanted):
    with pytest.raises(ConfigError, match=r"layers is .*, of an encoder with 6\. Expected a number from 1 to 6, or"):
        choose_layers(6, Plan(layers=wanted))
