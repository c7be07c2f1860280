from __future__ import annotations

import tracemalloc
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_bertft.tasks import entity_spans as module
from spacy_bertft.tasks.entity_spans import Tagging, decode, viterbi

SCHEMES = ["bio", "biluo", "io", "iob1"]
LABELS = ["PERSON", "CITY"]
modest = settings(deadline=None, max_examples=60)


def is_valid(names, scheme):
    """The rules of each scheme, read off the tags' names."""
    if scheme == "io":
        return True
    for before, name in zip(["O", *names], [*names, "O"], strict=True):
        may_go_on = before[0] in "BI" and before != "O"
        if scheme == "iob1":
            if name[0] == "B" and not (may_go_on and name[1:] == before[1:]):
                return False
            continue
        goes_on = name[0] in "IL" and name[1:] == before[1:]
        if name[0] in "IL" and not (may_go_on and goes_on):
            return False
        if scheme == "biluo" and may_go_on and not goes_on:
            return False
    return True


def spans_of(names, scheme):
    """(start, end, label) of the entities in a valid sequence."""
    spans = []
    for place, name in enumerate(names):
        if name == "O":
            continue
        follows = place > 0 and names[place - 1][1:] == name[1:] and names[place - 1] != "O"
        if name[0] in "IL" and follows:
            spans[-1][1] = place + 1
        else:
            spans.append([place, place + 1, LABELS.index(name[2:])])
    return [tuple(span) for span in spans]


def sequences(length, scheme):
    """All valid sequences of tags, as numbers."""
    tags = Tagging.of(LABELS, scheme).tags
    everything = product(range(len(tags)), repeat=length)
    return np.array([numbers for numbers in everything if is_valid([tags[n] for n in numbers], scheme)])


def random_logits(length, scheme, seed):
    n_tags = len(Tagging.of(LABELS, scheme).tags)
    return np.random.default_rng(seed).normal(size=(length, n_tags), scale=2).astype(np.float32)


def softmax(logits):
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def entities(logits, counts, scheme):
    found = decode(logits, np.array(counts, dtype=np.int64), Tagging.of(LABELS, scheme))
    return list(
        zip(
            found.sequence.tolist(),
            found.starts.tolist(),
            found.ends.tolist(),
            found.labels.tolist(),
            found.scores.tolist(),
            strict=True,
        )
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rules_allow_exactly_the_valid_sequences(scheme):
    tagging = Tagging.of(LABELS, scheme)
    for numbers in product(range(len(tagging.tags)), repeat=3):
        allowed = (
            not tagging.inside[numbers[0]]
            and not tagging.must_close[numbers[-1]]
            and all(tagging.may_follow(*map(np.array, pair)) for pair in pairwise(numbers))
        )
        assert allowed == is_valid([tagging.tags[number] for number in numbers], scheme)


@modest
@given(st.sampled_from(SCHEMES), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 10**6))
def test_viterbi_finds_the_best_of_all_valid_sequences_of_each_text(scheme, lengths, seed):
    logits = random_logits(sum(lengths), scheme, seed)
    best = []
    for of_text in np.split(logits, np.cumsum(lengths)[:-1]):
        candidates = sequences(len(of_text), scheme)
        sums = of_text[np.arange(len(of_text)), candidates].sum(axis=1)
        best.extend(candidates[sums.argmax()].tolist())
    assert viterbi(logits, np.array(lengths), Tagging.of(LABELS, scheme)).tolist() == best


@modest
@given(st.sampled_from(SCHEMES), st.integers(1, 4), st.integers(0, 10**6))
def test_entities_are_those_of_the_best_valid_sequence_with_their_lowest_probability(scheme, length, seed):
    logits = random_logits(length, scheme, seed)
    candidates = sequences(length, scheme)
    best = candidates[logits[np.arange(length), candidates].sum(axis=1).argmax()]
    tags = Tagging.of(LABELS, scheme).tags
    probability = softmax(logits)[np.arange(length), best]
    expected = [
        (0, start, end, label, pytest.approx(probability[start:end].min(), rel=1e-4))
        for start, end, label in spans_of([tags[number] for number in best], scheme)
    ]
    assert entities(logits, [length], scheme) == expected


@modest
@given(st.sampled_from(SCHEMES), st.lists(st.integers(0, 6), max_size=6), st.integers(0, 10**6))
def test_a_batch_gives_what_each_text_gives_alone(scheme, counts, seed):
    logits = random_logits(sum(counts), scheme, seed)
    texts = np.split(logits, np.cumsum(counts)[:-1]) if counts else []
    alone = [
        (number, *entity[1:])
        for number, (text, count) in enumerate(zip(texts, counts, strict=True))
        for entity in entities(text, [count], scheme)
    ]
    assert entities(logits, counts, scheme) == alone


@pytest.mark.parametrize("scheme", SCHEMES)
def test_entities_never_run_from_one_text_into_the_next(scheme):
    tagging = Tagging.of(LABELS, scheme)
    logits = np.full((4, len(tagging.tags)), -9, dtype=np.float32)
    logits[:, [name.endswith("PERSON") for name in tagging.tags]] = -5
    logits[:, tagging.tags.index("I-PERSON")] = 5
    assert [entity[:4] for entity in entities(logits, [2, 2], scheme)] == [(0, 0, 2, 0), (1, 0, 2, 0)]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("counts", [[], [0], [0, 0]])
def test_texts_without_tokens_have_no_entities(scheme, counts):
    assert entities(random_logits(0, scheme, 0), counts, scheme) == []


def test_neighbouring_entities_of_one_label_stay_apart():
    tags = Tagging.of(LABELS, "bio").tags
    logits = np.full((3, len(tags)), -5, dtype=np.float32)
    for place, name in enumerate(["B-CITY", "B-CITY", "I-CITY"]):
        logits[place, tags.index(name)] = 5
    assert [entity[:4] for entity in entities(logits, [3], "bio")] == [(0, 0, 1, 1), (0, 1, 3, 1)]


def test_search_runs_only_where_the_greedy_tags_are_invalid(monkeypatch):
    searched = []

    def spy(logits, counts, tagging):
        searched.append((logits.tolist(), counts.tolist()))
        return viterbi(logits, counts, tagging)

    monkeypatch.setattr(module, "viterbi", spy)
    tags = Tagging.of(LABELS, "bio").tags
    logits = np.full((4, len(tags)), -5, dtype=np.float32)
    for place, name in enumerate(["B-PERSON", "I-PERSON", "O", "I-CITY"]):  # the second text's tags break a rule
        logits[place, tags.index(name)] = 5
    entities(logits, [2, 2], "bio")
    assert searched == [(logits[2:].tolist(), [2])]


def test_logits_are_not_changed():
    logits = random_logits(6, "biluo", 1)
    before = logits.copy()
    entities(logits, [3, 3], "biluo")
    assert np.array_equal(logits, before)


def test_very_large_logits_give_finite_scores():
    logits = random_logits(5, "bio", 3) * 1e4
    assert all(0 <= entity[4] <= 1 for entity in entities(logits, [5], "bio"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_labels_added_later_keep_the_numbers_of_earlier_tags(scheme):
    few, more = Tagging.of(LABELS, scheme), Tagging.of([*LABELS, "THING"], scheme)
    n_tags = len(few.tags)
    assert more.tags[:n_tags] == few.tags
    assert more.label[:n_tags].tolist() == few.label.tolist()
    pairs = np.array(list(product(range(n_tags), repeat=2))).T
    assert np.array_equal(more.may_follow(*pairs), few.may_follow(*pairs))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_labels_everything_is_outside(scheme):
    tagging = Tagging.of([], scheme)
    assert tagging.tags == ("O",)
    assert len(decode(np.zeros((3, 1), dtype=np.float32), np.array([3]), tagging).starts) == 0


@pytest.mark.parametrize("scheme", ["bio", "biluo"])
def test_the_search_takes_no_table_of_all_pairs_of_tags(scheme):
    """With thousands of labels such a table for each text would take gigabytes."""
    labels = [f"L{number}" for number in range(2000)]
    tagging = Tagging.of(labels, scheme)
    logits = np.random.default_rng(0).normal(size=(64, len(tagging.tags))).astype(np.float32)
    tracemalloc.start()
    tags = viterbi(logits, np.full(16, 4), tagging)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * len(tagging.tags) * 8 * 20  # some arrays of texts times tags
    assert is_valid([tagging.tags[tag] for tag in tags[:4]], scheme)
