"""What spaCy promises of a trainable component, asked of ours."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
from pipelines import (
    ANNOTATED,
    HEADS,
    TEXTS,
    about,
    annotations,
    blank,
    examples,
    initialized,
    trained,
    weights,
)
from safetensors.torch import load_file
from spacy.cli.debug_data import debug_data
from spacy.cli.train import train
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training import Example
from spacy.util import load_config, registry

from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.learning.shim import shim_of

pytestmark = pytest.mark.touches_transformers

MULTILABEL = {"textcat": "bertft_textcat_multilabel"}


def _annotations(nlp, **options):
    return [annotations(doc) for doc in nlp.pipe(TEXTS, **options)]


# --- saving and loading


def test_disk_gives_back_the_same_pipeline(tiny_bert, tmp_path):
    nlp = trained(tiny_bert)
    nlp.to_disk(tmp_path / "model")
    loaded = spacy.load(tmp_path / "model")
    assert _annotations(loaded) == _annotations(nlp)
    for name in ("encoder", *HEADS):
        assert all(torch.equal(value, weights(nlp, name)[key]) for key, value in weights(loaded, name).items())
    files = {path.name for path in (tmp_path / "model/encoder/encoder").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files


def test_a_saved_pipeline_does_not_need_the_encoder_it_came_from(tiny_encoder, tmp_path):
    source = shutil.copytree(tiny_encoder("bert-cased"), tmp_path / "source")
    nlp = initialized(source)
    nlp.to_disk(tmp_path / "model")
    shutil.rmtree(source)
    assert _annotations(spacy.load(tmp_path / "model")) == _annotations(nlp)


def test_bytes_give_back_the_same_pipeline(tiny_bert):
    nlp = trained(tiny_bert)
    assert _annotations(blank(tiny_bert).from_bytes(nlp.to_bytes())) == _annotations(nlp)


def test_a_saved_pipeline_trains_on(tiny_bert, tmp_path):
    trained(tiny_bert).to_disk(tmp_path / "model")
    nlp = spacy.load(tmp_path / "model")
    before = weights(nlp, "encoder")
    nlp.update(examples(nlp), sgd=nlp.resume_training())
    after = weights(nlp, "encoder")
    assert any(not value.equal(after[key]) for key, value in before.items())


def test_a_config_round_trip_gives_the_same_components(tiny_bert):
    nlp = blank(tiny_bert, window=32, overlap=4)
    twin = spacy.util.load_model_from_config(nlp.config, auto_fill=True)
    assert twin.config["components"] == nlp.config["components"]
    assert twin.get_pipe("encoder").model.attrs["settings"].window == 32


def test_settings_that_dont_fit_the_saved_weights_are_an_error(tiny_bert, tmp_path):
    trained(tiny_bert, {"ner": "bertft_ner"}).to_disk(tmp_path / "model")
    config = {"components.ner.scheme": "biluo"}
    with pytest.raises(ConfigError, match=r"don't fit its settings.*biluo.*Undo the change"):
        spacy.load(tmp_path / "model", config=config)


def test_copies_of_a_model_have_weights_of_their_own(tiny_bert):
    nlp = trained(tiny_bert)
    model = nlp.get_pipe("ner").model
    twin = model.copy()
    with torch.no_grad():
        shim_of(twin).module.output.bias.add_(1.0)
    assert not torch.equal(shim_of(twin).module.output.bias, shim_of(model).module.output.bias)
    assert twin.from_bytes(model.to_bytes())
    assert torch.equal(shim_of(twin).module.output.bias, shim_of(model).module.output.bias)


# --- labels


@pytest.mark.parametrize("name", HEADS)
def test_labels_come_sorted_from_the_examples(tiny_bert, name):
    pipe = initialized(tiny_bert).get_pipe(name)
    expected = {"ner": ("CITY", "PERSON"), "textcat": ("home", "work")}[name]
    assert pipe.labels == expected
    assert pipe.label_data == list(expected)


def test_labels_from_a_file_keep_their_order(tiny_bert, tmp_path):
    nlp = blank(tiny_bert)
    (tmp_path / "ner.json").write_text('["PERSON", "PLANET", "CITY"]')
    nlp.config["initialize"]["components"]["ner"] = {
        "labels": {"@readers": "spacy.read_labels.v1", "path": str(tmp_path / "ner.json")}
    }
    nlp.initialize(lambda: examples(nlp))
    assert nlp.get_pipe("ner").labels == ("PERSON", "PLANET", "CITY")


def test_labels_added_by_hand_are_enough_to_initialize(tiny_bert):
    nlp = blank(tiny_bert)
    for name, labels in {"ner": ["B", "A"], "textcat": ["y", "x"]}.items():
        for label in labels:
            nlp.get_pipe(name).add_label(label)
    nlp.initialize()
    assert nlp.get_pipe("ner").labels == ("B", "A")
    assert set(nlp("A text").cats) == {"x", "y"}


def test_a_label_added_to_a_loaded_head_leaves_what_it_knows(tiny_bert, tmp_path):
    trained(tiny_bert).to_disk(tmp_path)
    nlp = spacy.load(tmp_path)  # whose heads have no modules yet
    pipe = nlp.get_pipe("ner")
    doc = nlp.make_doc(TEXTS[0])
    before = pipe.predict([doc]).logits
    assert pipe.add_label("PLANET") == 1
    after = pipe.predict([doc]).logits
    assert after.shape[1] == before.shape[1] + 2
    np.testing.assert_allclose(after[:, : before.shape[1]], before, atol=1e-5)


def test_a_label_that_is_no_text_is_an_error(tiny_bert):
    with pytest.raises(DataError, match="expected a non-empty string"):
        blank(tiny_bert).get_pipe("ner").add_label(3)


# --- pipelines


def test_select_pipes_switches_a_head_off_and_on(tiny_bert):
    nlp = trained(tiny_bert)
    with nlp.select_pipes(disable="ner"):
        assert not nlp(TEXTS[1]).ents
    assert nlp(TEXTS[1]).ents


def test_components_can_be_sourced_into_another_pipeline(tiny_bert, tmp_path):
    source = trained(tiny_bert)
    expected = _annotations(source)
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("encoder", source=source, name="bert")
    nlp.add_pipe("ner", source=source)
    nlp.add_pipe("textcat", source=source, name="topic")
    assert nlp.get_pipe("bert").listening_components == ["ner", "topic"]
    assert _annotations(nlp) == expected
    nlp.to_disk(tmp_path / "model")
    assert _annotations(spacy.load(tmp_path / "model")) == expected


def test_a_head_sourced_beside_another_encoder_leaves_the_first_pipeline_as_it_was(tiny_bert, tiny_encoder):
    source = trained(tiny_bert)
    expected = _annotations(source)
    other = blank(tiny_encoder("bert-cased"), {})
    other.initialize()
    other.add_pipe("ner", source=source)
    assert _annotations(source) == expected


def test_components_can_be_renamed_and_removed(tiny_bert):
    nlp = trained(tiny_bert)
    expected = annotations(nlp(TEXTS[1]))[0]
    nlp.rename_pipe("encoder", "bert")
    nlp.rename_pipe("ner", "names")
    nlp.remove_pipe("textcat")
    assert annotations(nlp(TEXTS[1])) == (expected, {})
    assert nlp.get_pipe("bert").listening_components == ["names"]


def test_a_config_that_sources_components_trains_them_on(tiny_bert, tmp_path):
    trained(tiny_bert).to_disk(tmp_path / "model")
    nlp = spacy.util.load_model_from_config(
        spacy.Config(
            {
                "nlp": {"lang": "en", "pipeline": ["encoder", "ner"]},
                "components": {name: {"source": str(tmp_path / "model")} for name in ("encoder", "ner")},
            }
        ),
        auto_fill=True,
    )
    assert annotations(nlp(TEXTS[1]))[0] == annotations(spacy.load(tmp_path / "model")(TEXTS[1]))[0]


def test_pipe_takes_tuples(tiny_bert):
    nlp = trained(tiny_bert)
    pairs = list(nlp.pipe([(text, place) for place, text in enumerate(TEXTS)], as_tuples=True, batch_size=4))
    assert [place for _, place in pairs] == list(range(len(TEXTS)))
    assert [annotations(doc) for doc, _ in pairs] == _annotations(nlp)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_give_the_same_annotations(tiny_bert, method, monkeypatch):
    nlp = trained(tiny_bert)
    expected = _annotations(nlp)
    context = multiprocessing.get_context(method)
    monkeypatch.setattr("spacy.language.mp", context)
    assert _annotations(nlp, n_process=2, batch_size=2) == about(expected)


@Language.component("thread_counter")
def count_threads(doc):
    doc.user_data["threads"] = torch.get_num_threads()
    return doc


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_each_worker_process_computes_on_one_thread(tiny_bert, method, monkeypatch):
    nlp = trained(tiny_bert)
    nlp.add_pipe("thread_counter")
    monkeypatch.setattr("spacy.language.mp", multiprocessing.get_context(method))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        docs = list(nlp.pipe(TEXTS, n_process=2, batch_size=2))
    finally:
        torch.set_num_threads(before)
    assert [doc.user_data["threads"] for doc in docs] == [1] * len(TEXTS)


def test_components_pickle_without_their_torch_modules(tiny_bert):
    nlp = trained(tiny_bert)
    expected = _annotations(nlp)
    components = pickle.loads(pickle.dumps(list(nlp.pipeline)))
    nlp = spacy.blank("en")
    nlp._components.extend(components)
    nlp._link_components()
    assert _annotations(nlp) == expected


def test_an_error_handler_lets_other_batches_through(tiny_bert):
    nlp = trained(tiny_bert)
    failed = []
    nlp.set_error_handler(lambda name, proc, docs, error: failed.extend((name, doc.text) for doc in docs))
    task = nlp.get_pipe("ner").task

    class Failing(type(task)):
        def annotate(self, docs, *rest):
            if any("Clara" in doc.text for doc in docs):
                raise RuntimeError("no")
            super().annotate(docs, *rest)

    nlp.get_pipe("ner").task = Failing()
    docs = list(nlp.pipe(TEXTS, batch_size=1))
    assert failed == [("ner", TEXTS[3])]
    assert [doc.text for doc in docs] == TEXTS[:3] + TEXTS[4:]


def test_pipes_are_analysed(tiny_bert):
    analysis = blank(tiny_bert).analyze_pipes()
    assert "doc.ents" in analysis["summary"]["ner"]["assigns"]
    assert analysis["summary"]["textcat"]["scores"]


def test_scores_are_spacys(tiny_bert):
    nlp = trained(tiny_bert)
    scores = nlp.evaluate(examples(nlp))
    assert scores["ents_p"] == scores["ents_r"] == scores["ents_f"] == 1.0
    assert set(scores["ents_per_type"]) == {"CITY", "PERSON"}
    assert scores["cats_score"] == scores["cats_micro_f"] == 1.0


# --- spacy train


def _corpus(nlp, path):
    docs = []
    for eg in examples(nlp):
        docs.append(eg.reference)
    DocBin(docs=docs).to_disk(path)
    return path


def _train(tmp_path, encoder, output, name="ner_textcat", **overrides):
    corpus = _corpus(spacy.blank("en"), tmp_path / "corpus.spacy")
    train(
        f"configs/{name}.cfg",
        tmp_path / output,
        overrides={
            "paths.train": str(corpus),
            "paths.dev": str(corpus),
            "components.encoder.model.name": str(encoder),
            "training.max_steps": 12,
            "training.max_epochs": 0,
            "training.eval_frequency": 6,
            "training.batcher.size": 3,
            **overrides,
        },
    )
    return tmp_path / output / "model-last"


@pytest.mark.slow
def test_two_runs_of_spacy_train_give_the_same_weights_bit_for_bit(tiny_bert, tmp_path):
    one, other = (_train(tmp_path, tiny_bert, output) for output in ("one", "other"))
    files = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert len(files) == 3
    for file in files:
        assert (one / file).read_bytes() == (other / file).read_bytes()


def test_another_seed_gives_other_weights(tiny_bert, tmp_path):
    one = _train(tmp_path, tiny_bert, "one")
    other = _train(tmp_path, tiny_bert, "other", **{"system.seed": 1})
    assert (one / "ner/model.safetensors").read_bytes() != (other / "ner/model.safetensors").read_bytes()


@pytest.mark.slow
def test_spacy_train_reports_losses_and_saves_what_it_scored(tiny_bert, tmp_path):
    settings = {"training.max_steps": 60, "training.max_epochs": 0, "training.optimizer.learn_rate.initial_rate": 3e-3}
    nlp = spacy.load(_train(tmp_path, tiny_bert, "out", **settings))
    assert nlp.meta["performance"]["ents_f"] == pytest.approx(nlp.evaluate(examples(nlp))["ents_f"])
    assert nlp.meta["performance"]["ner_loss"] > 0
    assert nlp.meta["performance"]["encoder_loss"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("annotating", [[], ["encoder"]])
def test_spacy_train_with_a_frozen_encoder(tiny_bert, tmp_path, annotating):
    first = _train(tmp_path, tiny_bert, "first")
    config = load_config("configs/ner_textcat.cfg")
    config["components"]["encoder"] = {"source": str(first)}
    config["training"] |= {"frozen_components": ["encoder"], "annotating_components": annotating, "max_steps": 4}
    corpus = str(tmp_path / "corpus.spacy")
    config["paths"] |= {"train": corpus, "dev": corpus}
    config.to_disk(tmp_path / "frozen.cfg")
    train(tmp_path / "frozen.cfg", tmp_path / "second")
    second = tmp_path / "second/model-last"
    weights_file = "encoder/encoder/model.safetensors"
    assert (second / weights_file).read_bytes() == (first / weights_file).read_bytes()
    assert (second / "ner/model.safetensors").read_bytes() != (first / "ner/model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ner", "textcat", "textcat_multilabel", "ner_textcat"])
def test_what_each_config_trains_can_be_trained_on_and_its_data_looked_at(tiny_bert, tmp_path, name, capsys):
    nlp = spacy.load(_train(tmp_path, tiny_bert, "out", name))
    before = weights(nlp, "encoder")
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 1e-3
    nlp.update(examples(nlp), sgd=optimizer)
    after = weights(nlp, "encoder")
    assert any(not value.equal(after[key]) for key, value in before.items())
    corpus = str(tmp_path / "corpus.spacy")
    overrides = {"paths.train": corpus, "paths.dev": corpus, "components.encoder.model.name": str(tiny_bert)}
    with suppress(SystemExit):  # it stops with 1 because texts of train and dev are the same
        debug_data(Path(f"configs/{name}.cfg"), config_overrides=overrides, silent=False)
    assert "Data file validation" in capsys.readouterr().out


def test_spacy_train_with_a_pretrained_encoder_that_stays_as_it_is(tiny_bert, tmp_path):
    model = _train(tmp_path, tiny_bert, "out", **{"training.frozen_components": ["encoder"]})
    found, expected = load_file(model / "encoder/encoder/model.safetensors"), load_file(tiny_bert / "model.safetensors")
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert spacy.load(model)(TEXTS[0]).cats


def test_all_names_are_registered():
    assert registry.architectures.get("spacy-bertft.Encoder.v1")
    for factory in ("bertft_encoder", "bertft_ner", "bertft_textcat", "bertft_textcat_multilabel"):
        assert spacy.blank("en").has_factory(factory)


def test_the_examples_of_these_tests_are_what_they_seem(tiny_bert):
    nlp = blank(tiny_bert)
    for eg, (text, entities, _) in zip(examples(nlp), ANNOTATED, strict=True):
        assert isinstance(eg, Example)
        assert [(ent.start_char, ent.end_char, ent.label_) for ent in eg.reference.ents] == entities
        assert eg.text == text


@pytest.mark.parametrize(("given", "trained", "frozen"), [(None, 1.0, 50.0), (3.0, 3.0, 3.0)])
def test_a_head_on_a_frozen_encoder_learns_faster_unless_its_rate_is_given(tiny_bert, given, trained, frozen):
    for exclude, expected in (([], trained), (["encoder"], frozen)):
        nlp = blank(tiny_bert, {})
        nlp.add_pipe("bertft_ner", name="ner", config={"learn_rate_factor": given})
        nlp.initialize(lambda nlp=nlp: examples(nlp))
        nlp.update(examples(nlp), sgd=nlp.create_optimizer(), exclude=exclude)
        assert shim_of(nlp.get_pipe("ner").model).optimizer.rate_factor == expected
