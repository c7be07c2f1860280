"""Partly trained encoders: which weights get gradients, which move, when, and at what rate."""

from __future__ import annotations

import pipelines
import pytest
import spacy
import torch
from pipelines import annotations, examples, module_of, weights
from spacy.util import load_config

from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.layers import layers_of
from spacy_bertft.learning.shim import shim_of
from spacy_bertft.learning.tuning import FullTuning, GradualTuning, TopLayersTuning

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

TOP = {"@misc": "spacy-bertft.TopLayersTuning.v1", "layers": 1}
GRADUAL = {"@misc": "spacy-bertft.GradualTuning.v1", "every": 2, "unit": "steps"}


def initialized(folder, tuning=None):
    return pipelines.initialized(folder, component=None if tuning is None else {"tuning": tuning})


def optimizer_of(nlp):
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 1e-2
    return optimizer


def learned(nlp, steps=3):
    optimizer = optimizer_of(nlp)
    for _ in range(steps):
        nlp.update(examples(nlp), sgd=optimizer)


def moved(nlp, before):
    return {name for name, value in weights(nlp, "encoder").items() if not value.equal(before[name])}


def layer_names(nlp, number):
    return {name for name in weights(nlp, "encoder") if f".layer.{number}." in name}


def test_the_top_layers_alone_move_and_no_gradient_is_computed_below(tiny_bert):
    nlp = initialized(tiny_bert, TOP)
    before = weights(nlp, "encoder")
    nlp.update(examples(nlp), sgd=False)
    nlp.get_pipe("encoder").settle()
    encoder = module_of(nlp, "encoder")
    with_gradient = {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert {name.removeprefix("model.") for name in with_gradient} <= {
        name.removeprefix("model.") for name in layer_names(nlp, 1) | {n for n in before if "pooler" in n}
    }
    learned(nlp)
    changed = moved(nlp, before)
    assert layer_names(nlp, 1) - {n for n in before if "key.bias" in n} <= changed  # softmax cancels a key's bias
    assert changed <= layer_names(nlp, 1)


def test_nothing_is_kept_of_the_layers_below(tiny_bert):
    def kept(tuning):
        nlp = initialized(tiny_bert, tuning)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            shim = shim_of(nlp.get_pipe("encoder").model)
            shim.begin_update(shim.of_docs([eg.predicted for eg in examples(nlp)]))
        return sum(sizes)

    full = kept({"@misc": "spacy-bertft.FullTuning.v1"})
    assert kept(TOP) < 0.6 * full


def test_gradual_unfreezing_adds_a_layer_every_so_many_steps(tiny_bert):
    nlp = initialized(tiny_bert, GRADUAL)
    optimizer = optimizer_of(nlp)
    before = weights(nlp, "encoder")
    stages = []
    for _ in range(6):
        nlp.update(examples(nlp), sgd=optimizer)
        nlp.get_pipe("encoder").settle()
        changed = moved(nlp, before)
        stages.append(tuple(any(part in name for name in changed) for part in (".layer.1.", ".layer.0.", "embeddings")))
    top, two, every = (True, False, False), (True, True, False), (True, True, True)
    assert stages == [top, top, two, two, every, every]


def test_gradual_unfreezing_by_epochs_counts_the_training_texts(tiny_bert):
    nlp = initialized(tiny_bert, GRADUAL | {"unit": "epochs", "every": 1})
    optimizer = optimizer_of(nlp)
    golds = examples(nlp)
    before = weights(nlp, "encoder")
    lowest = []
    for start in (0, 2, 4, 0, 2, 4, 0):  # two epochs and a part of a third
        nlp.update(golds[start : start + 2], sgd=optimizer)
        nlp.get_pipe("encoder").settle()
        changed = moved(nlp, before)
        lowest.append(
            [part for part in (".layer.1.", ".layer.0.", "embeddings") if any(part in n for n in changed)][-1]
        )
    assert lowest == [".layer.1."] * 3 + [".layer.0."] * 3 + ["embeddings"]


def test_gradual_unfreezing_resumes_where_it_stopped(tiny_bert):
    one, two = initialized(tiny_bert, GRADUAL), initialized(tiny_bert, GRADUAL)
    learned(one, steps=3)
    for name in ("encoder", "ner", "textcat"):
        state = {key: value.clone() for key, value in one.get_pipe(name).training_state().items()}
        two.get_pipe(name).load_training_state(state)
    torch.manual_seed(1)
    learned(one, steps=3)
    torch.manual_seed(1)
    learned(two, steps=3)
    first, second = weights(one, "encoder"), weights(two, "encoder")
    assert all(value.equal(second[name]) for name, value in first.items())


def test_rates_fall_from_the_top_to_the_embeddings(tiny_bert):
    encoder = module_of(initialized(tiny_bert), "encoder")
    groups = FullTuning(layer_decay=0.5, embeddings_factor=0.1).groups(encoder)
    rate_of = {id(p): group.rate_factor for group in groups for p in group.parameters}
    found = layers_of(encoder)
    assert {rate_of[id(p)] for p in (*found.top, *found.layers[1])} == {1.0}
    assert {rate_of[id(p)] for p in found.layers[0]} == {0.5}
    assert {rate_of[id(p)] for p in found.embeddings} == {0.25 * 0.1}
    assert len(rate_of) == len(list(encoder.parameters()))


def test_fixed_embeddings(tiny_bert):
    nlp = initialized(tiny_bert, {"@misc": "spacy-bertft.FullTuning.v1", "embeddings_factor": 0.0})
    before = weights(nlp, "encoder")
    learned(nlp)
    assert not any("embeddings" in name for name in moved(nlp, before))
    assert layer_names(nlp, 0) & moved(nlp, before)


@pytest.mark.parametrize("kind", ["FullTuning", "TopLayersTuning", "GradualTuning"])
def test_top_layers_start_at_random_at_initialisation_alone(tiny_bert, tmp_path, kind):
    plain = weights(initialized(tiny_bert), "encoder")
    nlp = initialized(
        tiny_bert,
        {"@misc": f"spacy-bertft.{kind}.v1", "reinitialize_layers": 1, **({"layers": 1} if "Top" in kind else {})},
    )
    assert moved(nlp, plain) <= layer_names(nlp, 1)
    assert any("query.weight" in name for name in moved(nlp, plain))
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    assert not moved(again, weights(nlp, "encoder"))


@pytest.mark.parametrize(
    "tuning",
    [TOP, GRADUAL, {"@misc": "spacy-bertft.FullTuning.v1", "layer_decay": 0.9}],
    ids=["top", "gradual", "decay"],
)
def test_settings_and_annotations_survive_saving(tiny_bert, tmp_path, tuning):
    nlp = initialized(tiny_bert, tuning)
    learned(nlp, steps=5)
    text = "Anna lives in Berlin"
    nlp.to_disk(tmp_path)
    block = load_config(tmp_path / "config.cfg")["components"]["encoder"]["tuning"]
    assert block.items() >= tuning.items()
    for other in (
        spacy.load(tmp_path),
        spacy.blank("en", config={}).from_config(nlp.config).from_bytes(nlp.to_bytes()),
    ):
        assert annotations(other(text)) == annotations(nlp(text))
        assert shim_of(other.get_pipe("encoder").model).tuning == shim_of(nlp.get_pipe("encoder").model).tuning
    sourced = spacy.blank("en")
    sourced.add_pipe("encoder", source=nlp)
    assert sourced.get_pipe_config("encoder")["tuning"].items() >= tuning.items()
    resumed = spacy.load(tmp_path)
    before = weights(resumed, "encoder")
    resumed.resume_training()
    learned(resumed)
    assert moved(resumed, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FullTuning(layer_decay=0), "layer_decay of the encoder's tuning is 0; expected more than 0"),
        (lambda: FullTuning(layer_decay=1.5), "layer_decay"),
        (lambda: FullTuning(embeddings_factor=-1), "embeddings_factor"),
        (lambda: FullTuning(reinitialize_layers=-1), "reinitialize_layers"),
        (lambda: TopLayersTuning(layers=0), "layers of the encoder's tuning is 0; expected at least 1"),
        (lambda: GradualTuning(every=0), "every"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_more_layers_than_the_encoder_has(tiny_bert):
    nlp = initialized(tiny_bert, TOP | {"layers": 3})
    with pytest.raises(ConfigError, match="layers is 3, but the encoder has 2 layers"):
        learned(nlp)
    with pytest.raises(ConfigError, match="reinitialize_layers is 9, but the encoder has 2 layers"):
        initialized(tiny_bert, {"@misc": "spacy-bertft.FullTuning.v1", "reinitialize_layers": 9})


def test_spacy_train_is_told_how_much_is_trained(tiny_bert, caplog):
    nlp = initialized(tiny_bert, TOP)
    with caplog.at_level("INFO", logger="spacy"):
        learned(nlp)
    lines = [record.getMessage() for record in caplog.records if "parameters are trained" in record.getMessage()]
    assert [line.split(":")[0] for line in lines] == ["encoder", "ner", "textcat"]
    total = sum(p.numel() for p in module_of(nlp, "encoder").parameters())
    assert f"of {total:,}" in lines[0]
    assert not lines[0].startswith(f"encoder: {total:,} of")
    caplog.clear()
    frozen = initialized(tiny_bert, {"@misc": "spacy-bertft.FrozenTuning.v1"})
    with caplog.at_level("INFO", logger="spacy"):
        learned(frozen)
    assert f"encoder: 0 of {total:,} parameters are trained" in caplog.text


def test_an_encoder_in_frozen_components_keeps_its_top_layers(tiny_bert):
    tuning = {"@misc": "spacy-bertft.FullTuning.v1", "reinitialize_layers": 1}
    nlp = pipelines.blank(tiny_bert, {"ner": "bertft_ner"}, component={"tuning": tuning})
    with nlp.select_pipes(disable="encoder"):
        nlp.initialize(lambda: examples(nlp))
    assert not moved(nlp, weights(initialized(tiny_bert), "encoder"))


def test_epochs_of_gradual_unfreezing_are_part_of_the_state(tiny_bert, tmp_path):
    nlp = initialized(tiny_bert, GRADUAL | {"unit": "epochs", "every": 1})
    learned(nlp, steps=1)
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    again.get_pipe("encoder").load_training_state(nlp.get_pipe("encoder").training_state())
    optimizer = shim_of(again.get_pipe("encoder").model).optimizer
    assert optimizer.examples_per_epoch == len(examples(nlp))
    assert shim_of(nlp.get_pipe("encoder").model).copy().examples_per_epoch == len(examples(nlp))
