"""Spans with scores: how they are set, found again, saved, and read as `span._.score`."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc, DocBin, Span
from spacy.vocab import Vocab

from spacy_bertft.components import spans
from spacy_bertft.components.spans import scored_spans, set_scored_spans


@pytest.fixture
def doc():
    return spacy.blank("xx")("Anna lives in Berlin near Bob Stone")


def spans_of(doc):
    return [Span(doc, 0, 1, "PERSON"), Span(doc, 3, 4, "CITY")]


def test_spans_have_the_scores_they_were_set_with(doc):
    set_scored_spans(doc, "entities", spans_of(doc), [0.5, 0.25])
    assert [span.text for span in doc.spans["entities"]] == ["Anna", "Berlin"]
    assert [span._.score for span in doc.spans["entities"]] == [0.5, 0.25]
    assert [(span.text, score) for span, score in scored_spans(doc)] == [("Anna", 0.5), ("Berlin", 0.25)]


def test_scores_are_float32_beside_what_else_is_said_of_the_group(doc):
    set_scored_spans(doc, "answers", spans_of(doc), (1, 0), no_answer=0.1)
    attrs = doc.spans["answers"].attrs
    assert attrs["scores"].dtype == np.float32
    assert attrs.keys() == {"scores", "no_answer"}
    assert attrs["no_answer"] == 0.1


def test_the_same_entity_in_doc_ents_has_the_score(doc):
    set_scored_spans(doc, "entities", spans_of(doc), [0.5, 0.25])
    doc.ents = [*spans_of(doc), Span(doc, 5, 7, "PERSON")]
    assert [ent._.score for ent in doc.ents] == [0.5, 0.25, None]


@pytest.mark.parametrize(
    ("start", "end", "label"), [(0, 1, "CITY"), (0, 2, "PERSON"), (1, 1, "PERSON"), (0, 1, ""), (4, 5, "PERSON")]
)
def test_any_other_span_has_none(doc, start, end, label):
    set_scored_spans(doc, "entities", spans_of(doc), [0.5, 0.25])
    assert Span(doc, start, end, label)._.score is None


def test_a_doc_without_scored_spans_gives_none(doc):
    assert list(scored_spans(doc)) == []
    doc.spans["others"] = spans_of(doc)
    assert list(scored_spans(doc)) == []
    assert doc.spans["others"][0]._.score is None


def test_groups_without_scores_do_not_hide_those_with(doc):
    doc.spans["a"] = spans_of(doc)
    set_scored_spans(doc, "b", spans_of(doc), [0.5, 0.25])
    assert [span._.score for span in doc.spans["a"]] == [0.5, 0.25]


def test_of_two_scores_the_first_group_s_counts(doc):
    set_scored_spans(doc, "first", spans_of(doc)[:1], [0.75])
    set_scored_spans(doc, "second", spans_of(doc), [0.5, 0.25])
    assert [span._.score for span in spans_of(doc)] == [0.75, 0.25]
    assert [score for _, score in scored_spans(doc)] == [0.75, 0.5, 0.25]


def test_setting_them_again_replaces_them(doc):
    set_scored_spans(doc, "entities", spans_of(doc), [0.5, 0.25], note="old")
    set_scored_spans(doc, "entities", spans_of(doc)[1:], [0.125])
    assert [(span.text, score) for span, score in scored_spans(doc)] == [("Berlin", 0.125)]
    assert doc.spans["entities"].attrs.keys() == {"scores"}


def test_no_spans_are_a_group_without_any(doc):
    set_scored_spans(doc, "entities", [], [])
    assert len(doc.spans["entities"]) == 0
    assert list(scored_spans(doc)) == []


def test_a_score_for_each_span_or_an_error(doc):
    set_scored_spans(doc, "entities", spans_of(doc), [0.5])
    with pytest.raises(ValueError, match="zip"):
        list(scored_spans(doc))


@pytest.mark.parametrize("how", ["bytes", "DocBin", "copy"])
def test_scores_go_where_the_doc_goes(doc, how):
    set_scored_spans(doc, "entities", spans_of(doc), [0.5, 0.25])
    doc.ents = spans_of(doc)
    if how == "bytes":
        again = Doc(doc.vocab).from_bytes(doc.to_bytes())
    elif how == "DocBin":
        (again,) = DocBin().from_bytes(DocBin(docs=[doc]).to_bytes()).get_docs(doc.vocab)
    else:
        again = doc.copy()
    assert [(span.text, span.label_, score) for span, score in scored_spans(again)] == [
        ("Anna", "PERSON", 0.5),
        ("Berlin", "CITY", 0.25),
    ]
    assert [ent._.score for ent in again.ents] == [0.5, 0.25]


def test_the_spans_of_a_doc_are_looked_through_once(monkeypatch):
    """Not once for each entity that is asked for its score."""
    doc = Doc(Vocab(), words=["word"] * 600)
    entities = [Span(doc, place, place + 1, label="X") for place in range(0, 600, 2)]
    set_scored_spans(doc, "entities", entities, np.linspace(0, 1, 300))
    walks = []
    monkeypatch.setattr(spans, "scored_spans", lambda doc: walks.append(doc) or scored_spans(doc))
    assert [span._.score for span in entities] == pytest.approx(np.linspace(0, 1, 300))
    assert doc[1:2]._.score is None
    assert len(walks) == 1


def test_a_change_is_seen_at_the_next_look():
    doc = Doc(Vocab(), words=["a", "b"])
    span = Span(doc, 0, 1, label="X")
    set_scored_spans(doc, "one", [span], [0.25])
    assert span._.score == 0.25
    doc.spans["one"].attrs["scores"] = np.array([0.5], dtype=np.float32)
    assert span._.score == 0.5
    del doc.spans["one"]
    assert span._.score is None
    set_scored_spans(doc, "two", [span], [0.75])
    assert span._.score == 0.75


def test_looking_keeps_no_doc_alive():
    doc = Doc(Vocab(), words=["a"])
    set_scored_spans(doc, "one", [Span(doc, 0, 1, label="X")], [0.25])
    assert doc[0:1]._.score is None
    gone = weakref.ref(doc)
    del doc
    gc.collect()
    assert gone() is None
