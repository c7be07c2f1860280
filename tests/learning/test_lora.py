"""LoRA: what is trained, what is saved, and that every engine sees the same numbers."""

from __future__ import annotations

import sys

import pipelines
import pytest
import spacy
import torch
from encoders import encoder_of
from pipelines import HEADS, TEXTS, annotations, examples, module_of, weights
from safetensors.torch import load_file
from tiny import FAMILIES

from spacy_bertft.components.doc_texts import texts_of
from spacy_bertft.engines.fused import FusedEngine
from spacy_bertft.engines.transformers import TransformersEngine
from spacy_bertft.errors import ConfigError
from spacy_bertft.export import export
from spacy_bertft.learning.lora import LoraTuning

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

LORA = {"@misc": "spacy-bertft.LoraTuning.v1", "rank": 4}


def initialized(folder, **settings):
    return pipelines.initialized(folder, component={"tuning": LORA | settings})


def learned(nlp, steps=5):
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 1e-2
    for _ in range(steps):
        nlp.update(examples(nlp), sgd=optimizer)
    nlp.get_pipe("encoder").settle()
    return nlp


def parts(nlp):
    named = dict(module_of(nlp, "encoder").named_parameters())
    return {n for n in named if "lora_" in n}, {n for n in named if "lora_" not in n}


def test_only_the_added_matrices_are_trained(tiny_bert):
    nlp = initialized(tiny_bert)
    learned(nlp, steps=1)
    added, own = parts(nlp)
    before = weights(nlp, "encoder")
    learned(nlp)
    after = weights(nlp, "encoder")
    assert {name for name in own if not before[name].equal(after[name])} == set()
    assert added <= {name for name in added if not before[name].equal(after[name])}
    # a matrix A and B for each of six linear maps in each of two layers; none in the pooler
    assert len(added) == 2 * 6 * 2
    assert not any("pooler" in name for name in added)


def test_it_changes_nothing_before_it_is_trained(tiny_bert):
    nlp = initialized(tiny_bert)
    docs = [nlp.make_doc(text) for text in TEXTS]
    before = nlp.get_pipe("encoder").predict(docs).hidden
    nlp.update(examples(nlp), sgd=False)
    nlp.get_pipe("encoder").settle()
    assert parts(nlp)[0]
    torch.testing.assert_close(nlp.get_pipe("encoder").predict(docs).hidden, before)


def test_all_engines_see_the_sum(tiny_bert):
    nlp = learned(initialized(tiny_bert))
    docs = [nlp.make_doc(text) for text in TEXTS]
    encoder = module_of(nlp, "encoder").eval()
    assert isinstance(encoder.engine(), TransformersEngine)
    with torch.enable_grad():
        by_matrices = encoder(texts_of(docs))
    found = encoder.predict(texts_of(docs))
    with torch.no_grad():
        assert isinstance(encoder.engine(), FusedEngine)
    torch.testing.assert_close(found.hidden[found.rows], by_matrices.hidden[by_matrices.rows], atol=1e-4, rtol=1e-4)
    plain = initialized(tiny_bert).get_pipe("encoder").predict(docs).hidden
    assert not torch.allclose(found.hidden, plain, atol=1e-2)


@pytest.mark.parametrize("way", ["disk", "bytes"])
def test_a_saved_pipeline_is_an_ordinary_one(tiny_bert, tmp_path, monkeypatch, way):
    nlp = learned(initialized(tiny_bert))
    nlp.to_disk(tmp_path)
    names = set(load_file(tmp_path / "encoder/encoder/model.safetensors"))
    assert names == set(load_file(tiny_bert / "model.safetensors"))
    monkeypatch.setitem(sys.modules, "peft", None)
    if way == "disk":
        again = spacy.load(tmp_path)
    else:
        again = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    for text in TEXTS:
        torch.testing.assert_close(
            torch.tensor(list(again(text).cats.values())), torch.tensor(list(nlp(text).cats.values()))
        )
        assert annotations(again(text))[0] == annotations(nlp(text))[0]


def test_training_goes_on_with_new_matrices(tiny_bert, tmp_path):
    learned(initialized(tiny_bert)).to_disk(tmp_path)
    nlp = spacy.load(tmp_path)
    before = {key: value.clone() for key, value in module_of(nlp, "encoder").weights().items()}
    nlp.resume_training()
    learned(nlp)
    added, _ = parts(nlp)
    assert added
    after = module_of(nlp, "encoder").weights()
    changed = {key for key in before if not before[key].equal(after[key])}
    assert changed == {
        key
        for key in before
        if (".layer." in key and "dense.weight" in key) or ("attention.self" in key and "weight" in key)
    }


def test_a_run_resumes_bit_for_bit(tiny_bert):
    one, two = initialized(tiny_bert), initialized(tiny_bert)
    learned(one, steps=3)
    for name in ("encoder", *HEADS):
        state = {key: value.clone() for key, value in one.get_pipe(name).training_state().items()}
        two.get_pipe(name).load_training_state(state)
    for nlp in (one, two):
        torch.manual_seed(1)
        learned(nlp, steps=2)
    first, second = weights(one, "encoder"), weights(two, "encoder")
    assert first.keys() == second.keys()
    assert all(value.equal(second[name]) for name, value in first.items())


@pytest.mark.slow
def test_it_exports(tiny_bert, tmp_path):
    nlp = learned(initialized(tiny_bert))
    nlp.to_disk(tmp_path / "trained")
    export(tmp_path / "trained", tmp_path / "onnx")
    exported = spacy.load(tmp_path / "onnx")
    for text in TEXTS:
        torch.testing.assert_close(
            torch.tensor(list(exported(text).cats.values())),
            torch.tensor(list(nlp(text).cats.values())),
            atol=1e-4,
            rtol=1e-4,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_linear_maps_to_add_to(tiny_encoder, family):
    encoder = encoder_of(tiny_encoder(family))
    before = {name for name, _ in encoder.named_parameters()}
    texts = texts_of([spacy.blank("en")(TEXTS[0])])
    expected = encoder.predict(texts).hidden
    tuning = LoraTuning(rank=2)
    tuning.prepare(encoder)
    tuning.prepare(encoder)  # once
    (group,) = tuning.groups(encoder)
    assert len(group.parameters) >= 2 * 4
    assert {name.replace("model.", "", 1) for name in before} >= set(encoder.weights())
    torch.testing.assert_close(encoder.predict(texts).hidden, expected)


def test_targets(tiny_bert):
    encoder = encoder_of(tiny_bert)
    LoraTuning(targets=["query", "attention.output.dense"]).prepare(encoder)
    added = {name.split(".lora_")[0] for name, _ in encoder.named_parameters() if "lora_" in name}
    assert added == {
        f"model.encoder.layer.{layer}.attention.{part}" for layer in (0, 1) for part in ("self.query", "output.dense")
    }


def test_a_target_that_matches_nothing_lists_what_there_is(tiny_bert):
    nlp = initialized(tiny_bert, targets=["query", "q_lin"])
    with pytest.raises(ConfigError, match=r"'q_lin' of LoraTuning matches no linear map.*: dense, key, query, value"):
        learned(nlp)


def test_without_peft_the_extra_is_named(tiny_bert, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r'needs peft.*extra "lora"'):
        initialized(tiny_bert)


@pytest.mark.parametrize("settings", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"rate_factor": -1}])
def test_settings_out_of_range(settings):
    (name,) = settings
    with pytest.raises(ConfigError, match=f"The {name} of LoraTuning is"):
        LoraTuning(**settings)
