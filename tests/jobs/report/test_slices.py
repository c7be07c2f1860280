"""Parts of the data: how texts and spans are divided."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import spacy
from spacy.tokens import Span
from spacy.training import Example

from spacy_bertft.jobs.report.data import Lengths, Texts, Training
from spacy_bertft.jobs.report.entities import SpanHead, judge_spans
from spacy_bertft.jobs.report.findings import data_findings, findings_of
from spacy_bertft.jobs.report.slices import slices_of

NLP = spacy.blank("xx")
# text, gold entities, predicted entities (tokens)
ROWS = [
    ("Anna came", [(0, 1, "PER")], [(0, 1, "PER")]),
    ("Bob came home late", [(0, 1, "PER")], []),
    ("Anna met Bob in Rome on Monday", [(0, 1, "PER"), (4, 5, "LOC")], [(0, 1, "PER"), (4, 5, "PER")]),
    ("nothing", [], []),
]


@pytest.fixture
def texts():
    examples = []
    for text, gold, predicted in ROWS:
        eg = Example(NLP(text), NLP(text))
        for doc, ents in ((eg.reference, gold), (eg.predicted, predicted)):
            doc.set_ents([Span(doc, *ent) for ent in ents])
        examples.append(eg)
    return Texts(tuple(examples), ("one.spacy", "two.spacy"), np.array([0, 0, 1, 1]), 4, 0, ())


@pytest.fixture
def training():
    words = frozenset(["anna", "came", "met", "in", "on", "rome", "nothing", "home"])
    labels = Counter({"PER": 40, "LOC": 3})
    return Training("train.spacy", 10, words, frozenset(["anna"]), labels, frozenset(["nothing"]))


@pytest.fixture
def head(texts):
    return judge_spans(SpanHead("ner", "factory", ("LOC", "PER")), texts.examples)


def parts(head, texts, training):
    lengths = Lengths(np.array([2, 4, 7, 1]), "subwords", 5)
    found = {one.title: one for one in slices_of(head, texts, lengths, training)}
    return {title: {part.title: (part.n, part.score.value) for part in one.parts} for title, one in found.items()}


def test_each_way_to_divide(head, texts, training):
    found = parts(head, texts, training)
    assert found["Length"] == {"1 to 2 subwords": (2, 1.0), "4 subwords": (1, 0.0), "7 subwords": (1, 0.5)}
    # Unseen: "bob" and "late" of four words, "bob" and "monday" of seven.
    assert {title: n for title, (n, _) in found["Words unseen in training"].items()} == {
        "all words seen": 2,
        "over 25 % unseen": 2,
    }
    assert found["Gold entities"] == {
        "seen in training": (2, 1.0),
        "other, of seen words": (1, 0.0),
        "with an unseen word": (1, 0.0),
    }
    assert found["Label frequency in training"] == {
        "1 to 9 times": (1, 0.0),
        "10 to 99 times": (1, pytest.approx(4 / 6)),
    }
    assert found["File"]["one.spacy"] == (2, pytest.approx(2 / 3))
    assert found["File"]["two.spacy"] == (2, 0.5)


def test_texts_of_one_length_are_one_part(head, texts, training):
    lengths = Lengths(np.array([3, 3, 3, 3]), "tokens", None)
    by_length = next(slices_of(head, texts, lengths, training))
    assert [(part.title, part.n) for part in by_length.parts] == [("3 tokens", 4)]


def test_every_text_is_in_one_part_by_length(head, texts, training):
    for counts in ([1, 1, 1, 9], [1, 5, 5, 5], [9, 1, 2, 9]):
        by_length = next(slices_of(head, texts, Lengths(np.array(counts), "tokens", None), training))
        assert sum(part.n for part in by_length.parts) == 4


def test_without_training_texts_it_says_why(head, texts):
    found = {one.title: one for one in slices_of(head, texts, Lengths(np.ones(4, int), "tokens", None), "no file")}
    assert found["Words unseen in training"].why == "no file"
    assert found["Label frequency in training"].why == "no file"
    assert "Gold entities" not in found


def test_labels_of_one_frequency_are_no_slice(head, texts, training):
    training.labels["LOC"] = 30
    found = {one.title: one for one in slices_of(head, texts, Lengths(np.ones(4, int), "tokens", None), training)}
    assert found["Label frequency in training"].why == (
        "All labels that occur here occurred 10 to 99 times in training."
    )


def test_what_stands_out(head, texts, training):
    lengths = Lengths(np.array([2, 4, 7, 1]), "subwords", 5)
    sentences = list(data_findings(texts, lengths, training))
    assert sentences[0].startswith("25% of the texts are longer than the encoder's window of 5 subwords")
    assert sentences[1].startswith("1 texts (25.0%) are also training texts")
    assert len(sentences) == 2
    assert findings_of(head, [])[0] == "ner: only 4 annotated texts, so the intervals are wide and only rough."
