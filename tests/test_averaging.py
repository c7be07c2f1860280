"""Averages of weights in whole pipelines: spaCy evaluates and saves them, and trains on without them."""

from __future__ import annotations

import gc

import pytest
import spacy
import torch
from pipelines import ANNOTATED, HEADS, annotations, blank, examples, initialized, module_of, weights
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from spacy.training.corpus import Corpus
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from thinc.api import Optimizer

from spacy_bertft.learning.shim import shim_of

pytestmark = pytest.mark.touches_transformers
NAMES = ("encoder", *HEADS)


def averaging(rate=5e-3):
    return Optimizer(rate, L2=0.01, grad_clip=1.0, use_averages=True)


def updated(folder, steps=5):
    """A pipeline after a few updates, the last step of whose encoder is due, and the optimizer."""
    nlp, optimizer = initialized(folder), averaging()
    for _ in range(steps):
        nlp.update(examples(nlp), sgd=optimizer)
    return nlp, optimizer


def averages_of(nlp, name):
    """The averages of a component by the names of its weights."""
    averages = shim_of(nlp.get_pipe(name).model).optimizer.averages
    return {key: averages.values[it] for key, it in module_of(nlp, name).named_parameters() if it in averages.values}


def same(found, expected):
    return all(torch.equal(value, found[key]) for key, value in expected.items())


def predictions(nlp):
    return [annotations(doc) for doc in nlp.pipe([text for text, _, _ in ANNOTATED])]


def test_inside_all_components_have_their_averages_and_afterwards_their_weights(tiny_bert):
    nlp, optimizer = updated(tiny_bert)
    with nlp.use_params(optimizer.averages):
        assert shim_of(nlp.get_pipe("encoder").model).optimizer.steps == 5
        inside = {name: weights(nlp, name) for name in NAMES}
        predicted = predictions(nlp)
        saved = nlp.to_bytes()
    for name in NAMES:
        after = weights(nlp, name)
        assert same(inside[name], averages_of(nlp, name))
        assert set(inside[name]) - {key for key, value in after.items() if torch.equal(value, inside[name][key])}
    assert predictions(nlp) != predicted
    loaded = blank(tiny_bert).from_bytes(saved)
    assert predictions(loaded) == predicted


def test_training_goes_on_as_if_the_averages_had_not_been_used(tiny_bert):
    found = []
    for uses in (True, False):
        nlp, optimizer = initialized(tiny_bert), averaging()
        torch.manual_seed(0)
        for _ in range(4):
            nlp.update(examples(nlp), drop=0.1, sgd=optimizer)
            if uses:
                with nlp.use_params(optimizer.averages):
                    predictions(nlp)
                predictions(nlp)
        found.append({name: weights(nlp, name) for name in NAMES})
    assert all(same(found[0][name], found[1][name]) for name in NAMES)


@pytest.mark.parametrize("held", [True, False])
def test_after_an_exception_training_goes_on_from_the_trained_weights(tiny_bert, held):
    nlp, optimizer = updated(tiny_bert)
    before = {name: weights(nlp, name) for name in NAMES}
    with pytest.raises(KeyError) as caught, nlp.use_params(optimizer.averages):
        raise KeyError
    if held:  # its traceback keeps spaCy's generators, so that the averages stay until the next update
        with nlp.use_params(optimizer.averages):
            assert same(weights(nlp, "ner"), averages_of(nlp, "ner"))
        state = nlp.get_pipe("ner").training_state()
        assert same({key: state[f"weights/{key}"] for key in before["ner"]}, before["ner"])
        nlp.update(examples(nlp), sgd=averaging(rate=0.0))
    del caught
    gc.collect()
    assert all(same(weights(nlp, name), before[name]) for name in NAMES)


def test_the_cache_of_an_encoder_that_is_frozen_later_does_not_hide_its_averages(tiny_bert):
    nlp, optimizer = updated(tiny_bert)
    nlp.update(examples(nlp), sgd=optimizer, exclude=["encoder"])
    pipe, docs = nlp.get_pipe("encoder"), [nlp.make_doc(text) for text, _, _ in ANNOTATED]
    trained = pipe.predict(docs).hidden
    with nlp.use_params(optimizer.averages):
        averaged = pipe.predict(docs).hidden
    assert not torch.equal(averaged, trained)
    torch.testing.assert_close(pipe.predict(docs).hidden, trained)


def test_spacys_own_components_on_the_encoder_have_averages_too(tiny_bert):
    nlp = blank(tiny_bert, {})
    layer = {"@architectures": "spacy-bertft.Listener.v1"}
    nlp.add_pipe("tagger", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": layer}})
    doc = Doc(nlp.vocab, words=["Anna", "lives", "here"], tags=["N", "V", "A"])
    egs = [Example(nlp.make_doc(doc.text), doc)]
    nlp.initialize(lambda: egs)
    nlp.replace_listeners("encoder", "tagger", ["model.tok2vec"])
    optimizer = averaging()
    for _ in range(4):
        nlp.update(egs, sgd=optimizer)
    model = nlp.get_pipe("tagger").model
    before = model.predict([egs[0].predicted])[0]
    with nlp.use_params(optimizer.averages):
        inside = model.predict([egs[0].predicted])[0]
        assert [shim.averaged for node in model.walk() for shim in node.shims] == [True]
    assert not (before == inside).all()
    assert (model.predict([egs[0].predicted])[0] == before).all()


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_spacy_train_evaluates_and_saves_the_averages(tiny_bert, tmp_path, frozen):
    nlp = blank(tiny_bert)
    DocBin(docs=[eg.reference for eg in examples(nlp)]).to_disk(tmp_path / "train.spacy")
    config = nlp.config.copy()
    corpus = str(tmp_path / "train.spacy")
    config["paths"] = {"train": corpus, "dev": corpus, "vectors": None, "init_tok2vec": None}
    if frozen:
        config["components"]["encoder"]["tuning"] = {"@misc": "spacy-bertft.FrozenTuning.v1"}
    config["training"]["optimizer"] = {"@optimizers": "Adam.v1", "learn_rate": 3e-3, "use_averages": True}
    config["training"].update({"max_epochs": 0, "max_steps": 12, "eval_frequency": 6, "seed": 0})
    (tmp_path / "out").mkdir()
    nlp = init_nlp(config)
    train(nlp, tmp_path / "out")
    last = spacy.load(tmp_path / "out/model-last")
    for name in NAMES[frozen:]:
        averages, trained = averages_of(nlp, name), weights(nlp, name)
        assert averages
        assert same(weights(last, name), averages)
        assert not same(averages, {key: trained[key] for key in averages})
    best = spacy.load(tmp_path / "out/model-best")
    scores = best.evaluate(list(Corpus(corpus)(best)))
    for name in ("ents_f", "cats_score"):
        assert scores[name] == pytest.approx(best.meta["performance"][name])
