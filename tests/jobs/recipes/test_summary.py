from __future__ import annotations

import pytest
import spacy
from encoders import encoder_of, rows_of
from spacy.tokens import Doc, Span
from spacy.training import Example

from spacy_bertft.components.doc_values import set_value
from spacy_bertft.components.pairs import pair_doc
from spacy_bertft.jobs.recipes.summary import summarise

pytestmark = pytest.mark.touches_transformers


@pytest.fixture(scope="module")
def encoder(tiny_bert):
    return encoder_of(tiny_bert)


def summary(encoder, *docs):
    return summarise((Example(Doc(doc.vocab, words=[t.text for t in doc]), doc) for doc in docs), encoder.splitter)


def test_what_texts_hold_is_counted(encoder):
    nlp = spacy.blank("en")
    one, two, three, four = (nlp(text) for text in ("Anna lives in Berlin", "Bob Stone", "Nothing", "Nothing"))
    one.set_ents([Span(one, 0, 1, "PER"), Span(one, 3, 4, "LOC")])
    two.set_ents([Span(two, 0, 2, "PER")])
    three.set_ents([])
    one.cats, two.cats = {"home": 1.0, "work": 0.0}, {"home": 0.0, "work": 1.0}
    two.spans["sc"] = [Span(two, 0, 2, "X"), Span(two, 0, 1, "Y")]
    set_value(three, 2.5)
    found = summary(encoder, one, two, three, four)
    assert len(found) == 4
    assert found.texts[2] == found.texts[3] != found.texts[0]
    assert found.entities == {"PER": 2, "LOC": 1}
    assert found.categories == {"home": 1, "work": 1}
    assert (found.categorised, found.exclusive) == (2, True)
    assert found.spans == {"sc": {"X": 1, "Y": 1}}
    assert found.span_sizes == {"sc": {2: 1, 1: 1}}
    assert (found.pairs, found.questions, found.values) == (0, 0, 1)


def test_lengths_are_in_subwords(encoder):
    nlp = spacy.blank("en")
    texts = ["Anna lives in Berlin", "unbelievable", ""]
    lengths = summary(encoder, *map(nlp, texts)).lengths.tolist()
    assert lengths == [len(encoder.tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
    assert lengths[1] > 1 > lengths[2]
    assert sum(lengths) + 2 * len(texts) == len(rows_of(encoder, texts)) + len(texts)  # [SEP] has no row of its own


def test_several_categories_of_a_text_are_not_exclusive(encoder):
    nlp = spacy.blank("en")
    one, two = nlp("Anna"), nlp("Bob")
    one.cats, two.cats = {"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 1.0}
    assert summary(encoder, one).exclusive
    assert not summary(encoder, one, two).exclusive
    two.cats = {"a": 0.0, "b": 0.0}
    assert not summary(encoder, one, two).exclusive


@pytest.mark.parametrize(
    ("ents", "touching"),
    [([(0, 1, "PER"), (1, 2, "PER"), (2, 3, "PER")], 2), ([(0, 1, "PER"), (1, 2, "LOC")], 0), ([(0, 1, "PER")], 0)],
)
def test_entities_right_after_another_one_of_their_label_are_counted(encoder, ents, touching):
    doc = spacy.blank("en")("Anna Bob Ann Berlin")
    doc.set_ents([Span(doc, *ent) for ent in [*ents, (3, 4, "LOC")]])
    assert summary(encoder, doc).touching == touching


def test_white_space_is_nothing_between_entities(encoder):
    """The head leaves out tokens without a subword, so that it joins the entities before and after them."""
    doc = spacy.blank("en")("Anna \n Bob , Ann")
    doc.set_ents([Span(doc, n, n + 1, "PER") for n in (0, 2, 4)])
    assert [token.text for token in doc] == ["Anna", "\n ", "Bob", ",", "Ann"]
    assert summary(encoder, doc).touching == 1


def test_pairs_are_counted(encoder):
    nlp = spacy.blank("en")
    pair = pair_doc(nlp, "Anna", "Bob")
    found = summary(encoder, pair, nlp("Anna"))
    assert found.pairs == 1
    assert not found.spans  # the segments are none that spancat could learn


def test_no_texts(encoder):
    assert len(summary(encoder)) == len(summary(encoder).lengths) == 0
