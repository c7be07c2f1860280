"""The category heads."""

from __future__ import annotations

import pytest
import torch
from pipelines import TEXTS, blank, examples, initialized, loss_of, module_of, trained
from spacy.training import Example

from spacy_bertft.errors import ConfigError, DataError

pytestmark = pytest.mark.touches_transformers

TEXTCAT = {"textcat": "bertft_textcat"}
MULTILABEL = {"textcat": "bertft_textcat_multilabel"}


def _configured(folder, factory="bertft_textcat", **config):
    nlp = blank(folder, {})
    nlp.add_pipe(factory, name="textcat", config=config)
    return nlp


def _example(nlp, cats, text="A text"):
    return Example.from_dict(nlp.make_doc(text), {"cats": cats})


def _loss(nlp, egs):
    pipe = nlp.get_pipe("textcat")
    return pipe.predict([eg.predicted for eg in egs]).logits, loss_of(pipe, egs)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_exclusive_categories_are_learned_and_sum_to_one(tiny_bert, pooling):
    nlp = trained(tiny_bert, TEXTCAT) if pooling == "cls" else _learn(_configured(tiny_bert, pooling=pooling))
    for eg, doc in zip(examples(nlp), nlp.pipe(TEXTS), strict=True):
        assert max(doc.cats, key=doc.cats.get) == max(eg.reference.cats, key=eg.reference.cats.get)
        assert sum(doc.cats.values()) == pytest.approx(1.0)
    assert nlp.evaluate(examples(nlp))["cats_score"] == 1.0


def _learn(nlp, egs=examples, steps=60):
    torch.manual_seed(0)
    nlp.initialize(lambda: egs(nlp))
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 3e-3
    for _ in range(steps):
        nlp.update(egs(nlp), sgd=optimizer)
    return nlp


def _tagged(nlp):
    gold = [("My home in Rome", {"home": 1.0, "city": 1.0}), ("Rome", {"home": 0.0, "city": 1.0})]
    gold += [("Home and garden", {"home": 1.0, "city": 0.0}), ("Nothing", {"home": 0.0, "city": 0.0})]
    return [_example(nlp, cats, text) for text, cats in gold]


def test_several_categories_or_none_can_hold(tiny_bert):
    nlp = _learn(_configured(tiny_bert, "bertft_textcat_multilabel"), _tagged)
    for eg in _tagged(nlp):
        assert {label: float(score > 0.5) for label, score in nlp(eg.text).cats.items()} == eg.reference.cats
    assert nlp.evaluate(_tagged(nlp))["cats_macro_f"] == 1.0


def test_a_long_text_is_the_mean_of_its_windows(tiny_bert):
    nlp = initialized(tiny_bert, TEXTCAT)
    doc = nlp.make_doc("word " * 300)
    features = nlp.get_pipe("encoder").features([doc])
    assert features.window_counts[0] > 2
    module = module_of(nlp, "textcat").eval()
    mean = features.hidden[features.cls_rows].mean(dim=0)
    logits = nlp.get_pipe("textcat").predict([doc]).logits
    torch.testing.assert_close(logits[0], module.output(torch.tanh(module.dense(mean))))


def test_the_dense_layer_starts_as_the_pretrained_pooler(tiny_bert):
    nlp = initialized(tiny_bert, TEXTCAT)
    pooler = nlp.get_pipe("encoder").encoder.model.pooler.dense
    assert torch.equal(module_of(nlp, "textcat").dense.weight, pooler.weight)


def test_missing_labels_are_left_out_of_the_loss(tiny_bert):
    nlp = _configured(tiny_bert, "bertft_textcat_multilabel")
    nlp.initialize(lambda: _tagged(nlp))
    logits, loss = _loss(nlp, [_example(nlp, {"home": 1.0}), _example(nlp, {})])
    home = nlp.get_pipe("textcat").labels.index("home")
    expected = torch.nn.functional.softplus(-logits[0, home]) / 2
    torch.testing.assert_close(loss, expected)


def test_exclusive_labels_that_are_not_mentioned_are_false(tiny_bert):
    nlp = initialized(tiny_bert, TEXTCAT)
    full = _loss(nlp, [_example(nlp, {"home": 1.0, "work": 0.0})])[1]
    short = _loss(nlp, [_example(nlp, {"home": 1.0}), _example(nlp, {})])[1]
    torch.testing.assert_close(full, short)


def test_two_exclusive_categories_in_one_text_are_an_error(tiny_bert):
    nlp = initialized(tiny_bert, TEXTCAT)
    with pytest.raises(DataError, match=r"several exclusive categories.*bertft_textcat_multilabel"):
        nlp.update([_example(nlp, {"home": 1.0, "work": 1.0})], sgd=False)


def test_one_exclusive_label_alone_is_an_error(tiny_bert):
    nlp = _configured(tiny_bert)
    with pytest.raises(ConfigError, match=r"at least two labels.*Found 1: home"):
        nlp.initialize(lambda: [_example(nlp, {"home": 1.0})])


def test_the_positive_label_decides_the_score(tiny_bert):
    nlp = _learn(_configured(tiny_bert, positive_label="work"))
    scores = nlp.evaluate(examples(nlp))
    assert scores["cats_score_desc"] == "F (work)"


def test_a_positive_label_that_is_not_there_is_an_error(tiny_bert):
    nlp = _configured(tiny_bert, positive_label="spam")
    with pytest.raises(ConfigError, match=r"positive_label is 'spam'.*Found 2: home, work"):
        nlp.initialize(lambda: examples(nlp))


def test_the_threshold_reaches_the_scorer(tiny_bert):
    strict = _learn(_configured(tiny_bert, "bertft_textcat_multilabel", threshold=1.0), _tagged, steps=5)
    assert strict.evaluate(_tagged(strict))["cats_micro_r"] == 0.0
    lax = _learn(_configured(tiny_bert, "bertft_textcat_multilabel", threshold=0.0), _tagged, steps=5)
    assert lax.evaluate(_tagged(lax))["cats_micro_r"] == 1.0


def test_categories_of_other_components_stay(tiny_bert):
    nlp = trained(tiny_bert, TEXTCAT, steps=2)
    doc = nlp.make_doc(TEXTS[0])
    doc.cats = {"other": 1.0}
    assert set(nlp(doc).cats) == {"other", "home", "work"}


@pytest.mark.parametrize("factory", ["bertft_textcat", "bertft_textcat_multilabel"])
@pytest.mark.parametrize("text", ["", "  \n", "\x00"])
def test_texts_without_words_get_categories_too(tiny_bert, factory, text):
    nlp = _learn(_configured(tiny_bert, factory), steps=1)
    assert set(nlp(text).cats) == {"home", "work"}
