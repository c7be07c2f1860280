"""A head's hidden layer: its settings, what it computes, and that it is saved and loaded."""

from __future__ import annotations

import numpy as np
import pytest
import spacy
import torch
from pipelines import blank, examples, module_of
from spacy.training import Example

from spacy_bertft import pair_doc
from spacy_bertft.components.head_files import unpack_head
from spacy_bertft.components.head_modules import HiddenHead
from spacy_bertft.components.hidden_layer import HiddenLayer, PooledHiddenLayer
from spacy_bertft.encoder.features import as_torch
from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.shim import shim_of

pytestmark = pytest.mark.touches_transformers

FUNCTIONS = {
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
}
HEADS = ["bertft_ner", "bertft_textcat", "bertft_textcat_multilabel", "bertft_pair", "bertft_qa", "bertft_regression"]


@pytest.mark.parametrize("norm_eps", [None, 1e-5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", FUNCTIONS)
def test_it_is_a_dense_layer_an_activation_and_a_norm(activation, bias, norm_eps):
    head = HiddenHead(4, HiddenLayer(activation=activation, norm_eps=norm_eps, hidden_bias=bias))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    vectors = torch.randn(5, 4)
    expected = vectors @ head.dense.weight.T
    expected = FUNCTIONS[activation](expected + head.dense.bias if bias else expected)
    if norm_eps is not None:
        expected = torch.nn.functional.layer_norm(expected, (4,), head.norm.weight, head.norm.bias, norm_eps)
        assert (head.norm.bias is not None) is bias
    torch.testing.assert_close(head.hidden(vectors), expected)


def test_without_an_activation_there_is_none():
    head = HiddenHead(4, HiddenLayer())
    assert not list(head.parameters())
    vectors = torch.randn(2, 4)
    assert head.hidden(vectors) is vectors


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"norm_eps": 1e-5}, r"Found norm_eps = 1e-05 for a head without .*Expected an activation.*leave norm_eps out"),
        ({"hidden_bias": False}, r"Found hidden_bias = false for a head .*leave hidden_bias out"),
        ({"activation": "gelu", "norm_eps": 2.0}, r"norm_eps is 2; expected a number between 0 and 1"),
    ],
)
def test_settings_that_say_nothing_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        HiddenLayer(**settings)


def test_heads_of_docs_have_bert_s_by_default():
    assert PooledHiddenLayer().activation == "tanh"
    assert HiddenLayer().activation is None


def gold(nlp, factory):
    if factory not in ("bertft_pair", "bertft_qa"):
        egs = examples(nlp)
        for number, eg in enumerate(egs):
            eg.reference._.value = float(number)
        return egs
    doc = pair_doc(nlp, "Where is it?", "It is here.")
    doc.cats = {"same": 1.0, "different": 0.0}
    doc.spans["answers"] = [doc[7:8]]
    return [Example(pair_doc(nlp, "Where is it?", "It is here."), doc)]


@pytest.mark.parametrize("factory", HEADS)
def test_every_head_has_the_settings_learns_with_them_and_keeps_them(tiny_bert, tmp_path, factory):
    nlp = blank(tiny_bert, {})
    nlp.add_pipe(factory, name="head", config={"activation": "relu", "norm_eps": 1e-5, "hidden_bias": False})
    torch.manual_seed(0)
    egs = gold(nlp, factory)
    nlp.initialize(lambda: egs)
    before = module_of(nlp, "head").dense.weight.detach().clone()
    nlp.update(egs, sgd=nlp.create_optimizer())
    assert (module_of(nlp, "head").dense.weight != before).any()
    nlp.to_disk(tmp_path / "saved")
    loaded = spacy.load(tmp_path / "saved")
    assert loaded.get_pipe_config("head")["activation"] == "relu"
    docs = [eg.predicted.copy() for eg in egs]
    logits = [one.get_pipe("head").predict(docs).logits for one in (nlp, loaded)]
    np.testing.assert_allclose(*logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("factory", "settings"),
    [
        *((factory, {}) for factory in HEADS),
        *(("bertft_ner", {"pooling": "mean", "activation": how}) for how in (None, "gelu")),
        *(("bertft_textcat", {"pooling": how}) for how in ("mean", "mean_all")),
    ],
)
def test_a_loaded_head_predicts_in_numpy_what_its_module_would(tiny_bert, tmp_path, factory, settings):
    nlp = blank(tiny_bert, {}, window=16)
    nlp.add_pipe(factory, name="head", config=settings)
    torch.manual_seed(0)
    egs = gold(nlp, factory)
    nlp.initialize(lambda: egs)
    with torch.no_grad():
        for parameter in module_of(nlp, "head").parameters():
            parameter.normal_()
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    pipe = loaded.get_pipe("head")
    docs = [eg.predicted.copy() for eg in egs]
    before = pipe.predict(docs)
    assert shim_of(pipe.model).waits
    with torch.no_grad():
        expected = module_of(loaded, "head").eval()(as_torch(before.features)).numpy()
    assert not shim_of(pipe.model).waits
    for found in (before.logits, pipe.predict(docs).logits):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert unpack_head(pipe.to_bytes())[1] == unpack_head(nlp.get_pipe("head").to_bytes())[1]


def test_other_settings_than_those_it_was_trained_with_are_refused(tiny_bert, tmp_path):
    nlp = blank(tiny_bert, {"textcat": "bertft_textcat"})
    nlp.initialize(lambda: examples(nlp))
    nlp.to_disk(tmp_path)
    with pytest.raises(ConfigError, match=r"don't fit its settings .*activation=None.*Undo the change"):
        spacy.load(tmp_path, config={"components.textcat.activation": None})


@pytest.mark.parametrize(("activation", "same"), [("tanh", True), ("gelu", False)])
def test_the_pretrained_pooler_is_the_start_of_a_layer_with_tanh_alone(tiny_bert, activation, same):
    nlp = blank(tiny_bert, {})
    nlp.add_pipe("bertft_textcat", name="textcat", config={"activation": activation})
    nlp.initialize(lambda: examples(nlp))
    pooler = nlp.get_pipe("encoder").encoder.pooler()
    assert torch.equal(module_of(nlp, "textcat").dense.weight, pooler.weight) is same
