"""Features beside Docs: who finds them, who has still to read them, and when they go."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import spacy
import torch

from spacy_bertft.components import feature_store
from spacy_bertft.components.feature_store import find, mark_read, publish, withdraw
from spacy_bertft.types import Features

NER, TEXTCAT = 1, 2  # ids of readers


def features():
    none = np.zeros(0, dtype=np.int64)
    return Features(torch.zeros(0, 2), none, none, none, none, none, none, none)


@pytest.fixture
def docs():
    nlp = spacy.blank("xx")
    return [nlp(text) for text in ("Anna", "lives in", "Berlin")]


def test_each_doc_has_its_place_in_the_batch(docs):
    batch = features()
    publish("encoder", docs, batch, readers=[NER], keep=False)
    found = [find(doc, "encoder") for doc in docs]
    assert all(entry.features is batch for entry in found)
    assert [entry.place for entry in found] == [0, 1, 2]


def test_a_doc_that_no_encoder_has_seen_has_none(docs):
    publish("encoder", docs[:1], features(), readers=[NER], keep=False)
    assert find(docs[1], "encoder") is None
    assert find(docs[1], None) is None
    assert find(docs[0], "other") is None


def test_without_a_name_the_newest_is_found(docs):
    first, second, third = features(), features(), features()
    publish("one", docs, first, readers=[NER], keep=False)
    publish("two", docs[:2], second, readers=[NER], keep=False)
    publish("one", docs[:1], third, readers=[NER], keep=False)
    assert [find(doc, None).features for doc in docs] == [third, second, first]
    assert [find(doc, "one").features for doc in docs] == [third, first, first]


def test_features_go_when_the_last_reader_is_done(docs):
    publish("encoder", docs, features(), readers=[NER, TEXTCAT], keep=False)
    mark_read(docs[0], NER)
    mark_read(docs[0], NER)  # again, as a pipe does that annotates twice
    assert find(docs[0], "encoder") is not None
    mark_read(docs[0], TEXTCAT)
    assert find(docs[0], "encoder") is None
    assert find(docs[0], None) is None
    assert find(docs[1], "encoder").waiting == {NER, TEXTCAT}  # each Doc waits by itself


def test_a_reader_of_several_encoders_is_done_with_all(docs):
    publish("one", docs, features(), readers=[NER], keep=False)
    publish("two", docs, features(), readers=[NER, TEXTCAT], keep=False)
    mark_read(docs[0], NER)
    assert find(docs[0], "one") is None
    assert find(docs[0], "two").waiting == {TEXTCAT}


def test_strangers_let_nothing_go(docs):
    publish("encoder", docs[:1], features(), readers=[NER], keep=False)
    mark_read(docs[0], 99)
    mark_read(docs[1], NER)
    assert find(docs[0], "encoder").waiting == {NER}
    assert find(docs[1], "encoder") is None


@pytest.mark.parametrize("readers", [[NER], []], ids=str)
def test_what_is_to_be_kept_stays_when_all_have_read_it(docs, readers):
    publish("encoder", docs, features(), readers=readers, keep=True)
    mark_read(docs[0], NER)
    assert find(docs[0], "encoder").waiting == set()


def test_what_nobody_reads_is_not_held(docs):
    batch = features()
    hidden = weakref.ref(batch.hidden)
    publish("encoder", docs, batch, readers=[], keep=False)
    del batch
    gc.collect()
    assert hidden() is None
    assert find(docs[0], "encoder") is None


def test_new_features_take_the_place_of_old_ones_and_of_who_has_read_them(docs):
    publish("encoder", docs, features(), readers=[NER, TEXTCAT], keep=False)
    mark_read(docs[0], NER)
    newer = features()
    publish("encoder", docs, newer, readers=[NER, TEXTCAT], keep=False)
    assert find(docs[0], "encoder").features is newer
    assert find(docs[0], "encoder").waiting == {NER, TEXTCAT}


def test_features_never_outlive_their_docs(docs):
    batch = features()
    hidden = weakref.ref(batch.hidden)
    publish("encoder", docs, batch, readers=[NER], keep=True)
    del batch
    while docs:
        gc.collect()
        assert hidden() is not None  # the batch is there for those that are left
        docs.pop()
    gc.collect()
    assert hidden() is None


def test_a_doc_that_reads_alike_is_another(docs):
    publish("encoder", docs, features(), readers=[NER], keep=False)
    assert find(docs[0].copy(), "encoder") is None


def test_features_that_are_taken_back_are_gone_and_others_stay(docs):
    first, second = features(), features()
    publish("one", docs, first, readers=[NER], keep=True)
    publish("two", docs, second, readers=[NER], keep=True)
    withdraw(docs[:2], first.hidden)
    assert [find(doc, "one") is None for doc in docs] == [True, True, False]
    assert all(find(doc, "two").features is second for doc in docs)
    withdraw(docs, second.hidden)
    assert [find(doc, None) is None for doc in docs] == [True, True, False]


def test_taking_back_what_was_replaced_leaves_the_newer(docs):
    old, new = features(), features()
    publish("encoder", docs, old, readers=[NER], keep=True)
    publish("encoder", docs, new, readers=[NER], keep=True)
    withdraw(docs, old.hidden)
    assert find(docs[0], "encoder").features is new


def test_nothing_is_left_of_docs_that_all_have_read(docs):
    publish("encoder", docs, features(), readers=[NER], keep=False)
    assert all(doc in feature_store._published for doc in docs)
    for doc in docs:
        mark_read(doc, NER)
    assert not any(doc in feature_store._published for doc in docs)


def test_docs_that_leave_the_pipeline_lose_what_is_not_kept(docs):
    publish("one", docs, features(), readers=[NER, TEXTCAT], keep=False)
    publish("two", docs[:1], features(), readers=[NER], keep=True)
    feature_store.drop(docs[:2])
    assert find(docs[0], "one") is None
    assert find(docs[0], "two") is not None
    assert find(docs[1], None) is None
    assert docs[1] not in feature_store._published
    assert find(docs[2], "one") is not None
