"""One number of a Doc: `doc._.value`."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc, DocBin
from spacy.training import Example

from spacy_bertft.components.doc_values import VALUE_KEY, set_value, value_of
from spacy_bertft.errors import DataError

NLP = spacy.blank("en")


def doc_with(value, text="A fine film"):
    doc = NLP.make_doc(text)
    doc._.value = value
    return doc


@pytest.mark.parametrize("value", [4.5, -1e300, 5e-324, 0.0, 3, np.float64(0.1)])
def test_a_number_is_read_as_it_was_set(value):
    found = doc_with(value)._.value
    assert found == value
    assert type(found) is float


def test_a_doc_has_none_at_first():
    doc = NLP.make_doc("A fine film")
    assert doc._.value is None
    assert value_of(doc) is None
    assert VALUE_KEY not in doc.spans


def test_the_function_does_what_the_attribute_does():
    doc = doc_with(4.5)
    assert value_of(doc) == 4.5
    set_value(doc, 1.5)
    assert doc._.value == 1.5


def test_none_takes_it_away():
    doc = doc_with(4.5)
    doc._.value = None
    assert doc._.value is None
    assert VALUE_KEY not in doc.spans
    doc._.value = None
    assert doc._.value is None


def test_a_text_without_tokens_can_have_one():
    assert doc_with(4.5, "")._.value == 4.5


def test_other_spans_stay():
    doc = NLP.make_doc("A fine film")
    doc.spans["words"] = [doc[1:2]]
    doc._.value = 4.5
    doc._.value = None
    assert [span.text for span in doc.spans["words"]] == ["fine"]


def test_spans_of_others_under_this_key_are_no_number():
    doc = NLP.make_doc("A fine film")
    doc.spans[VALUE_KEY] = [doc[1:2]]
    assert doc._.value is None


# --- where it survives


def in_doc_bin(doc, **settings):
    (found,) = DocBin(docs=[doc], **settings).get_docs(NLP.vocab)
    return found


def in_doc_bin_bytes(doc):
    return next(DocBin().from_bytes(DocBin(docs=[doc], store_user_data=False).to_bytes()).get_docs(NLP.vocab))


@pytest.mark.parametrize(
    "kept",
    [
        lambda doc: in_doc_bin(doc, store_user_data=False),
        lambda doc: in_doc_bin(doc, store_user_data=True),
        lambda doc: in_doc_bin(doc, attrs=["ORTH"]),
        in_doc_bin_bytes,
        lambda doc: Doc(NLP.vocab).from_bytes(doc.to_bytes()),
        lambda doc: Doc(NLP.vocab).from_bytes(doc.to_bytes(exclude=["user_data"])),
        lambda doc: Doc(NLP.vocab).from_dict(doc.to_dict()),
        Doc.copy,
        lambda doc: pickle.loads(pickle.dumps(doc)),
        lambda doc: next(iter(NLP.pipe([doc]))),
    ],
    ids=[
        "DocBin",
        "with user data",
        "one attribute",
        "bytes of DocBin",
        "bytes",
        "few",
        "dict",
        "copy",
        "pickle",
        "pipe",
    ],
)
@pytest.mark.parametrize("text", ["A fine film", ""])
def test_it_survives(kept, text):
    doc = doc_with(0.1, text)
    assert kept(doc)._.value == 0.1


@pytest.mark.parametrize("kept", [in_doc_bin, in_doc_bin_bytes, Doc.copy])
def test_having_none_survives_too(kept):
    assert kept(doc_with(None))._.value is None


def test_docs_of_one_bin_keep_each_its_own():
    docs = [doc_with(1.0), doc_with(None), doc_with(-2.0, "")]
    found = DocBin(docs=docs, store_user_data=False).get_docs(NLP.vocab)
    assert [doc._.value for doc in found] == [1.0, None, -2.0]


def test_a_copy_has_a_number_of_its_own():
    doc = doc_with(4.5)
    twin = doc.copy()
    twin._.value = 1.0
    assert doc._.value == 4.5


def test_examples_keep_that_of_the_gold():
    eg = Example(NLP.make_doc("A fine film"), doc_with(4.5))
    assert eg.reference._.value == 4.5
    assert eg.predicted._.value is None


# --- what is refused


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "4.5", [4.5], b"4", 1j])
def test_what_is_no_finite_number_is_refused_and_changes_nothing(value):
    doc = doc_with(1.0)
    with pytest.raises(DataError, match=r"value of a Doc is .* \('A fine film'\)\. Expected a finite number"):
        doc._.value = value
    assert doc._.value == 1.0


def test_a_whole_number_beyond_all_floats_is_refused():
    with pytest.raises(DataError, match="Expected a finite number"):
        doc_with(10**400)
