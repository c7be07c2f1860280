from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.recipes.choices import Choices, EncoderFacts, choose, fitted, for_few_texts
from spacy_bertft.jobs.recipes.summary import Summary
from spacy_bertft.jobs.recipes.tasks import TASKS

SMALL = EncoderFacts("small", body=10_600_000, parameters=22_700_000)
BASE = EncoderFacts()


def summary(n, *, length=20, **counts):
    return Summary(tuple(range(n)), np.full(n, length), **counts)


def chosen(task="ner", *, n=1000, n_dev=200, length=20, encoder=BASE, aim="accuracy", **counts):
    counts = counts or {"entities": Counter(PER=n)}
    return choose(TASKS[task], summary(n, length=length, **counts), summary(n_dev), encoder, aim)


def test_the_defaults_are_those_of_base_size():
    assert chosen().rate == Choices().rate == 5e-5


def test_small_encoders_learn_at_higher_rates():
    assert chosen(encoder=SMALL).rate > chosen(encoder=BASE).rate


def test_many_categories_take_twice_the_rate_and_say_so():
    few, many = (chosen("textcat", categories=Counter({str(k): 10 for k in range(n)})) for n in (20, 150))
    assert many.rate == 2 * few.rate
    assert many.reasons["rate"].endswith("twice that for 150 categories")
    assert "categories" not in few.reasons["rate"]


@pytest.mark.parametrize("n", [10, 100, 1000, 10_000, 100_000])
def test_few_texts_are_read_more_often(n):
    more, fewer = chosen(n=n), chosen(n=4 * n)
    assert more.epochs >= fewer.epochs >= 2
    assert fewer.epochs * 4 * n >= more.epochs * n  # more texts never make a shorter run


def test_a_run_for_speed_is_shorter_and_has_batches_of_similar_length():
    fast = chosen(aim="speed", length=25)
    assert fast.epochs < chosen().epochs
    assert fast.by_subwords == 16 * 25
    assert chosen().by_subwords is None


@pytest.mark.parametrize(("n", "n_dev"), [(1, 1), (3, 100), (50, 10), (1000, 100), (2000, 20_000), (40_000, 5000)])
def test_a_run_is_evaluated_more_than_once_and_not_all_the_time(n, n_dev):
    found = chosen(n=n, n_dev=n_dev)
    steps = -(-n // found.batch_size) * found.epochs
    assert 4 <= steps // found.eval_frequency <= 30
    assert found.eval_frequency <= found.patience < max(steps, 2)


def test_windows_are_the_encoder_s_unless_many_texts_are_long_and_speed_counts():
    assert chosen(length=500).window is None
    assert chosen(length=700).window is None
    assert chosen(length=700, aim="speed").window == 256
    assert chosen(length=100, aim="speed").window is None
    assert chosen(length=700, aim="speed", encoder=EncoderFacts(limit=None)).window is None
    assert chosen(length=700, aim="speed", encoder=EncoderFacts(limit=128)).window is None


def test_skewed_categories_get_weights():
    even, skewed = Counter(a=90, b=80, c=70), Counter(a=300, b=10, c=290)
    assert chosen("textcat", categories=even).class_weights is None
    assert chosen("textcat", categories=skewed).class_weights == "effective"
    assert chosen("pair", categories=skewed).class_weights == "effective"
    assert "b has 10 texts" in chosen("textcat", categories=skewed).reasons["class_weights"]
    assert chosen("multilabel", categories=skewed).class_weights is None  # weights would shift its probabilities


@pytest.mark.parametrize("task", ["ner", "textcat", "multilabel", "ner+textcat", "intents", "pair"])
def test_for_few_texts_encoder_and_heads_are_prepared_if_asked_for(task):
    counts = {"categories": Counter(a=8, b=8), "entities": Counter(PER=8)}
    plain, few = (
        choose(TASKS[task], summary(16, **counts), summary(5), BASE, "accuracy", shots=shots) for shots in (False, True)
    )
    assert plain.contrastive is None
    of_texts = task in ("textcat", "multilabel", "pair")
    assert (few.contrastive, few.contrastive_rate) == ((30, plain.rate / 2) if of_texts else (100, plain.rate))
    assert few.rate == pytest.approx(0.3 * plain.rate if of_texts else plain.rate)
    assert few.reasons["contrastive"].startswith("--shots: ")
    assert plain.pooling == "cls"
    assert few.pooling == ("cls" if task == "ner" else "mean")
    assert (plain.scheme, plain.token_pooling) == ("bio", "first")
    assert (few.scheme, few.token_pooling) == (("bio", "first") if of_texts else ("io", "mean"))


def test_intents_without_slots_are_prepared_as_other_categories():
    train = summary(16, categories=Counter(pay=8, call=8))
    intents, textcat = (
        choose(TASKS[task], train, summary(5), BASE, "accuracy", shots=True) for task in ("intents", "textcat")
    )
    assert intents.contrastive == textcat.contrastive == 30
    assert (intents.rate, intents.epochs) == (textcat.rate, textcat.epochs)
    assert "scheme" not in intents.reasons


@pytest.mark.parametrize(("touching", "scheme"), [(0, "io"), (2, "io"), (3, "bio")])
def test_for_few_texts_tags_join_entities_unless_many_touch(touching, scheme):
    train = summary(10, entities=Counter(PER=20, LOC=20), touching=touching)
    few = choose(TASKS["ner"], train, summary(5), BASE, "accuracy", shots=True)
    assert few.scheme == scheme
    assert few.reasons["scheme"].startswith("--shots: one tag" if scheme == "io" else "--shots: 3 of 40 entities")


def test_a_student_is_trained_for_three_times_as_many_steps():
    plain, student = (
        choose(TASKS["ner"], summary(2600), summary(300), BASE, aim) for aim in ("accuracy", "distillation")
    )
    assert student.batch_size == plain.batch_size
    assert student.epochs / plain.epochs == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize(("task", "epochs"), [("textcat", 12), ("ner", 30)])
def test_after_the_preparation_categories_take_fewer_epochs(task, epochs):
    counts = {"categories": Counter(a=32, b=32), "entities": Counter(PER=64)}
    found = choose(TASKS[task], summary(64, **counts), summary(5), BASE, "accuracy", shots=True)
    assert (found.epochs, found.batch_size) == (epochs, 8)


@pytest.mark.parametrize("task", ["qa", "regression", "spancat"])
def test_tasks_without_classes_can_t_be_prepared_for_few_texts(task):
    with pytest.raises(ConfigError, match=f"^shots: found a task of {task}; expected .*; fix: leave --shots out$"):
        for_few_texts(TASKS[task])


def test_texts_of_no_intent_are_known_by_their_category_s_name():
    assert chosen("intents", categories=Counter(pay=5, OOS=5)).unknown == "OOS"
    assert chosen("intents", categories=Counter(pay=5, call=5)).unknown is None
    assert chosen("textcat", categories=Counter(pay=5, oos=5)).unknown is None


def test_span_lengths_are_those_of_nearly_all_spans():
    sizes = {"sc": Counter({1: 500, 2: 300, 4: 195, 30: 5}), "few": Counter({1: 1})}
    spans = {"sc": Counter(X=1000), "few": Counter(X=1)}
    found = chosen("spancat", spans=spans, span_sizes=sizes)
    assert (found.spans_key, found.span_sizes) == ("sc", (1, 2, 4))
    assert "99.5%" in found.reasons["span_sizes"]


def test_each_choice_says_why():
    found = chosen("textcat", categories=Counter(a=9, b=9))
    assert [name for name, _, _ in found.rows()] == [
        *("rate", "epochs", "batch_size", "eval_frequency", "patience", "window", "class_weights")
    ]
    assert all(why for _, _, why in found.rows())


@pytest.mark.parametrize(
    ("entities", "unknown", "names", "weights"),
    [
        (1, "none", ["slots", "intent"], {"ents_f": 0.4, "cats_known_acc": 0.4, "cats_unknown_auc": 0.2}),
        (0, "none", ["intent"], {"cats_known_acc": 0.67, "cats_unknown_auc": 0.33}),
        (1, None, ["slots", "intent"], {"ents_f": 0.5, "cats_score": 0.5}),
        (0, None, ["intent"], {"cats_score": 1.0}),
    ],
)
def test_intents_without_slots_or_unknown_texts(entities, unknown, names, weights):
    train = summary(10, entities=Counter(CITY=entities) if entities else Counter())
    task = fitted(TASKS["intents"], train, Choices(unknown=unknown))
    assert [head.name for head in task.heads] == names
    assert task.weights == weights


def test_other_tasks_are_left_as_they_are():
    assert fitted(TASKS["ner"], summary(10), Choices()) is TASKS["ner"]
