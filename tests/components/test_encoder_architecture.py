"""The thinc Model around an encoder: its settings, bytes and copies."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import fields

import pytest
import spacy
import torch
from confection import ConfigValidationError
from encoders import MIXED, texts_of
from spacy.util import registry
from thinc.api import Optimizer

from spacy_bertft.components.encoder_architecture import EncoderShim, build_encoder, load_named
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.shim import shim_of
from spacy_bertft.learning.tuning import FrozenTuning

pytestmark = pytest.mark.touches_transformers


def model_of(folder, **settings):
    """With its weights."""
    model = build_encoder(str(folder), device="cpu", **settings)
    shim_of(model).module = load_named(model)
    return model


def hidden(shim):
    return shim.predict(texts_of(MIXED)).hidden


def assert_same_rows(one, other):
    # Not to the bit: weights that lie elsewhere in memory may be multiplied in another order.
    torch.testing.assert_close(hidden(one), hidden(other), rtol=1e-4, atol=1e-5)


# --- settings


def test_it_takes_a_name_a_revision_and_the_fields_of_the_settings():
    parameters = inspect.signature(build_encoder).parameters
    own = {field.name: field.default for field in fields(EncoderSettings)}
    assert {name: one.default for name, one in parameters.items()} == {
        "name": inspect.Parameter.empty,
        "revision": "main",
        **own,
    }


def test_what_it_is_given_becomes_its_settings():
    model = build_encoder("some/name", revision="v2", window=32, batching="padded")
    assert model.name == "bertft-encoder"
    assert (model.attrs["name"], model.attrs["revision"]) == ("some/name", "v2")
    assert model.attrs["settings"] == EncoderSettings(window=32, batching="padded")
    assert shim_of(model).settings is model.attrs["settings"]
    assert shim_of(model).module is None


def resolved(**config):
    named = {"@architectures": "spacy-bertft.Encoder.v1", "name": "bert-base-cased"}
    return registry.resolve({"model": named | config})["model"]


def test_a_config_fills_in_the_rest():
    assert resolved().attrs["settings"] == EncoderSettings()
    filled = registry.fill({"model": {"@architectures": "spacy-bertft.Encoder.v1", "name": "bert-base-cased"}})
    assert set(filled["model"]) == {"@architectures", "name", "revision", *(f.name for f in fields(EncoderSettings))}


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"windows": 32}, "windows"),
        ({"settings": {"window": 32}}, "settings"),
        ({"window": "wide"}, "window"),
        ({"precision": "float16"}, "precision"),
        ({"backend": "tensorflow"}, "backend"),
        ({"long_pairs": True}, "long_pairs"),
    ],
)
def test_a_config_with_other_settings_is_refused(config, where):
    with pytest.raises(ConfigValidationError, match=rf"model -> {where}"):
        resolved(**config)


def test_a_config_without_a_name_is_refused():
    with pytest.raises(ConfigValidationError, match=r"model -> name"):
        registry.resolve({"model": {"@architectures": "spacy-bertft.Encoder.v1"}})


def test_a_number_that_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match="batch_subwords is 0"):
        resolved(batch_subwords=0)


# --- weights


def test_the_weights_are_those_of_the_name(tiny_bert):
    model = build_encoder(str(tiny_bert), device="cpu", window=16)
    encoder = load_named(model)
    assert isinstance(encoder, Encoder)
    assert encoder.window == 16
    assert shim_of(model).module is None


def test_texts_and_docs_give_the_same_features(tiny_bert):
    model = model_of(tiny_bert)
    nlp = spacy.blank("xx")
    of_docs = model.predict([nlp(text) for text in MIXED])
    assert torch.equal(of_docs.hidden, model.predict(texts_of(MIXED)).hidden)


def test_gradients_enter_at_the_hidden_rows(tiny_bert):
    model = model_of(tiny_bert)
    features, backward = model.begin_update(texts_of(MIXED))
    backward(torch.ones_like(features.hidden))
    shim_of(model).count(len(MIXED))
    key = "embeddings.LayerNorm.bias"
    before = shim_of(model).module.model.state_dict()[key].clone()
    model.finish_update(Optimizer(1e-2, use_averages=False))
    assert not torch.equal(shim_of(model).module.model.state_dict()[key], before)


# --- bytes and copies


def test_without_an_encoder_there_are_no_bytes():
    shim = shim_of(build_encoder("bert-base-cased"))
    assert shim.to_bytes() == b""
    assert shim.from_bytes(b"").module is None
    assert shim.copy().module is None
    assert pickle.loads(pickle.dumps(shim)).settings == EncoderSettings()


def test_bytes_hold_the_encoder_with_its_tokenizer(tiny_bert):
    shim = shim_of(model_of(tiny_bert))
    with torch.no_grad():
        shim.module.model.embeddings.word_embeddings.weight.mul_(2.0)
    again = EncoderShim(EncoderSettings(device="cpu", batch_subwords=20)).from_bytes(shim.to_bytes())
    assert again.module.budget == 20  # the settings are those of the config
    assert_same_rows(again, shim)


def test_bytes_of_a_model_go_through_its_shim(tiny_bert):
    model = model_of(tiny_bert)
    again = build_encoder("elsewhere", device="cpu").from_bytes(model.to_bytes())
    assert_same_rows(shim_of(again), shim_of(model))


@pytest.mark.parametrize("copied", [lambda model: model.copy(), copy.deepcopy], ids=["copy", "deepcopy"])
def test_copies_have_weights_of_their_own(tiny_bert, copied):
    model = model_of(tiny_bert, window=16)
    expected = hidden(shim_of(model))
    twin = copied(model)
    assert shim_of(twin).settings == shim_of(model).settings
    assert_same_rows(shim_of(twin), shim_of(model))
    with torch.no_grad():
        shim_of(twin).module.model.embeddings.word_embeddings.weight.mul_(2.0)
    assert torch.equal(hidden(shim_of(model)), expected)
    assert not torch.allclose(hidden(shim_of(twin)), expected, atol=1e-2)


def test_a_pickled_shim_has_its_weights(tiny_bert):
    shim = shim_of(model_of(tiny_bert))
    assert_same_rows(pickle.loads(pickle.dumps(shim)), shim)


@pytest.mark.parametrize(
    "copied",
    [lambda shim: shim.copy(), copy.deepcopy, lambda shim: pickle.loads(pickle.dumps(shim))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_keep_how_it_learns(tiny_bert, copied):
    shim = shim_of(model_of(tiny_bert))
    shim.rate_factor, shim.tuning = 0.25, FrozenTuning()
    shim.module = shim.module
    twin = copied(shim)
    assert (twin.rate_factor, twin.tuning) == (0.25, FrozenTuning())
    assert (twin.optimizer.rate_factor, twin.optimizer.tuning) == (0.25, FrozenTuning())
