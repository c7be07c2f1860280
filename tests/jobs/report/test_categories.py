"""Heads of categories: counts, confusion, calibration."""

from __future__ import annotations

import re

import numpy as np
import pytest
import spacy
from spacy.training import Example

from spacy_bertft.jobs.report.categories import CategoryHead, judge_categories
from spacy_bertft.jobs.report.heads import Unjudged
from spacy_bertft.jobs.report.statistics import reliability

LABELS = ("a", "b", "c")


def judged(rows, **settings):
    """rows: gold cats and predicted cats of each text."""
    nlp = spacy.blank("xx")
    examples = []
    for gold, predicted in rows:
        eg = Example(nlp.make_doc("text"), nlp.make_doc("text"))
        eg.reference.cats, eg.predicted.cats = gold, predicted
        examples.append(eg)
    head = CategoryHead("head", "factory", **{"labels": LABELS, "exclusive": True, **settings})
    return judge_categories(head, examples)


def cats(*values, labels=LABELS):
    return dict(zip(labels, map(float, values), strict=True))


def of(label, labels=LABELS):
    return {one: float(one == label) for one in labels}


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_one_category_of_each_text():
    head = judged(
        [
            (of("a"), cats(0.7, 0.2, 0.1)),
            (of("b"), cats(0.6, 0.3, 0.1)),
            ({}, cats(1, 0, 0)),  # not annotated
            (of("c"), cats(0.1, 0.0, 0.9)),
        ]
    )
    assert head.texts.tolist() == [0, 1, 3]
    assert head.of_labels.sum(axis=0).tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert head.confusion[:3, :3].tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert [(one.text, one.confidence, one.says) for one in head.mistakes] == [(1, 0.6, "a 0.60 instead of b 0.30")]


def test_any_number_of_labels():
    head = judged(
        [
            (cats(1, 1, 0), cats(0.9, 0.1, 0.8)),  # b is missed, c is invented
            (cats(1, 0, 0), cats(0.2, 0.1, 0.1)),  # a is missed
            (cats(0, 0, 0), cats(0.0, 0.7, 0.0)),  # b is invented
            ({"a": 1.0}, cats(0.9, 0.9, 0.9)),  # b and c are not annotated
        ],
        exclusive=False,
    )
    assert head.of_labels.sum(axis=0).tolist() == [[2, 0, 1], [0, 1, 1], [0, 1, 0]]
    assert head.confusion.tolist() == [[2, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert len(head.calibration.saved.confidence) == 3 * 3 + 1
    assert head.threshold.n_gold == 4
    assert [one.text for one in head.mistakes] == [0, 1, 2]
    assert head.mistakes[0].says == "a 0.90, c 0.80 instead of a 0.90, b 0.10"


def test_nothing_reaches_the_threshold():
    head = judged([(cats(1, 0, 0), cats(0.4, 0.1, 0.1))] * 3, exclusive=False)
    assert "No label reached the threshold" in head.notes[0]


def test_labels_of_another_head_do_not_count():
    found = judged([({"x": 1.0}, cats(1, 0, 0))])
    assert isinstance(found, Unjudged)


@pytest.fixture
def overconfident():
    """Logits that are three times too large, and the categories drawn from the true distribution."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(1000, 3))
    gold = [generator.choice(3, p=row) for row in softmax(logits)]
    return 3 * logits, gold


def rows_of(probabilities, gold, labels=LABELS):
    return [(of(labels[number], labels), cats(*row, labels=labels)) for number, row in zip(gold, probabilities)]  # noqa: B905


def error(decisions):
    return reliability(decisions.confidence, decisions.right).error


def test_a_pipeline_that_is_not_calibrated_is_told_what_calibration_would_give(overconfident):
    logits, gold = overconfident
    found = judged(rows_of(softmax(logits), gold), temperature=1.0).calibration
    assert error(found.saved) > 0.2
    assert error(found.other) < 0.05
    temperature = re.search(r"A temperature of about ([\d.]+),", found.note)
    assert 2.6 < float(temperature[1]) < 3.4
    assert "run `bertft calibrate`" in found.note


def test_a_calibrated_pipeline_is_compared_with_temperature_1(overconfident):
    logits, gold = overconfident
    found = judged(rows_of(softmax(logits / 3), gold), temperature=3.0).calibration
    plain = judged(rows_of(softmax(logits), gold), temperature=1.0).calibration
    assert error(found.saved) < 0.05
    np.testing.assert_allclose(found.other.confidence, plain.saved.confidence)


def test_the_unknown_category_goes_back_to_its_default_threshold():
    generator = np.random.default_rng(0)
    logits, temperature, threshold = generator.normal(size=(50, 2)) * 4, 1.7, 0.9
    labels = ("a", "b", "none")
    saved = softmax(np.c_[logits / temperature, np.full(50, threshold)])
    before = softmax(np.c_[logits, np.zeros(50)])
    gold = generator.integers(3, size=50)
    found = judged(rows_of(saved, gold, labels), labels=labels, temperature=temperature, unknown_threshold=threshold)
    np.testing.assert_allclose(found.calibration.other.confidence, before.max(axis=1))
    assert (found.calibration.other.right == (before.argmax(axis=1) == gold)).all()


def test_few_texts_are_no_reason_to_fit_a_temperature():
    found = judged([(of("a"), cats(0.9, 0.1, 0.0))] * 10, temperature=1.0)
    assert found.calibration.other is None
    assert "All texts are of one category, a" in found.notes[0]
