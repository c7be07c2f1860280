"""Matching gold and predicted spans."""

from __future__ import annotations

import random

import spacy
from spacy.tokens import Span
from spacy.training import Example

from spacy_bertft.jobs.report.span_matches import Found, match, on_gold_tokens


def kinds(gold, predicted):
    found = match([Found(*span) for span in gold], [Found(*span) for span in predicted])
    return sorted((one.kind, one.gold and one.gold[:3], one.predicted and one.predicted[:3]) for one in found)


def test_each_kind():
    gold = [(0, 2, "PER"), (3, 6, "ORG"), (7, 8, "LOC"), (9, 10, "LOC")]
    predicted = [(0, 2, "PER"), (4, 6, "ORG"), (7, 8, "PER"), (12, 13, "PER")]
    assert kinds(gold, predicted) == [
        ("exact", (0, 2, "PER"), (0, 2, "PER")),
        ("invented", None, (12, 13, "PER")),
        ("missed", (9, 10, "LOC"), None),
        ("partial", (3, 6, "ORG"), (4, 6, "ORG")),
        ("wrong type", (7, 8, "LOC"), (7, 8, "PER")),
    ]


def test_nothing_at_all():
    assert match([], []) == []
    assert kinds([(0, 1, "A")], []) == [("missed", (0, 1, "A"), None)]
    assert kinds([], [(0, 1, "A")]) == [("invented", None, (0, 1, "A"))]


def test_each_span_is_matched_once_the_best_pair_first():
    # One gold span in two pieces: the larger one is the partial match, the other one is invented.
    assert kinds([(0, 5, "A")], [(0, 2, "A"), (2, 5, "A")]) == [
        ("invented", None, (0, 2, "A")),
        ("partial", (0, 5, "A"), (2, 5, "A")),
    ]
    # The same label goes before the same boundaries.
    assert kinds([(0, 3, "A"), (3, 5, "B")], [(0, 5, "B")]) == [
        ("missed", (0, 3, "A"), None),
        ("partial", (3, 5, "B"), (0, 5, "B")),
    ]


def test_nested_spans_that_are_equal_are_exact():
    both = [(0, 4, "A"), (1, 2, "B"), (1, 2, "A")]
    assert {kind for kind, _, _ in kinds(both, both)} == {"exact"}


def test_every_span_is_in_one_match():
    generator = random.Random(0)

    def spans():
        starts = [generator.randrange(30) for _ in range(generator.randrange(12))]
        return [Found(start, start + generator.randrange(1, 5), generator.choice("AB")) for start in starts]

    for _ in range(200):
        gold, predicted = spans(), spans()
        found = match(gold, predicted)
        assert sorted(one.gold for one in found if one.gold) == sorted(gold)
        assert sorted(one.predicted for one in found if one.predicted) == sorted(predicted)
        for one in found:
            if one.gold and one.predicted:
                assert one.gold.start < one.predicted.end
                assert one.predicted.start < one.gold.end


def test_thousands_of_spans_take_no_quadratic_time():
    gold = [Found(3 * place, 3 * place + 2, "A") for place in range(20_000)]
    predicted = [Found(3 * place + 1, 3 * place + 3, "A") for place in range(20_000)]
    assert {one.kind for one in match(gold, predicted)} == {"partial"}


def test_predicted_spans_come_over_to_other_tokens():
    nlp = spacy.blank("en")
    predicted = nlp("Anna Berg's shop")  # Anna | Berg | 's | shop
    gold = spacy.tokens.Doc(nlp.vocab, words=["Anna", "Berg's", "shop"])
    span = Span(predicted, 0, 2, "PERSON")
    (found,) = on_gold_tokens(Example(predicted, gold), [span], {(0, 2, "PERSON"): 0.75})
    assert found == Found(0, 2, "PERSON", 0.75)
