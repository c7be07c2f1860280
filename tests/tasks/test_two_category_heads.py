"""Several category heads on one encoder, each with labels of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import spacy
import torch
from pipelines import blank
from spacy.training import Example
from spacy.util import load_config, load_model_from_config

from spacy_bertft.errors import DataError

pytestmark = pytest.mark.touches_transformers
CONFIG = Path(__file__).parents[2] / "configs/textcat_two_heads.cfg"
TOPICS, MOODS = ["home", "work"], ["glad", "sad"]
TEXTS = [
    ("I love my garden at home", {"home": 1.0, "glad": 1.0}),
    ("The office was cold and the boss was rude", {"work": 1.0, "sad": 1.0}),
    ("We painted the kitchen, what fun", {"home": 1.0, "work": 0.0, "glad": 1.0, "sad": 0.0}),
    ("The meeting dragged on for hours", {"work": 1.0}),  # nobody said how the writer felt
    ("What a miserable day", {"sad": 1.0}),
]
HEADS = {"topic": "bertft_textcat", "mood": "bertft_textcat"}


def examples(nlp, texts=TEXTS):
    return [Example.from_dict(nlp.make_doc(text), {"cats": cats}) for text, cats in texts]


def initialized(encoder, heads=HEADS, labels=(TOPICS, MOODS)):
    nlp = blank(encoder, heads)
    torch.manual_seed(0)
    nlp.config["initialize"]["components"] = {
        name: {"labels": of_head} for name, of_head in zip(heads, labels, strict=True) if of_head
    }
    nlp.initialize(lambda: examples(nlp))
    return nlp


def learn(nlp, texts=TEXTS, steps=60):
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 3e-3
    for _ in range(steps):
        losses = nlp.update(examples(nlp, texts), sgd=optimizer)
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("second", ["bertft_textcat", "bertft_textcat_multilabel"])
def test_two_heads_learn_their_own_categories_together(tiny_bert, second):
    nlp = initialized(tiny_bert, {"topic": "bertft_textcat", "mood": second})
    learn(nlp)
    assert nlp.get_pipe("topic").labels == tuple(TOPICS)
    for text, gold in TEXTS:
        cats = nlp(text).cats
        assert set(cats) == {*TOPICS, *MOODS}
        assert sum(cats[label] for label in TOPICS) == pytest.approx(1.0, abs=1e-5)
        for label, value in gold.items():
            assert (cats[label] > 0.5) == (value > 0.5), (text, label, cats)


def test_a_text_without_a_head_s_labels_teaches_it_nothing(tiny_bert):
    nlp = initialized(tiny_bert)
    losses = learn(nlp, [("The meeting dragged on", {"work": 1.0})], steps=1)
    assert losses["mood"] == 0.0
    assert losses["topic"] > 0.0


def test_it_stays_so_after_loading(tiny_bert, tmp_path):
    nlp = initialized(tiny_bert)
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    assert learn(loaded, steps=1)["topic"] > 0.0


def test_a_head_whose_labels_are_those_of_the_data_still_refuses_others(tiny_bert):
    nlp = blank(tiny_bert, {"topic": "bertft_textcat"})
    nlp.initialize(lambda: examples(nlp, TEXTS[:2]))
    assert set(nlp.get_pipe("topic").labels) == {"home", "work", "glad", "sad"}
    with pytest.raises(DataError, match="A gold category is 'shop'"):
        nlp.update(examples(nlp, [("Open at nine", {"shop": 1.0})]))


def test_two_categories_of_one_head_in_one_text_are_an_error_all_the_same(tiny_bert):
    nlp = initialized(tiny_bert)
    with pytest.raises(DataError, match=r"several exclusive categories: \{'home': 1\.0, 'work': 1\.0\}"):
        nlp.update(examples(nlp, [("Home office", {"home": 1.0, "work": 1.0, "glad": 1.0})]))


@pytest.mark.parametrize("value", [5.0, -3.0, float("nan")])
@pytest.mark.parametrize("factory", ["bertft_textcat", "bertft_textcat_multilabel"])
def test_a_gold_category_is_a_share(tiny_bert, factory, value):
    nlp = initialized(tiny_bert, {"topic": factory}, [TOPICS])
    with pytest.raises(DataError, match=r"The gold category 'home' of a text is .*Expected 0 to 1"):
        nlp.update(examples(nlp, [("At home", {"home": value})]))


def test_the_config_shows_how(tiny_bert):
    overrides = {"components.encoder.model.name": str(tiny_bert), "components.encoder.model.device": "cpu"}
    config = load_config(CONFIG, overrides=overrides)
    nlp = load_model_from_config(config, auto_fill=False)
    nlp.initialize(lambda: examples(nlp, [("Works", {"positive": 1.0, "delivery": 1.0})]))
    assert nlp.get_pipe("sentiment").labels == ("positive", "negative")
    assert nlp.get_pipe("topic").labels == ("delivery", "product", "service")
