"""The JSON of spaCy 2."""

from __future__ import annotations

import json

import pytest
import spacy
from convert_helpers import ents, iobs
from spacy.training import docs_to_json

from spacy_bertft.errors import DataError


def paragraph(*tokens, **more):
    return {"sentences": [{"tokens": [{"id": i, "orth": w, "ner": t} for i, (w, t) in enumerate(tokens)]}], **more}


def corpus(*paragraphs):
    return json.dumps([{"id": 0, "paragraphs": list(paragraphs)}])


def test_what_spacy_writes_comes_back(made):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    doc = nlp("Ada Lee isn't in New York.  Bob is.")
    doc.set_ents([doc.char_span(0, 7, "PER"), doc.char_span(17, 25, "LOC")])
    doc.cats = {"x": 1.0, "y": 0.25}
    out = made("train.json", json.dumps(docs_to_json([doc])))
    assert out.format == "spaCy 2 JSON"
    assert ents(out.doc) == [("Ada Lee", "PER"), ("New York", "LOC")]
    assert [token.text for token in out.doc] == [token.text for token in doc]
    assert iobs(out.doc) == iobs(doc)
    assert (out.doc.text, out.doc.cats) == (doc.text, doc.cats)


def test_spaces_may_be_with_the_tokens(made):
    tokens = [{"orth": "it", "space": False, "ner": "O"}, {"orth": "'s", "ner": "O"}]
    assert made("a.json", corpus({"sentences": [{"tokens": tokens}]})).doc.text == "it's"


def test_a_dash_is_no_annotation(made):
    out = made("a.json", corpus(paragraph(("Ada", "U-PER"), ("met", "-"), ("Bob", "O"))))
    assert iobs(out.doc) == ["B-PER", "", "O"]


def test_without_tags_there_is_no_annotation(made):
    out = made("a.json", corpus({"sentences": [{"tokens": [{"orth": "a"}, {"orth": "b"}]}]}))
    assert not out.doc.has_annotation("ENT_IOB")


@pytest.mark.parametrize(
    ("content", "where", "found"),
    [
        (corpus(paragraph(("Ada", "X-"))), "paragraphs[0], sentences[0], tokens[0]", "'ner': 'X-'"),
        (corpus(paragraph(("Ada", "O"), raw="Eve")), "record 1, paragraphs[0]", "the token 'Ada', but 'Eve' in 'raw'"),
        (corpus({"sentences": [{"tokens": 3}]}), "sentences[0]", "'tokens': 3"),
        (corpus(paragraph(("Ada", "O"), cats=[{"label": "x", "value": "1"}])), "cats[0]", "'value': '1'"),
        (corpus(paragraph(("Ada", "O")))[:-4], "a.json", "invalid JSON"),
    ],
)
def test_errors(made, content, where, found):
    with pytest.raises(DataError) as caught:
        made("a.json", content, format="spacy-json")
    before, after = str(caught.value).split("; expected ")
    assert where in before
    assert found in before
    assert "; fix: " in after


def test_text_after_the_last_token_is_an_error(made):
    assert made("a.json", corpus(paragraph(("Ada", "O"), raw="Ada \n"))).doc.text == "Ada"
    with pytest.raises(DataError, match=r"paragraphs\[0\]: found 'ran' in 'raw' after the last token; .*fix: delete"):
        made("a.json", corpus(paragraph(("Ada", "O"), raw="Ada ran")))
