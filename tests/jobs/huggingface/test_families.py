"""Settings of hidden layers, from a config.json and back."""

from __future__ import annotations

import pytest

from spacy_bertft.components.hidden_layer import HiddenLayer
from spacy_bertft.jobs.huggingface.families import FAMILIES

MODERNBERT = FAMILIES["modernbert"].heads["TokenClassification"]
DEBERTA = FAMILIES["deberta-v2"].heads["SequenceClassification"]
CONFIG = {"classifier_activation": "gelu", "classifier_bias": False, "norm_bias": False, "norm_eps": 1e-5}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["TokenClassification", "SequenceClassification", "QuestionAnswering"])
def test_a_hidden_layer_goes_there_and_back_without_a_change(family, kind):
    names = FAMILIES[family].heads[kind]
    layer = HiddenLayer(**names.hidden_layer({}))
    assert (layer.activation is None) is (names.dense is None)
    assert names.hidden_layer(names.settings_for(layer, {})) == names.hidden_layer({})


def test_a_setting_that_says_the_same_stays():
    """Two of transformers' names are the same approximation of GELU."""
    found = {"pooler_hidden_act": "gelu_pytorch_tanh"}
    layer = HiddenLayer(**DEBERTA.hidden_layer(found))
    assert layer.activation == "gelu_tanh"
    assert DEBERTA.settings_for(layer, found) == found


def test_what_can_be_set_is_set():
    assert DEBERTA.settings_for(HiddenLayer(activation="tanh"), {}) == {"pooler_hidden_act": "tanh"}
    with_biases = CONFIG | {"norm_bias": True}
    layer = HiddenLayer(activation="relu", norm_eps=1e-5)
    assert MODERNBERT.settings_for(layer, with_biases) == {"classifier_activation": "relu", "classifier_bias": True}


@pytest.mark.parametrize(
    ("family", "layer"),
    [
        ("distilbert", HiddenLayer(activation="tanh")),
        ("electra", HiddenLayer(activation="relu")),
        ("bert", HiddenLayer(activation="gelu")),
        ("bert", HiddenLayer(activation="tanh", hidden_bias=False)),
        ("bert", HiddenLayer()),
        ("deberta-v2", HiddenLayer()),
        ("modernbert", HiddenLayer(activation="gelu")),
        ("modernbert", HiddenLayer(activation="gelu", norm_eps=1e-5)),  # the encoder's norms have no biases
        ("modernbert", HiddenLayer(activation="gelu", norm_eps=1e-6, hidden_bias=False)),
    ],
)
def test_what_can_t_be_set_has_no_settings(family, layer):
    assert FAMILIES[family].heads["SequenceClassification"].settings_for(layer, CONFIG) is None
