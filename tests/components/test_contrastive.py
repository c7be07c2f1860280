"""The preparation for few texts: what the encoder and the heads learn from it, and what it refuses."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from pipelines import FACTORIES, blank, module_of, weights
from spacy.training import Example
from spacy.util import fix_random_seed, registry

from spacy_bertft import pair_doc
from spacy_bertft.encoder.features import as_torch
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.learning.contrastive import shared_classes, supervised_contrastive
from spacy_bertft.learning.shim import shim_of

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

TEXTS = [
    f"{name} {verb} {place}" for name in ("Anna", "Bob") for verb in ("lives in", "left") for place in ("Rome", "Oslo")
]
HEADS = ["ner", "textcat", "multilabel", "pair"]
MEAN = {"pooling": "mean", "activation": None}  # a tiny encoder's [CLS] hardly depends on the text


def golds(nlp, head):
    """Annotated by what the texts say: the verb, or the name and the place."""
    for text in TEXTS:
        doc = pair_doc(nlp, text, "Who is it?") if head == "pair" else nlp.make_doc(text)
        gold, left, rome = doc.copy(), " left " in text, text.endswith("Rome")
        if head == "ner":
            gold.set_ents(
                [gold.char_span(0, text.index(" "), "PERSON"), gold.char_span(len(text) - 4, len(text), "CITY")]
            )
        elif head == "multilabel":
            gold.cats = {"left": float(left), "rome": float(rome)}
        else:
            gold.cats = {"left": float(left), "stayed": float(not left)}
        yield Example(doc, gold)


def prepared(encoder, *heads, given=golds, component=None, config=None, disable=(), **settings):
    """A pipeline that the callback has prepared, before any training."""
    nlp = blank(encoder, {}, component=component)
    for head in heads:
        nlp.add_pipe(FACTORIES[head], name=head, config=config or {})
    nlp.config["initialize"]["before_init"] = {"@callbacks": "spacy-bertft.contrastive.v1", **settings}
    fix_random_seed(0)
    every = [eg for head in heads for eg in given(nlp, head)]
    with nlp.select_pipes(disable=disable):
        nlp.initialize(lambda: every)
    return nlp


def contrast_of(nlp, head, temperature=0.1):
    """The contrastive loss of all texts, without dropout."""
    pipe, every = nlp.get_pipe(head), list(golds(nlp, head))
    features = as_torch(nlp.get_pipe("encoder").predict([eg.predicted for eg in every]))
    module_of(nlp, head).eval()
    with torch.no_grad():
        vectors, targets = pipe._rows(features, every)
        in_common = shared_classes(targets, module_of(nlp, head).output.out_features)
        return float(supervised_contrastive(vectors, in_common, temperature=temperature))


@pytest.mark.parametrize("scheme", ["bio", "biluo", "io", "iob1"])
def test_tokens_outside_entities_have_nothing_in_common(tiny_bert, scheme):
    nlp = prepared(tiny_bert, "ner", config={"scheme": scheme}, steps=0)
    every = list(golds(nlp, "ner"))
    features = as_torch(nlp.get_pipe("encoder").predict([eg.predicted for eg in every]))
    _, targets = nlp.get_pipe("ner")._rows(features, every)
    in_common = shared_classes(targets, module_of(nlp, "ner").output.out_features)
    inside = [token.ent_iob_ != "O" for eg in every for token in eg.reference]
    assert 0 < sum(inside) < len(inside)
    assert (in_common.diagonal() == 1).tolist() == inside


def right(nlp, head):
    """The share of texts whose annotation is predicted."""
    every = list(golds(nlp, head))
    found = list(nlp.pipe(eg.predicted for eg in every))
    if head == "ner":
        pairs = zip(found, every, strict=True)
        return np.mean([list(map(str, doc.ents)) == list(map(str, eg.reference.ents)) for doc, eg in pairs])
    return np.mean(
        [
            {name: value > 0.5 for name, value in doc.cats.items()} == eg.reference.cats
            for doc, eg in zip(found, every, strict=True)
        ]
    )


# --- what is learned


@pytest.mark.parametrize("head", HEADS)
def test_texts_or_tokens_of_one_class_come_closer_together(tiny_bert, head):
    before, after = (prepared(tiny_bert, head, steps=steps, rate=3e-3, config=MEAN) for steps in (0, 30))
    assert contrast_of(after, head) < contrast_of(before, head) - 0.1


@pytest.mark.parametrize("head", HEADS)
def test_a_fitted_output_layer_knows_the_training_texts_before_any_training(tiny_bert, head):
    assert right(prepared(tiny_bert, head, steps=0, strength=0), head) < 1
    assert right(prepared(tiny_bert, head, steps=0, strength=1e6), head) == 1


@pytest.mark.parametrize("head", ["textcat", "multilabel"])
def test_the_fit_is_that_of_logistic_regression(tiny_bert, head):
    """At the minimum of loss + |W|² m / 2C, m the mean squared length of the vectors, the gradient is 0."""
    nlp = prepared(tiny_bert, head, steps=0, strength=200.0, config=MEAN)
    pipe, every = nlp.get_pipe(head), list(golds(nlp, head))
    module = module_of(nlp, head).eval()
    with torch.no_grad():
        features = as_torch(nlp.get_pipe("encoder").predict([eg.predicted for eg in every]))
        vectors, targets = pipe._rows(features, every)
    loss = pipe.loss(module.output(vectors), targets) / targets.scale
    loss = loss + vectors.square().sum(dim=1).mean() / 400 * module.output.weight.square().sum()
    loss.backward()
    assert module.output.weight.grad.abs().max() < 1e-2
    assert module.output.weight.abs().max() > 0.05


def test_the_training_that_follows_starts_with_a_new_optimizer(tiny_bert):
    nlp = prepared(tiny_bert, "textcat", steps=3)
    for name in ("encoder", "textcat"):
        shim = shim_of(nlp.get_pipe(name).model)
        assert shim.n_steps == 0
        assert shim.optimizer.examples == 0
        assert shim.tally.texts == 0
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 1e-3
    before = weights(nlp, "encoder")
    nlp.update(list(golds(nlp, "textcat")), sgd=optimizer)
    after = weights(nlp, "encoder")
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_one_seed_gives_one_result(tiny_bert):
    one, two = (prepared(tiny_bert, "ner", "textcat", steps=3, rate=1e-3) for _ in range(2))
    for name in ("encoder", "ner", "textcat"):
        for key, value in weights(one, name).items():
            torch.testing.assert_close(weights(two, name)[key], value, rtol=0, atol=0)


def test_several_heads_take_turns(tiny_bert):
    before, after = (prepared(tiny_bert, "ner", "textcat", steps=steps, rate=3e-3) for steps in (0, 40))
    for head in ("ner", "textcat"):
        assert contrast_of(after, head) < contrast_of(before, head)


def test_a_hidden_layer_learns_too_and_none_is_needed(tiny_bert):
    plain, learned = (
        prepared(tiny_bert, "textcat", steps=steps, rate=1e-3, config={"activation": "gelu"}) for steps in (0, 2)
    )
    assert not torch.equal(weights(plain, "textcat")["dense.weight"], weights(learned, "textcat")["dense.weight"])
    assert "dense.weight" not in weights(
        prepared(tiny_bert, "textcat", steps=1, config={"activation": None}), "textcat"
    )


@pytest.mark.parametrize(
    "how", [{"component": {"tuning": {"@misc": "spacy-bertft.FrozenTuning.v1"}}}, {"disable": ["encoder"]}]
)
def test_a_frozen_encoder_stays_as_it_is_and_its_heads_are_fitted(tiny_bert, how):
    """Frozen by its tuning, or by [training] frozen_components, which are disabled when others are initialised."""
    plain = prepared(tiny_bert, "textcat", steps=0, strength=0)
    nlp = prepared(tiny_bert, "textcat", rate=1e-2, strength=1e6, **how)
    for key, value in weights(plain, "encoder").items():
        torch.testing.assert_close(weights(nlp, "encoder")[key], value, rtol=0, atol=0)
    assert right(nlp, "textcat") == 1


def test_texts_without_annotation_and_of_the_unknown_category_are_allowed(tiny_bert):
    def given(nlp, head):
        some = list(golds(nlp, head))
        some[0].reference.cats = {}
        some[1].reference.cats = {"none": 1.0}
        return some

    nlp = prepared(tiny_bert, "textcat", given=given, steps=5, config={"unknown_label": "none"})
    assert nlp.get_pipe("textcat").labels == ("left", "stayed")


# --- what it says of


def test_a_label_of_one_text_is_left_out_of_the_contrasts_with_a_warning(tiny_bert, caplog):
    def given(nlp, head):
        some = list(golds(nlp, head))
        some[0].reference.cats = {"left": 0.0, "stayed": 0.0, "rare": 1.0}
        return some

    with caplog.at_level(logging.WARNING, logger="spacy"):
        logging.getLogger("spacy").propagate, kept = True, logging.getLogger("spacy").propagate
        try:
            nlp = prepared(tiny_bert, "textcat", given=given, steps=2)
        finally:
            logging.getLogger("spacy").propagate = kept
    assert "'textcat' has fewer than two training texts of rare." in caplog.text
    assert "rare" in nlp.get_pipe("textcat").labels


def test_without_two_texts_of_a_label_it_says_so(tiny_bert):
    def given(nlp, head):
        return [list(golds(nlp, head))[place] for place in (0, 2)]

    with pytest.raises(DataError, match=r"2 training texts, but no label with two of them\. .* Add texts, or take"):
        prepared(tiny_bert, "textcat", given=given)


def test_heads_of_other_kinds_are_left_out(tiny_bert):
    def given(nlp, head):
        for eg in golds(nlp, "textcat"):
            eg.reference._.value = 1.0
            yield eg

    nlp = prepared(tiny_bert, "textcat", "rating", given=given, steps=1)
    assert nlp.get_pipe("rating").contrastive is None
    with pytest.raises(
        ConfigError, match=r"found no head to prepare\. .* are encoder, rating\. Expected bertft_textcat,"
    ):
        prepared(tiny_bert, "rating", given=given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, r"^steps of spacy-bertft\.contrastive\.v1 is -1; expected at least 0;.*before_init\]\.$"),
        ({"texts": 1}, "texts .* is 1; expected at least 2"),
        ({"rate": 0.0}, "rate .* is 0; expected more than 0"),
        ({"temperature": 0.0}, "temperature .* is 0; expected more than 0"),
        ({"strength": -1.0}, "strength .* is -1; expected at least 0"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        registry.callbacks.get("spacy-bertft.contrastive.v1")(**settings)
