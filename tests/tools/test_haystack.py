"""Haystack's extractor of entities, which loads a spaCy pipeline and keeps the components it knows by name."""

from __future__ import annotations

import os

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read when it is imported

import pytest
import spacy
from haystack import Document, Pipeline
from haystack_integrations.components.extractors.spacy import SpacyNamedEntityExtractor
from pipelines import TEXTS, trained

pytestmark = [pytest.mark.tools, pytest.mark.touches_transformers]


@pytest.fixture(scope="module", params=["encoder", "transformer"])
def pipeline(request, tiny_bert, tmp_path_factory):
    nlp = trained(tiny_bert)
    if request.param != "encoder":
        nlp.rename_pipe("encoder", request.param)
    folder = tmp_path_factory.mktemp("haystack") / "pipeline"
    nlp.to_disk(folder)
    return folder


def found(documents):
    annotated = (SpacyNamedEntityExtractor.get_stored_annotations(document) for document in documents)
    return [[(one.entity, one.start, one.end) for one in of_document] for of_document in annotated]


def expected(pipeline):
    docs = spacy.load(pipeline).pipe(TEXTS)
    return [[(ent.label_, ent.start_char, ent.end_char) for ent in doc.ents] for doc in docs]


def test_it_finds_the_same_entities(pipeline):
    """Of the encoder, too, which it switches off unless it is called transformer."""
    extractor = SpacyNamedEntityExtractor(model=str(pipeline))
    documents = extractor.run([Document(content=text) for text in TEXTS], batch_size=4)["documents"]
    assert found(documents) == expected(pipeline)
    assert any(found(documents))
    assert ("encoder" in extractor.pipeline.disabled) is ("encoder" in extractor.pipeline.component_names)


def test_it_runs_in_a_pipeline_of_haystack(pipeline):
    flow = Pipeline()
    flow.add_component("entities", SpacyNamedEntityExtractor(model=str(pipeline)))
    flow = Pipeline.from_dict(flow.to_dict())
    result = flow.run({"entities": {"documents": [Document(content=text) for text in TEXTS]}})
    assert found(result["entities"]["documents"]) == expected(pipeline)
