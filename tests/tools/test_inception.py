"""INCEpTION's external recommenders: by spaCy's interfaces, and docs/examples/inception_recommender.py."""

from __future__ import annotations

import json
import runpy
import threading
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import spacy
from cassis import Cas, TypeSystem, load_cas_from_xmi
from pipelines import ANNOTATED, trained
from spacy.tokens import Doc

pytestmark = [pytest.mark.tools, pytest.mark.touches_transformers]

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "docs/examples/inception_recommender.py"))
TOKEN = EXAMPLE["TOKEN"]
LAYER = "de.tudarmstadt.ukp.dkpro.core.api.ner.type.NamedEntity"
TEXT = ANNOTATED[1][0].replace("Rome ", "Rome, ")


@pytest.fixture(scope="module")
def pipeline(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inception") / "pipeline"
    trained(tiny_bert).to_disk(folder)
    return folder


def typesystem(*, scores=True):
    types = TypeSystem()
    types.create_type(TOKEN, "uima.tcas.Annotation")
    entity = types.create_type(LAYER, "uima.tcas.Annotation")
    types.create_feature(entity, "value", "uima.cas.String")
    types.create_feature(entity, "inception_internal_predicted", "uima.cas.Boolean")
    if scores:
        types.create_feature(entity, "value_score", "uima.cas.Double")
    return types


def document(types, text=TEXT):
    """A document with the tokens that spaCy finds, as INCEpTION would have its own."""
    cas = Cas(types)
    cas.sofa_string, cas.sofa_mime = text, "text/plain"
    for token in spacy.blank("en")(text):
        cas.add(types.get_type(TOKEN)(begin=token.idx, end=token.idx + len(token)))
    return cas


def entities(cas):
    return [(one.begin, one.end, one.value) for one in cas.select(LAYER)]


def of_spacy(pipeline, text=TEXT):
    return [(ent.start_char, ent.end_char, ent.label_) for ent in spacy.load(pipeline)(text).ents]


def test_a_component_runs_alone_on_a_doc_of_words(pipeline):
    """So recommenders use spaCy: a Doc of INCEpTION's tokens, and the entity component by itself."""
    nlp = spacy.load(pipeline, disable=["parser"])
    words = [token.text for token in nlp.make_doc(TEXT)]
    alone = nlp.get_pipe("ner")(Doc(nlp.vocab, words=words))
    whole = nlp(Doc(nlp.vocab, words=words))
    assert [(ent.start, ent.end, ent.label_) for ent in alone.ents] == [(e.start, e.end, e.label_) for e in whole.ents]
    assert len(alone.ents) == 2
    assert all(ent._.score is not None for ent in alone.ents)


@pytest.mark.parametrize("scores", [True, False])
def test_predictions_lie_on_the_tokens_with_scores(pipeline, scores):
    nlp, cas = spacy.load(pipeline), document(typesystem(scores=scores))
    EXAMPLE["recommend"](nlp, cas, LAYER, "value")
    assert entities(cas) == of_spacy(pipeline)
    assert all(one.inception_internal_predicted for one in cas.select(LAYER))
    if scores:
        expected = [ent._.score for ent in nlp(TEXT).ents]
        assert [one.value_score for one in cas.select(LAYER)] == pytest.approx(expected)


def test_an_empty_document_has_no_predictions(pipeline):
    cas = document(typesystem(), "")
    EXAMPLE["recommend"](spacy.load(pipeline), cas, LAYER, "value")
    assert entities(cas) == []


def test_the_server_answers_as_inception_asks(pipeline):
    server = EXAMPLE["Recommender"](str(pipeline), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    types = typesystem()
    cas = document(types)
    asked = {
        "metadata": {"layer": LAYER, "feature": "value", "projectId": 1, "anchoringMode": "tokens"},
        "document": {"xmi": cas.to_xmi(), "documentId": 2, "userId": "anna"},
        "typeSystem": types.to_xml(),
    }
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        with urlopen(Request(f"{url}/predict", json.dumps(asked).encode(), method="POST")) as answer:
            predicted = load_cas_from_xmi(json.load(answer)["document"], types)
        with urlopen(Request(f"{url}/train", b"{}", method="POST")) as answer:
            assert answer.status == 204
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert entities(predicted) == of_spacy(pipeline)
    assert len(entities(predicted)) == 2
