"""`bertft_encoder` in a config: its settings, their defaults, and what spaCy refuses."""

from __future__ import annotations

import pytest
import spacy
from confection import ConfigValidationError
from pipelines import TEXTS

from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.learning.shim import shim_of
from spacy_bertft.learning.tuning import FullTuning

pytestmark = pytest.mark.touches_transformers


def added(nlp=None, **config):
    nlp = nlp or spacy.blank("en")
    return nlp.add_pipe("bertft_encoder", name="encoder", config=config)


def test_without_settings_it_is_berts_and_loads_nothing():
    pipe = added()
    assert isinstance(pipe, EncoderPipe)
    assert pipe.model.attrs["name"] == "bert-base-cased"
    assert pipe.model.attrs["settings"] == EncoderSettings()
    assert (pipe.keep_features, pipe.set_tensor) == (False, False)
    assert shim_of(pipe.model).rate_factor == 1.0
    assert shim_of(pipe.model).tuning == FullTuning()
    assert shim_of(pipe.model).module is None


def test_its_defaults_are_written_into_the_config():
    nlp = spacy.blank("en")
    added(nlp)
    config = nlp.config["components"]["encoder"]
    assert set(config) == {"factory", "model", "keep_features", "set_tensor", "learn_rate_factor", "tuning"}
    assert config["tuning"].items() >= {"@misc": "spacy-bertft.FullTuning.v1"}.items()
    assert nlp.get_pipe_meta("encoder").assigns == ["doc.tensor"]


def test_its_settings_reach_the_component(tiny_bert):
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": str(tiny_bert), "window": 16}
    nlp = spacy.blank("en")
    pipe = added(nlp, model=model, keep_features=True, set_tensor=True, learn_rate_factor=0.5)
    assert (pipe.keep_features, pipe.set_tensor) == (True, True)
    assert pipe.model.attrs["settings"].window == 16
    nlp.initialize()
    assert shim_of(pipe.model).optimizer.rate_factor == 0.5
    doc = nlp(TEXTS[0])
    assert doc.tensor.shape == (len(doc), 32)
    assert pipe.features([doc]).token_counts.tolist() == [len(doc)]


def test_a_part_of_the_model_is_enough_in_a_config(tiny_bert):
    pipe = added(model={"name": str(tiny_bert)})
    assert pipe.model.attrs["name"] == str(tiny_bert)
    assert pipe.model.attrs["revision"] == "main"


def test_it_knows_its_pipeline_but_does_not_keep_it():
    nlp = spacy.blank("en")
    pipe = added(nlp)
    assert pipe.nlp() is nlp


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"set_tensors": True}, "set_tensors"),
        ({"keep_features": "maybe"}, "keep_features"),
        ({"set_tensor": None}, "set_tensor"),
        ({"learn_rate_factor": "fast"}, "learn_rate_factor"),
        ({"model": {"windows": 3}}, r"model -> windows"),
        ({"model": {"device": "tpu"}}, r"model -> device"),
        ({"model": {"batching": "sorted"}}, r"model -> batching"),
        ({"model": {"window": "wide"}}, r"model -> window"),
        ({"model": {"name": None}}, r"model -> name"),
    ],
)
def test_settings_that_it_does_not_have_and_values_of_another_kind_are_refused(config, where):
    with pytest.raises(ConfigValidationError, match=rf"bertft_encoder(\.| -> ){where}"):
        added(**config)
