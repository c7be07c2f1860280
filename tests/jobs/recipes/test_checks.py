from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from spacy_bertft.errors import DataError
from spacy_bertft.jobs.recipes.checks import check_annotation, warnings_of
from spacy_bertft.jobs.recipes.summary import Summary
from spacy_bertft.jobs.recipes.tasks import TASKS

# What the texts of each task hold.
HOLDS = {
    "ner": {"entities": Counter(PER=50)},
    "textcat": {"categorised": 200, "categories": Counter(a=100, b=100)},
    "multilabel": {"categorised": 200, "categories": Counter(a=100, b=150), "exclusive": False},
    "ner+textcat": {"entities": Counter(PER=50), "categorised": 200, "categories": Counter(a=100, b=100)},
    "intents": {"categorised": 200, "categories": Counter(a=100, b=100)},
    "pair": {"pairs": 200, "categorised": 200, "categories": Counter(a=100, b=100)},
    "qa": {"pairs": 200, "questions": 200},
    "regression": {"values": 200},
    "spancat": {"spans": {"sc": Counter(X=50)}, "span_sizes": {"sc": Counter({1: 50})}},
}
FITS = {("textcat", "intents"), ("textcat", "multilabel"), ("intents", "textcat"), ("intents", "multilabel")}
FITS |= {("pair", task) for task in ("textcat", "multilabel", "intents")}
FITS |= {("ner+textcat", task) for task in ("ner", "textcat", "multilabel", "intents")}


def summary(n=200, start=0, **held):
    return Summary(tuple(range(start, start + n)), np.full(n, 20), **held)


def check(task, train, dev):
    check_annotation(task, TASKS[task], Path("train"), Path("dev"), train, dev)


def warned(task, train, dev, *, shots=False):
    return warnings_of(TASKS[task], train, dev, shots=shots)


@pytest.mark.parametrize(
    ("task", "held", "what"),
    [
        ("ner", {"entities": Counter(PER=10, LOC=30)}, "the entity labels have 20"),
        ("ner", {"entities": Counter(PER=12, LOC=30)}, None),
        ("ner", {"entities": Counter(PER=50), "categories": Counter(a=8, b=8)}, None),
        ("textcat", {"categories": Counter(a=32, b=32)}, "the categories have 32"),
        ("textcat", {"categories": Counter(a=1, b=1)}, None),
        (
            "ner+textcat",
            {"entities": Counter(PER=9), "categories": Counter(a=8)},
            "the entity labels have 9 and the categories have 8",
        ),
        ("ner+textcat", {"entities": Counter(PER=90), "categories": Counter(a=8)}, None),
        ("intents", {"categories": Counter(a=8, b=8)}, "the categories have 8"),
        ("textcat", {"categories": Counter(a=33, b=33)}, None),
        ("spancat", {"spans": {"sc": Counter(X=9)}}, None),
    ],
)
def test_few_texts_are_told_of_their_preparation(task, held, what):
    texts, others = summary(**held), summary(start=200, **held)
    hints = [one for one in warned(task, texts, others) if "--shots" in one]
    assert hints == ([] if what is None else [f"On average, {what} training examples each: --shots suits so few."])
    assert not any("--shots" in one for one in warned(task, texts, others, shots=True))


@pytest.mark.parametrize("held", HOLDS)
@pytest.mark.parametrize("task", HOLDS)
def test_texts_suit_their_own_task_and_few_others(held, task):
    texts = summary(**HOLDS[held])
    if task == held or (held, task) in FITS:
        check(task, texts, texts)
    else:
        with pytest.raises(DataError, match=r"^train: found 200 texts, .*; expected .*; fix: check the path"):
            check(task, texts, texts)


def test_an_error_names_the_task_that_fits():
    texts = summary(**HOLDS["multilabel"])
    with pytest.raises(
        DataError, match=r"any number of categories; .*choose the task that fits these texts: multilabel"
    ):
        check("textcat", texts, texts)
    with pytest.raises(DataError, match=r"none of them annotated; expected entities.*--label-key and others\)$"):
        check("ner", summary(), summary())


def test_development_texts_are_checked_too():
    with pytest.raises(DataError, match=r"^dev: "):
        check("ner", summary(**HOLDS["ner"]), summary())


@pytest.mark.parametrize("task", ["textcat", "pair", "intents"])
def test_a_single_category_is_an_error(task):
    texts = summary(**{**HOLDS["pair"], "categories": Counter(spam=200)})
    with pytest.raises(DataError, match="found one category, spam; expected at least two"):
        check(task, texts, texts)


def test_good_data_give_no_warning():
    assert not warned("ner", summary(**HOLDS["ner"]), summary(start=500, **HOLDS["ner"]))


def test_ten_development_texts_are_few():
    (warning,) = warned("ner", summary(**HOLDS["ner"]), summary(10, start=500, **HOLDS["ner"]))
    assert warning.startswith("10 development texts are few")
    assert "about 10 points" in warning


def test_texts_in_both_sets():
    (warning,) = warned("ner", summary(**HOLDS["ner"]), summary(start=190, **HOLDS["ner"]))
    assert warning.startswith("10 development texts are among the training texts")


def test_labels_that_are_rare_or_in_the_development_texts_alone():
    train, dev = summary(entities=Counter(PER=50, LOC=4)), summary(start=500, entities=Counter(PER=5, ORG=1, GPE=1))
    unseen, rare = warned("ner", train, dev)
    assert unseen.startswith("GPE, ORG: entity labels of the development texts")
    assert rare.startswith("LOC: entity labels with fewer than 5 examples")


def test_a_category_without_texts_is_no_label():
    train = summary(categorised=200, categories=Counter(a=100, b=100, c=0))
    assert not warned("textcat", train, summary(start=500, categorised=200, categories=Counter(a=1, b=1, c=0)))


def test_a_long_list_of_labels_is_cut():
    train = summary(entities=Counter({f"L{number}": 1 for number in range(9)}))
    (warning,) = warned("ner", train, summary(start=500), shots=True)
    assert warning.startswith("L0, L1, L2, L3, L4 and 4 more: ")


def test_one_category_each_suits_textcat_better():
    texts = summary(**HOLDS["textcat"])
    (warning,) = warned("multilabel", texts, summary(start=500, **HOLDS["textcat"]))
    assert '"textcat"' in warning
