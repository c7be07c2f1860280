"""Streams in which some Docs raise errors: who is told, what the others get, and what is left of the features."""

from __future__ import annotations

import gc
import multiprocessing
import pickle

import pytest
import spacy
from pipelines import ANNOTATED, TEXTS, about, annotations, blank, trained
from spacy.language import Language
from spacy.util import ignore_error

from spacy_bertft.components import feature_store
from spacy_bertft.components.streams import annotated
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.tasks.ner import EntityTask

pytestmark = pytest.mark.touches_transformers

BAD = "Paris and Oslo are far from my home and garden"


class Told:
    """An error handler that keeps what it is told."""

    def __init__(self):
        self.calls = []

    def __call__(self, name, component, docs, error):
        assert component.name == name
        self.calls.append((name, docs, error))

    @property
    def texts(self):
        return [[doc.text for doc in docs] for _, docs, _ in self.calls]


@Language.component("spoil_segments")
def spoil_segments(doc):
    """Give a Doc segments that the encoder refuses."""
    if doc.text == BAD:
        doc.spans["segments"] = [doc[0:1]]
    return doc


@Language.component("merge_tokens")
def merge_tokens(doc):
    """Change the tokens of a Doc after the encoder."""
    if doc.text == BAD:
        with doc.retokenize() as retokenizer:
            retokenizer.merge(doc[0:3])
    return doc


@Language.component("refuse")
def refuse(doc):
    if doc.text == BAD:
        raise KeyError("refused")
    return doc


def with_component(tiny_bert, name, **place):
    nlp = trained(tiny_bert)
    expected = {text: annotations(nlp(text)) for text in TEXTS}
    nlp.add_pipe(name, **place)
    return nlp, expected


def check(nlp, expected, told, *, component, error):
    """That a stream loses the one bad Doc, of which the handler is told alone, and no features."""
    nlp.set_error_handler(told)
    stream = [*TEXTS, *TEXTS[:3]]
    docs = list(nlp.pipe(stream, batch_size=len(stream)))
    assert [doc.text for doc in docs] == [text for text in stream if text != BAD]
    assert {doc.text: annotations(doc) for doc in docs} == {t: e for t, e in expected.items() if t != BAD}
    assert told.texts == [[BAD]]
    assert [(name, type(raised)) for name, _, raised in told.calls] == [(component, error)]
    (((_, (bad,), _),)) = told.calls
    assert feature_store.find(bad, None) is None
    assert not any(feature_store.find(doc, None) for doc in docs)


@pytest.mark.parametrize(
    ("name", "place", "component", "error"),
    [
        ("spoil_segments", {"first": True}, "encoder", DataError),
        ("merge_tokens", {"after": "encoder"}, "ner", ConfigError),
    ],
)
def test_a_bad_doc_loses_itself_alone(tiny_bert, name, place, component, error):
    nlp, expected = with_component(tiny_bert, name, **place)
    check(nlp, expected, Told(), component=component, error=error)


def test_a_doc_that_can_not_be_annotated_loses_itself_alone(tiny_bert, monkeypatch):
    """Some Docs of its batch have been annotated by then, and are annotated again."""
    set_entities = EntityTask._set

    def picky(task, doc, spans, scores):
        if doc.text == BAD:
            raise ValueError("not this one")
        set_entities(task, doc, spans, scores)

    nlp = trained(tiny_bert)
    expected = {text: annotations(nlp(text)) for text in TEXTS}
    monkeypatch.setattr(EntityTask, "_set", picky)
    check(nlp, expected, Told(), component="ner", error=ValueError)


def test_a_component_before_ours_has_handled_its_own(tiny_bert):
    nlp, expected = with_component(tiny_bert, "refuse", first=True)
    nlp.set_error_handler(lambda name, component, docs, error: None)
    assert {doc.text: annotations(doc) for doc in nlp.pipe(TEXTS)} == {t: e for t, e in expected.items() if t != BAD}


def test_without_a_handler_the_error_is_raised_where_the_bad_doc_is(tiny_bert):
    nlp, expected = with_component(tiny_bert, "spoil_segments", first=True)
    seen = []
    with pytest.raises(DataError, match="Paris and Oslo"):
        seen.extend(doc.text for doc in nlp.pipe(TEXTS, batch_size=3))
    assert len(seen) < TEXTS.index(BAD)
    del nlp
    gc.collect()
    assert not [doc for doc in feature_store._published if doc.text in expected]


def test_a_single_doc_that_fails_leaves_no_features(tiny_bert):
    nlp, _ = with_component(tiny_bert, "merge_tokens", after="encoder")
    told = Told()
    nlp.set_error_handler(told)
    with pytest.raises(ValueError, match="E005"):  # as of spaCy's own components
        nlp(BAD)
    (((_, (bad,), _),)) = told.calls
    assert feature_store.find(bad, None) is None


def test_when_all_fail_the_handler_gets_each_once(tiny_bert):
    nlp = blank(tiny_bert)  # without weights
    told = Told()
    nlp.set_error_handler(told)
    assert list(nlp.pipe(TEXTS)) == []
    assert told.texts == [[text] for text in TEXTS]


def test_one_bad_doc_of_many_costs_few_more_batches():
    class Pipe:
        name, batches = "one", []

        def get_error_handler(self):
            return ignore_error

    def annotate(docs):
        Pipe.batches.append(len(docs))
        if bad in docs:
            raise ValueError

    nlp = spacy.blank("xx")
    docs = [nlp(str(number)) for number in range(64)]
    bad = docs[40]
    assert list(annotated(Pipe(), docs, annotate)) == docs[:40] + docs[41:]
    assert len(Pipe.batches) == 1 + 2 * 6
    assert sum(Pipe.batches) == 64 + 2 * (32 + 16 + 8 + 4 + 2 + 1)


def handle(name, component, docs, error):
    """A handler that spawned workers can unpickle."""
    for doc in docs:
        assert doc.text == BAD


def test_copies_for_spawned_workers_have_the_handler(tiny_bert):
    nlp = trained(tiny_bert)
    nlp.add_pipe("bertft_trf_data")
    assert not hasattr(pickle.loads(pickle.dumps(nlp.get_pipe("ner"))), "error_handler")
    nlp.set_error_handler(handle)
    for name, component in nlp.pipeline:
        assert pickle.loads(pickle.dumps(component)).get_error_handler() is handle, name


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_lose_the_bad_doc_alone(tiny_bert, method, monkeypatch):
    monkeypatch.setattr("spacy.language.mp", multiprocessing.get_context(method))
    nlp, expected = with_component(tiny_bert, "spoil_segments", first=True)
    nlp.set_error_handler(handle)
    found = {doc.text: annotations(doc) for doc in nlp.pipe(TEXTS, n_process=2, batch_size=3)}
    assert len(ANNOTATED) - 1 == len(found)
    del expected[BAD]
    assert found == about(expected)
