"""Which weights learn: the groups, and a frozen encoder from its config to its saved pipeline."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest
import spacy
import torch
from catalogue import RegistryError
from confection import ConfigValidationError
from pipelines import HEADS, TEXTS, annotations, blank, examples, module_of, weights
from safetensors.torch import load_file
from spacy.cli.train import train
from spacy.tokens import DocBin
from spacy.util import load_config, registry
from torch import nn

from spacy_bertft.components.doc_texts import texts_of
from spacy_bertft.engines.fused import FusedEngine
from spacy_bertft.learning.shim import shim_of
from spacy_bertft.learning.tuning import FrozenTuning, FullTuning, ParameterGroup

pytestmark = pytest.mark.touches_transformers

FROZEN = {"@misc": "spacy-bertft.FrozenTuning.v1"}
FULL = {"@misc": "spacy-bertft.FullTuning.v1"}


# --- groups


def test_matrices_decay_and_vectors_do_not_at_the_rate_of_the_module():
    module = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    decaying, others = FullTuning().groups(module)
    assert list(map(id, decaying.parameters)) == list(map(id, (module[0].weight, module[2].weight)))
    assert list(map(id, others.parameters)) == list(map(id, (module[1].weight, module[1].bias, module[2].bias)))
    assert (decaying.decays, others.decays) == (True, False)
    assert decaying.rate_factor == others.rate_factor == 1.0


def test_every_weight_of_an_encoder_is_in_one_group(tiny_bert):
    encoder = module_of(initialized(tiny_bert), "encoder")
    found = [id(parameter) for group in FullTuning().groups(encoder) for parameter in group.parameters]
    assert sorted(found) == sorted(map(id, encoder.parameters()))


def test_weights_that_require_no_gradient_are_left_out():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    module[0].requires_grad_(False)
    found = [parameter for group in FullTuning().groups(module) for parameter in group.parameters]
    assert list(map(id, found)) == list(map(id, module[1].parameters()))


@pytest.mark.parametrize(
    ("module", "decays"),
    [
        (nn.Linear(3, 2, bias=False), [True]),
        (nn.LayerNorm(3), [False]),
        (nn.Linear(3, 2).requires_grad_(False), []),
        (nn.Identity(), []),
    ],
)
def test_no_group_is_empty(module, decays):
    assert [group.decays for group in FullTuning().groups(module)] == decays


def test_nothing_of_a_frozen_module_learns():
    assert FrozenTuning().groups(nn.Linear(3, 2)) == []
    assert not FrozenTuning().learns
    assert FullTuning().learns


# --- a frozen encoder


def pipeline(folder, tuning=FROZEN):
    return blank(folder, component={"tuning": tuning})


def initialized(folder, tuning=FROZEN):
    nlp = pipeline(folder, tuning)
    torch.manual_seed(0)
    nlp.initialize(lambda: examples(nlp))
    return nlp


def optimizer_of(nlp, rate=1e-2):
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = rate
    return optimizer


def learned(nlp, steps=3, rate=1e-2, **options):
    optimizer = optimizer_of(nlp, rate)
    for _ in range(steps):
        losses = nlp.update(examples(nlp), sgd=optimizer, **options)
    return losses


def same(one, other):
    return one.keys() == other.keys() and all(value.equal(other[key]) for key, value in one.items())


@pytest.mark.parametrize("annotates", [[], ["encoder"], ["encoder", "ner"]])
def test_its_heads_learn_and_it_stays_as_it_is(tiny_bert, annotates):
    nlp = initialized(tiny_bert)
    before = {name: weights(nlp, name) for name in ("encoder", *HEADS)}
    first = nlp.update(examples(nlp), sgd=False)
    last = learned(nlp, steps=20, rate=2e-4, annotates=annotates)
    assert same(weights(nlp, "encoder"), before["encoder"])
    for name in HEADS:
        assert last[name] < first[name]
        assert not same(weights(nlp, name), before[name])
    assert last["encoder"] == 0.0


def test_no_gradient_reaches_it(tiny_bert):
    nlp = initialized(tiny_bert)
    nlp.update(examples(nlp), sgd=False)
    nlp.get_pipe("encoder").settle()
    assert all(parameter.grad is None for parameter in module_of(nlp, "encoder").parameters())
    assert module_of(nlp, "ner").output.weight.grad is not None


def test_it_encodes_without_dropout_in_training_too(tiny_bert):
    frozen, full = initialized(tiny_bert), initialized(tiny_bert, FULL)
    texts = texts_of([frozen.make_doc(text) for text in TEXTS])
    for nlp, equal in ((frozen, True), (full, False)):
        model = nlp.get_pipe("encoder").model
        expected = model.predict(texts).hidden
        found, _ = model.begin_update(texts)
        assert torch.equal(found.hidden, expected) is equal


def test_the_order_of_training_and_predicting_does_not_matter(tiny_bert):
    plain, predicting = initialized(tiny_bert), initialized(tiny_bert)
    optimizers = [optimizer_of(nlp) for nlp in (plain, predicting)]
    for _ in range(3):
        plain.update(examples(plain), sgd=optimizers[0])
        predicting.update(examples(predicting), sgd=optimizers[1])
        list(predicting.pipe(TEXTS))
    for name in HEADS:
        assert same(weights(predicting, name), weights(plain, name))


def test_spacys_own_components_learn_on_it(tiny_bert):
    nlp = pipeline(tiny_bert)
    listener = {"@architectures": "spacy-bertft.Listener.v1"}
    nlp.add_pipe("tagger", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": listener}})

    def tagged():
        golds = examples(nlp)
        for eg in golds:
            for token in eg.reference:
                token.tag_ = "UPPER" if token.text[0].isupper() else "LOWER"
        return golds

    nlp.initialize(tagged)
    before = weights(nlp, "encoder")
    optimizer = optimizer_of(nlp)
    losses = [nlp.update(tagged(), sgd=optimizer)["tagger"] for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]
    assert same(weights(nlp, "encoder"), before)


@pytest.mark.parametrize("settings", [{}, {"accumulate_gradient": 2, "annotating_components": ["encoder"]}])
def test_spacy_train_leaves_it_as_it_is(tiny_bert, tmp_path, settings):
    config = load_config("configs/ner_textcat.cfg")
    config["components"]["encoder"]["tuning"] = FROZEN
    config["components"]["encoder"]["model"] |= {"name": str(tiny_bert), "device": "cpu"}
    config["training"] |= {"max_steps": 6, "eval_frequency": 3, **settings}
    corpus = str(tmp_path / "corpus.spacy")
    DocBin(docs=[eg.reference for eg in examples(spacy.blank("en"))]).to_disk(corpus)
    config["paths"] |= {"train": corpus, "dev": corpus}
    config.to_disk(tmp_path / "frozen.cfg")
    train(tmp_path / "frozen.cfg", tmp_path / "out")
    found = load_file(tmp_path / "out/model-last/encoder/encoder/model.safetensors")
    expected = load_file(tiny_bert / "model.safetensors")
    assert same({key: value for key, value in found.items() if key in expected}, expected)
    nlp = spacy.load(tmp_path / "out/model-last")
    assert shim_of(nlp.get_pipe("encoder").model).tuning == FrozenTuning()
    assert nlp.meta["performance"]["ner_loss"] > 0


# --- at rest


@pytest.fixture(scope="module")
def saved(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("frozen")
    nlp = initialized(tiny_bert)
    learned(nlp)
    nlp.to_disk(folder)
    return folder


def test_a_loaded_one_learns_without_transformers_model(saved):
    nlp = spacy.load(saved)
    encoder = nlp.get_pipe("encoder").encoder
    before = {name: weights(nlp, name) for name in HEADS}
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 1e-2
    nlp.update(examples(nlp), sgd=optimizer)
    assert annotations(nlp(TEXTS[1]))[1]
    assert encoder.loaded is None
    with torch.no_grad():
        assert isinstance(encoder.eval().engine(), FusedEngine)
    assert not any(same(weights(nlp, name), before[name]) for name in HEADS)


def test_it_is_saved_with_the_pipeline(saved):
    nlp = spacy.load(saved)
    assert load_config(saved / "config.cfg")["components"]["encoder"]["tuning"] == FROZEN | {
        "cache_mb": 2048,
        "cache": "memory",
    }
    assert shim_of(nlp.get_pipe("encoder").model).tuning == FrozenTuning()
    before = weights(nlp, "encoder")
    learned(nlp)
    assert same(weights(nlp, "encoder"), before)


def test_bytes_and_config_bring_it_back(saved):
    nlp = spacy.load(saved)
    again = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    before = weights(again, "encoder")
    learned(again)
    assert same(weights(again, "encoder"), before)


def test_it_is_pickled_with_its_component(saved):
    pipe = pickle.loads(pickle.dumps(spacy.load(saved).get_pipe("encoder")))
    assert shim_of(pipe.model).tuning == FrozenTuning()
    assert shim_of(pipe.model).optimizer.tuning == FrozenTuning()


def test_loading_can_thaw_it(saved):
    nlp = spacy.load(saved, config={"components.encoder.tuning": FULL})
    before = weights(nlp, "encoder")
    learned(nlp)
    assert not same(weights(nlp, "encoder"), before)


# --- other settings


@dataclass(frozen=True)
class LastLayer(FullTuning):
    """The encoder's last layer learns, at a rate of its own."""

    rate_factor: float = 1.0

    def groups(self, module):
        return [ParameterGroup(tuple(module.model.encoder.layer[-1].parameters()), self.rate_factor, False)]


def test_a_tuning_of_ones_own_can_be_registered_and_named(tiny_bert, tmp_path):
    registry.misc("test_tuning.LastLayer.v1", func=LastLayer)
    nlp = initialized(tiny_bert, {"@misc": "test_tuning.LastLayer.v1", "rate_factor": 0.5})
    before = weights(nlp, "encoder")
    learned(nlp)
    after = weights(nlp, "encoder")
    changed = {key for key, value in before.items() if not value.equal(after[key])}
    assert "model.encoder.layer.1.output.dense.weight" in changed
    assert all(".layer.1." in key for key in changed)
    nlp.to_disk(tmp_path)
    assert shim_of(spacy.load(tmp_path).get_pipe("encoder").model).tuning == LastLayer(rate_factor=0.5)


def test_all_weights_learn_by_default(tiny_bert):
    nlp = spacy.blank("en")
    pipe = nlp.add_pipe("bertft_encoder", config={"model": {"name": str(tiny_bert)}})
    assert shim_of(pipe.model).tuning == FullTuning()


def test_an_unknown_name_is_an_error_that_lists_those_there_are(tiny_bert):
    with pytest.raises(RegistryError, match=r"'spacy-bertft\.ThawedTuning\.v1'[\s\S]*spacy-bertft\.FrozenTuning\.v1"):
        pipeline(tiny_bert, {"@misc": "spacy-bertft.ThawedTuning.v1"})


@pytest.mark.parametrize("name", ["Frozen", "Full"])
def test_a_setting_that_it_does_not_have_is_an_error(tiny_bert, name):
    with pytest.raises(ConfigValidationError, match=r"encoder\.tuning -> layers"):
        pipeline(tiny_bert, {"@misc": f"spacy-bertft.{name}Tuning.v1", "layers": 3})


@pytest.mark.parametrize("tuning", ["frozen", None])
def test_what_is_no_tuning_is_an_error(tiny_bert, tuning):
    with pytest.raises(ConfigValidationError, match="tuning"):
        pipeline(tiny_bert, tuning)
