"""Heads of pipelines as checkpoints: the same again if imported, the same logits if trained here."""

from __future__ import annotations

import json
import shutil

import pytest
import spacy
import torch
import transformers
from checkpoints import make_checkpoint, named, plain_logits
from encoders import TRANSFORMERS_5
from pipelines import TEXTS, blank, examples, initialized, trained
from safetensors.torch import load_file
from tiny import FAMILIES

from spacy_bertft import from_huggingface, pair_doc
from spacy_bertft.components.doc_values import set_value
from spacy_bertft.errors import ConfigError
from spacy_bertft.export import export_huggingface
from spacy_bertft.jobs.huggingface import write as module

pytestmark = pytest.mark.touches_transformers

TASKS = ["ner", "textcat", "multilabel", "regression", "qa", "fill-mask"]
PAIR = ("Where does Anna live?", "Anna lives in Berlin.")


def exported(nlp, tmp_path):
    """What was exported, and the folder."""
    nlp.to_disk(tmp_path / "pipeline")
    return export_huggingface(tmp_path / "pipeline", tmp_path / "out"), tmp_path / "out"


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same_checkpoint(one, two):
    """transformers 4 writes loaded special tokens in another way, and some of its heads for words lose a bias."""
    if TRANSFORMERS_5:
        assert files_of(one) == files_of(two)
        return
    configs = [json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (one, two)]
    assert configs[0] == {key: value for key, value in configs[1].items() if not key.startswith("_")}
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (one, two))
    assert mine.keys() == theirs.keys()
    other = {name for name, tensor in mine.items() if not torch.equal(tensor, theirs[name])}
    assert other <= {"lm_head.bias", "predictions.bias"}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_imported_checkpoint_is_the_same_again(tmp_path, family, task):
    folder = make_checkpoint(tmp_path / "c", family, task)
    (one,), out = exported(from_huggingface(str(folder)), tmp_path)
    assert one.folder.parent == out
    assert one.architecture == json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    assert_same_checkpoint(one.folder, folder)


@pytest.mark.parametrize(
    "labels",
    [("O", "S-PER", "E-PER", "B-PER"), ("PER", "O", "LOC"), ("B-LOC", "I-LOC", "I-PER", "O"), ("LABEL_0", "LABEL_1")],
)
def test_labels_come_back_as_they_were(tmp_path, labels):
    folder = make_checkpoint(tmp_path / "c", "bert-cased", "ner", **named(labels))
    outside = "O" if "O" in labels else labels[0]
    (one,), _ = exported(from_huggingface(str(folder), outside=outside), tmp_path)
    assert one.labels == labels
    assert files_of(one.folder) == files_of(folder)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_modernbert_s_pooling_comes_back(tmp_path, pooling):
    folder = make_checkpoint(tmp_path / "c", "modernbert", "textcat", classifier_pooling=pooling)
    (one,), _ = exported(from_huggingface(str(folder)), tmp_path)
    assert_same_checkpoint(one.folder, folder)


def test_each_head_of_a_trained_pipeline_is_a_checkpoint(tiny_bert, tmp_path):
    nlp = trained(tiny_bert)
    both, out = exported(nlp, tmp_path)
    assert [one.component for one in both] == ["ner", "textcat"]
    assert [one.architecture for one in both] == ["BertForTokenClassification", "BertForSequenceClassification"]
    assert max(one.difference for one in both) < 1e-4
    tags = transformers.pipeline("token-classification", str(out / "ner"), aggregation_strategy="first")
    kinds = transformers.pipeline("text-classification", str(out / "textcat"))
    for text in TEXTS:
        doc = nlp(text)
        found = kinds(text, top_k=None)
        assert {one["label"]: one["score"] for one in found} == pytest.approx(doc.cats, abs=1e-4)
        ents = [(ent.label_, ent.start_char, ent.end_char) for ent in doc.ents]
        assert [(one["entity_group"], one["start"], one["end"]) for one in tags(text)] == ents


@pytest.mark.parametrize(
    ("family", "settings"),
    [("distilbert", {"activation": "relu"}), ("electra", {"activation": "gelu"}), ("roberta", {}),
     ("deberta-v2", {"activation": "tanh"}), ("albert", {}),
     ("modernbert", {"activation": "relu", "norm_eps": 1e-5, "hidden_bias": False, "pooling": "mean_all"})],
)  # fmt: skip
def test_a_head_that_suits_the_family_is_exported(tiny_encoder, tmp_path, family, settings):
    nlp = blank(tiny_encoder(family), {})
    nlp.add_pipe("bertft_textcat", name="textcat", config=settings)
    nlp.initialize(lambda: examples(nlp))
    nlp.update(examples(nlp), sgd=nlp.create_optimizer())
    _, out = exported(nlp, tmp_path)
    expected = plain_logits(out / "textcat", "textcat", TEXTS[0]).softmax(0).tolist()
    assert list(nlp(TEXTS[0]).cats.values()) == pytest.approx(expected, abs=1e-4)


def test_temperature_and_unknown_category_are_in_the_output_layer(tiny_bert, tmp_path):
    nlp = blank(tiny_bert, {})
    settings = {"temperature": 2.0, "unknown_label": "other", "unknown_threshold": 0.3}
    nlp.add_pipe("bertft_textcat", name="textcat", config=settings)
    nlp.initialize(lambda: examples(nlp))
    (one,), out = exported(nlp, tmp_path)
    assert one.labels == ("home", "work", "other")
    expected = plain_logits(out / "textcat", "textcat", TEXTS[0]).softmax(0).tolist()
    assert list(nlp(TEXTS[0]).cats.values()) == pytest.approx(expected, abs=1e-5)


def test_numbers_are_in_their_own_unit(tiny_bert, tmp_path):
    nlp = blank(tiny_bert, {"rating": "bertft_regression"})
    egs = examples(nlp)
    for number, eg in enumerate(egs):
        set_value(eg.reference, 10.0 + 3 * number)
    nlp.initialize(lambda: egs)
    _, out = exported(nlp, tmp_path)
    found = plain_logits(out / "rating", "regression", TEXTS[0]).item()
    assert nlp(TEXTS[0])._.value == pytest.approx(found, abs=1e-3)
    assert json.loads((out / "rating/config.json").read_text(encoding="utf-8")).get("problem_type") in (
        None,
        "regression",
    )


def test_multilabel_says_so(tiny_bert, tmp_path):
    _, out = exported(initialized(tiny_bert, {"cats": "bertft_textcat_multilabel"}), tmp_path)
    config = json.loads((out / "cats/config.json").read_text(encoding="utf-8"))
    assert config["problem_type"] == "multi_label_classification"
    assert from_huggingface(str(out / "cats")).pipe_names == ["encoder", "textcat_multilabel"]


def test_pairs_are_the_same_again(tmp_path):
    folder = make_checkpoint(tmp_path / "c", "bert-uncased", "pair")
    nlp = from_huggingface(str(folder), pairs=True)
    (one,), _ = exported(nlp, tmp_path)
    assert files_of(one.folder) == files_of(folder)
    expected = plain_logits(one.folder, "pair", *PAIR).softmax(0).tolist()
    assert list(nlp(pair_doc(nlp, *PAIR)).cats.values()) == pytest.approx(expected, abs=1e-4)


def test_a_label_added_later_is_exported(tmp_path):
    nlp = from_huggingface(str(make_checkpoint(tmp_path / "c", "bert-uncased", "ner")))
    nlp.get_pipe("ner").add_label("DATE")
    (one,), _ = exported(nlp, tmp_path)
    assert one.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER", "B-DATE", "I-DATE")
    assert load_file(one.folder / "model.safetensors")["classifier.weight"].shape[0] == 7
    assert one.difference < 1e-4


# --- what is refused


@pytest.mark.parametrize(
    ("family", "factory", "settings", "said"),
    [
        ("distilbert", "bertft_textcat", {}, r'has activation = "tanh".*Expected activation = "relu".*DistilBertForS'),
        ("electra", "bertft_textcat", {}, r'Expected activation = "gelu", norm_eps = null.*ElectraForSequence'),
        ("modernbert", "bertft_ner", {}, r'has activation = null.*Expected activation = "gelu", norm_eps = 1e-05'),
        ("bert-uncased", "bertft_textcat", {"pooling": "mean"}, r"has pooling = 'mean'\. Expected 'cls'"),
        ("bert-uncased", "bertft_ner", {"pooling": "mean"}, r"has pooling = 'mean'\. Expected 'cls', or 'first'"),
    ],
)
def test_a_head_that_the_family_can_t_express(tiny_encoder, tmp_path, family, factory, settings, said):
    nlp = blank(tiny_encoder(family), {})
    nlp.add_pipe(factory, name="head", config=settings)
    nlp.initialize(lambda: examples(nlp))
    with pytest.raises(ConfigError, match=said):
        exported(nlp, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_pipeline_without_a_head(tiny_bert, tmp_path):
    nlp = blank(tiny_bert, {})
    nlp.initialize(lambda: examples(nlp))
    with pytest.raises(ConfigError, match=r"has no head of this package \(found: encoder\)"):
        exported(nlp, tmp_path)


def test_a_head_without_weights(tiny_bert, tmp_path):
    nlp = initialized(tiny_bert, {"ner": "bertft_ner"})
    nlp.add_pipe("bertft_textcat", name="later")
    with pytest.raises(ConfigError, match=r"'later' has no weights yet"):
        exported(nlp, tmp_path)


def test_a_folder_with_something_else(tiny_bert, tmp_path):
    initialized(tiny_bert).to_disk(tmp_path / "pipeline")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"holds something other than exported checkpoints \(notes.txt\)"):
        export_huggingface(tmp_path / "pipeline", tmp_path / "out", overwrite=True)


def test_an_earlier_export_is_replaced_only_if_asked(tiny_bert, tmp_path):
    nlp = initialized(tiny_bert, {"ner": "bertft_ner"})
    _, out = exported(nlp, tmp_path)
    with pytest.raises(ConfigError, match="holds exported checkpoints already"):
        export_huggingface(tmp_path / "pipeline", out)
    shutil.rmtree(out / "ner")
    (out / "old").mkdir()
    (out / "old/config.json").write_text("{}", encoding="utf-8")
    export_huggingface(tmp_path / "pipeline", out, overwrite=True)
    assert [path.name for path in out.iterdir()] == ["ner"]


def test_other_logits_are_noticed(tiny_bert, tmp_path, monkeypatch):
    usual = module.to_theirs
    monkeypatch.setattr(module, "to_theirs", lambda *args: {key: 2 * it for key, it in usual(*args).items()})
    with pytest.raises(ValueError, match="logits of the pipeline and of transformers' model differ"):
        exported(initialized(tiny_bert), tmp_path)
    assert not (tmp_path / "out").exists()


def test_spacy_loads_what_was_exported_and_imported_again(tiny_bert, tmp_path):
    nlp = trained(tiny_bert, {"ner": "bertft_ner"})
    _, out = exported(nlp, tmp_path)
    from_huggingface(str(out / "ner")).to_disk(tmp_path / "again")
    again = spacy.load(tmp_path / "again")
    for text in TEXTS:
        assert [(ent.text, ent.label_) for ent in again(text).ents] == [
            (ent.text, ent.label_) for ent in nlp(text).ents
        ]
