"""Presidio's analyzer with our engine."""

from __future__ import annotations

import pytest
import spacy
from pipelines import ANNOTATED, trained
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import NerModelConfiguration, NlpEngineProvider, SpacyNlpEngine

from spacy_bertft.presidio import BertftNlpEngine

pytestmark = [pytest.mark.tools, pytest.mark.touches_transformers]

TEXT = ANNOTATED[1][0]
MAPPING = NerModelConfiguration(model_to_presidio_entity_mapping={"PERSON": "PERSON", "CITY": "LOCATION"})


@pytest.fixture(scope="module")
def pipeline(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("presidio") / "pipeline"
    trained(tiny_bert).to_disk(folder)
    return folder


def models(pipeline):
    return [{"lang_code": "en", "model_name": str(pipeline)}]


def analyzed(engine, text=TEXT):
    if not engine.is_loaded():
        engine.load()
    registry = RecognizerRegistry(supported_languages=["en"])
    registry.add_nlp_recognizer(engine)
    found = AnalyzerEngine(registry=registry, nlp_engine=engine).analyze(text, language="en")
    return sorted((one.start, one.end, one.entity_type, one.score) for one in found)


def test_entities_have_the_scores_of_the_pipeline(pipeline):
    expected = [
        (ent.start_char, ent.end_char, {"CITY": "LOCATION"}.get(ent.label_, ent.label_), ent._.score)
        for ent in spacy.load(pipeline)(TEXT).ents
    ]
    found = analyzed(BertftNlpEngine(models=models(pipeline), ner_model_configuration=MAPPING))
    assert len(found) == 2
    assert found == [(*one[:3], pytest.approx(one[3])) for one in expected]
    assert 0.85 not in {score for *_, score in found}
    # What this is for: Presidio's own engine.
    theirs = analyzed(SpacyNlpEngine(models=models(pipeline), ner_model_configuration=MAPPING))
    assert {score for *_, score in theirs} == {0.85}
    assert [one[:3] for one in theirs] == [one[:3] for one in found]


def test_batches_have_them_too(pipeline):
    engine = BertftNlpEngine(models=models(pipeline), ner_model_configuration=MAPPING)
    engine.load()
    expected = [[ent._.score for ent in doc.ents] for doc in spacy.load(pipeline).pipe([TEXT, "Nothing happened"])]
    found = [artifacts.scores for _, artifacts in engine.process_batch([TEXT, "Nothing happened"], language="en")]
    assert found == [pytest.approx(scores) for scores in expected]


def test_entities_of_other_components_keep_the_default_score(pipeline, tmp_path):
    nlp = spacy.load(pipeline)
    ruler = nlp.add_pipe("entity_ruler", first=True)
    ruler.add_patterns([{"label": "CITY", "pattern": "yesterday"}])
    nlp.to_disk(tmp_path)
    found = analyzed(BertftNlpEngine(models=models(tmp_path), ner_model_configuration=MAPPING))
    scores = {TEXT[start:end]: score for start, end, _, score in found}
    assert scores.keys() == {"Bob Stone", "Rome", "yesterday"}
    assert [text for text, score in scores.items() if score == 0.85] == ["yesterday"]


def test_a_configuration_file_can_name_it(pipeline):
    configuration = {"nlp_engine_name": "bertft", "models": models(pipeline)}
    provider = NlpEngineProvider(nlp_engines=(BertftNlpEngine,), nlp_configuration=configuration)
    engine = provider.create_engine()
    assert isinstance(engine, BertftNlpEngine)
    assert ("PERSON", 0.85) not in {one[2:] for one in analyzed(engine)}
    assert "PERSON" in {one[2] for one in analyzed(engine)}
