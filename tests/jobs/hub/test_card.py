from __future__ import annotations

import re

import pytest
import spacy
import yaml
from huggingface_hub import ModelCard
from pipelines import blank, examples, initialized, rated, two_segments

from spacy_bertft.jobs.hub.card import CARD_MARK, render_card

pytestmark = pytest.mark.touches_transformers

NAME = "anna/messages"
PERFORMANCE = {
    "ents_f": 0.5,
    "ents_p": 0.25,
    "ents_per_type": {"PERSON": {"p": 0.75, "r": 0.5, "f": 0.6}, "CITY": {"p": 0.0, "r": None, "f": 0.0}},
    "cats_score": 0.9,
    "cats_score_desc": "macro F",
    "cats_macro_f": 0.9,
    "cats_auc_per_type": {"home": 0.9},
    "ner_loss": 12.5,
}


@pytest.fixture(scope="module")
def card(tiny_bert):
    nlp = initialized(tiny_bert)
    nlp.meta.update(performance=PERFORMANCE, notes="Of tests.", description="Finds a|b.")
    return render_card(nlp, NAME, license="mit", base_models=["bert-base-cased"])


def parts(card):
    _, metadata, text = card.split("---\n", 2)
    return yaml.safe_load(metadata), text


def test_the_hub_reads_its_metadata(card):
    data = ModelCard(card).data.to_dict()
    metadata, _ = parts(card)
    assert data == metadata
    results = metadata.pop("model-index")
    assert metadata == {
        "language": "en",
        "license": "mit",
        "library_name": "spacy-bertft",
        "tags": ["spacy-bertft", "token-classification", "text-classification"],
        "pipeline_tag": "token-classification",
        "base_model": "bert-base-cased",
    }
    assert [result["task"]["type"] for result in results[0]["results"]] == [
        "token-classification",
        "text-classification",
    ]
    metrics = [metric for result in results[0]["results"] for metric in result["metrics"]]
    assert [(metric["name"], metric["type"], metric["value"]) for metric in metrics] == [
        ("ents_f", "f1", 0.5),
        ("ents_p", "precision", 0.25),
        ("cats_macro_f", "f1", 0.9),
    ]


def test_it_shows_the_scores_of_training_and_no_losses(card):
    _, text = parts(card)
    assert "| ents_f | 50.00 |" in text
    assert "| cats_macro_f | 90.00 |" in text
    assert "| CITY | 0.00 |  | 0.00 |\n| PERSON | 75.00 | 50.00 | 60.00 |" in text
    assert "loss" not in text
    assert CARD_MARK in text
    assert text.rstrip().endswith("## Notes\n\nOf tests.")


def test_it_shows_components_and_labels(card):
    _, text = parts(card)
    assert "| encoder | `bertft_encoder` |  |" in text
    assert "| ner | `bertft_ner` | `CITY`, `PERSON` |" in text
    assert "| textcat | `bertft_textcat` | `home`, `work` |" in text


def test_labels_may_hold_any_character(tiny_bert):
    nlp = blank(tiny_bert, {"ner": "bertft_ner"})
    nlp.get_pipe("ner").add_label("A|B`C")
    nlp.initialize(lambda: examples(nlp))
    assert "`A\\|B\\`C`" in render_card(nlp, NAME, license="mit", base_models=[])


def test_a_pipeline_that_was_never_scored_has_no_scores(tiny_bert):
    card = render_card(initialized(tiny_bert), NAME, license="mit", base_models=[])
    metadata, text = parts(card)
    assert "model-index" not in metadata
    assert "base_model" not in metadata
    assert "## Scores" not in text


@pytest.mark.parametrize(
    "make",
    [
        initialized,
        rated,
        lambda encoder: two_segments(encoder, "bertft_pair"),
        lambda encoder: two_segments(encoder, "bertft_qa"),
        lambda encoder: initialized(encoder, {"topics": "bertft_textcat_multilabel"}),
    ],
    ids=["ner and textcat", "regression", "pair", "qa", "multilabel"],
)
def test_its_code_runs(make, tiny_bert, monkeypatch, capsys):
    nlp = make(tiny_bert)
    monkeypatch.setattr("spacy_bertft.hub.from_hub", lambda name: {NAME: nlp}[name])
    card = render_card(nlp, NAME, license="mit", base_models=[])
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out.strip()


def test_errors_are_shown_in_their_own_unit(tiny_bert):
    nlp = rated(tiny_bert)
    nlp.meta["performance"] = {"value_mae": 0.5, "value_pearson": 0.25}
    metadata, text = parts(render_card(nlp, NAME, license="mit", base_models=[]))
    assert "| value_mae (error, lower is better) | 0.50 |" in text
    assert "| value_pearson | 25.00 |" in text
    (result,) = metadata["model-index"][0]["results"]
    assert [metric["type"] for metric in result["metrics"]] == ["mae", "pearsonr"]


def test_other_languages_and_components_of_spacy_have_a_card(tiny_bert):
    nlp = spacy.blank("xx")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("ner").add_label("A")
    metadata, text = parts(render_card(nlp, NAME, license="mit", base_models=[]))
    assert metadata["language"] == "multilingual"
    assert metadata["pipeline_tag"] == "token-classification"
    assert "print([(ent.text, ent.label_) for ent in doc.ents])" in text
