"""Weights that are missing, too many, of another model, or no numbers."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
import transformers
from encoders import encoder_of, rewrite
from pipelines import TEXTS, annotations, trained
from safetensors.torch import load_file, save_file
from tiny import make_encoder

from spacy_bertft.compat import quiet_transformers
from spacy_bertft.components.encoder_pipe import ENCODER_FOLDER
from spacy_bertft.encoder.weights_check import check_sizes, listed, not_finite
from spacy_bertft.errors import EncoderError

pytestmark = pytest.mark.touches_transformers
FAMILIES = ["bert-uncased", "albert"]  # one that engines/family_weights.py knows, and one that it doesn't


@pytest.fixture
def folder(tiny_bert, tmp_path):
    return shutil.copytree(tiny_bert, tmp_path / "copy")


@pytest.fixture(params=FAMILIES)
def pipeline(request, tiny_encoder, tmp_path):
    """The folder of a saved pipeline."""
    trained(tiny_encoder(request.param), steps=1).to_disk(tmp_path / "pipeline")
    return tmp_path / "pipeline"


def change(path, do):
    weights = load_file(path)
    save_file(do(weights), path, {"format": "pt"})


def load(pipeline):
    import spacy

    return spacy.load(pipeline)


def renamed(weights):
    return {f"model.{name}": tensor for name, tensor in weights.items()}


def without_a_layer(weights):
    lost = sorted(name for name in weights if "pooler" not in name)[-2:]
    return {name: tensor for name, tensor in weights.items() if name not in lost}


def with_others(weights):
    return {**weights, "encoder.layer.7.extra.weight": torch.ones(2)}


@pytest.mark.parametrize("do", [renamed, without_a_layer, with_others])
def test_a_saved_encoder_with_other_weights_does_not_load(pipeline, do):
    """It loaded with random weights, and a mere warning."""
    change(pipeline / "encoder" / ENCODER_FOLDER / "model.safetensors", do)
    with pytest.raises(EncoderError, match=r"saved encoder '.*' do not match its \w+: found \d+ of \d+ parameters"):
        load(pipeline)


def test_a_saved_encoder_may_have_no_pooler(pipeline):
    """Neither here nor in the fine-tuned models of transformers."""
    nlp = load(pipeline)
    expected = [annotations(doc) for doc in nlp.pipe(TEXTS)]
    path = pipeline / "encoder" / ENCODER_FOLDER / "model.safetensors"
    change(path, lambda weights: {name: tensor for name, tensor in weights.items() if "pooler" not in name})
    assert [annotations(doc) for doc in load(pipeline).pipe(TEXTS)] == expected


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_do_not_load(pipeline, number):
    def spoil(weights):
        name = next(name for name in weights if "query" in name or "attention" in name)
        weights[name].view(-1)[3] = number
        return weights

    change(pipeline / "encoder" / ENCODER_FOLDER / "model.safetensors", spoil)
    with pytest.raises(EncoderError, match=r"hold NaN or infinite numbers, in \S+(query|attention).*Expected finite"):
        load(pipeline)


def test_weights_of_another_kind_of_model_do_not_load(folder):
    change(folder / "model.safetensors", renamed)
    with pytest.raises(EncoderError, match=r"hold none of the \d+ parameters of BertModel \(found: model\."):
        encoder_of(folder)


def test_some_weights_that_are_missing_are_a_warning_with_counts(folder):
    change(folder / "model.safetensors", without_a_layer)
    with pytest.warns(UserWarning, match=r"lack 2 parameters of BertModel, .*Expected all \d+, of a checkpoint"):
        encoder_of(folder)


@pytest.mark.parametrize(
    ("head", "labels"),
    [
        ("AutoModelForTokenClassification", {0: "O", 1: "B-PER", 2: "I-PER"}),
        ("AutoModelForSequenceClassification", {0: "ham", 1: "spam"}),
        ("AutoModelForQuestionAnswering", {0: "LABEL_0", 1: "LABEL_1"}),
    ],
)
@pytest.mark.parametrize("family", ["bert-uncased", "distilbert"])
def test_a_fine_tuned_head_is_not_dropped_without_a_word(tiny_encoder, tmp_path, family, head, labels):
    folder = shutil.copytree(tiny_encoder(family), tmp_path / "copy")
    config = transformers.AutoConfig.from_pretrained(folder, id2label=labels)
    with quiet_transformers():
        getattr(transformers, head).from_config(config).save_pretrained(folder)
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    said = re.escape(f"is a fine-tuned {kind} (labels: {', '.join(labels.values())})")
    with pytest.warns(UserWarning, match=said + r".*start at random\. Train them; to use .*`bertft import`") as caught:
        encoder_of(folder)
    assert len(caught) == 1


def test_nor_is_the_head_of_a_checkpoint_that_does_not_say_what_it_is(tmp_path):
    make_encoder(tmp_path, "bert-uncased", head="AutoModelForTokenClassification")
    rewrite(tmp_path / "config.json", architectures=None)
    with pytest.warns(UserWarning, match=r"a fine-tuned checkpoint with a head .*classifier\.bias.*`bertft import`"):
        encoder_of(tmp_path)


def test_a_pretrained_checkpoint_with_its_masked_lm_head_is_no_reason_to_warn(tiny_encoder, tmp_path):
    folder = shutil.copytree(tiny_encoder("bert-uncased"), tmp_path / "copy")
    config = transformers.AutoConfig.from_pretrained(folder)
    with quiet_transformers():
        transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    encoder_of(folder)  # warnings are errors in tests


def test_long_lists_of_names_are_cut():
    assert listed([]) == "nothing"
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(number) for number in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"


# --- sizes


@pytest.mark.parametrize("family", ["albert", "modernbert", "deberta-v2", "bert-uncased", "roberta", "electra"])
def test_sizes_as_they_were_saved_pass(tiny_encoder, family):
    checkpoint = encoder_of(tiny_encoder(family)).at_rest()
    check_sizes("here", checkpoint.config, checkpoint.weights)


@pytest.mark.parametrize("family", ["albert", "modernbert", "deberta-v2"])
@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "intermediate_size", "num_hidden_layers"])
def test_sizes_that_no_weight_has_are_refused_for_all_families(tiny_encoder, family, key):
    checkpoint = encoder_of(tiny_encoder(family)).at_rest()
    said = rf"config\.json of the saved encoder 'here' does not fit its weights: {key} is 1000000.*Expected .*Undo"
    with pytest.raises(EncoderError, match=said):
        check_sizes("here", {**checkpoint.config, key: 10**6}, checkpoint.weights)


@pytest.mark.parametrize("found", [-2, 10**3, 10**9])
def test_a_padding_behind_the_last_position_is_refused(tiny_encoder, found):
    checkpoint = encoder_of(tiny_encoder("roberta")).at_rest()
    with pytest.raises(EncoderError, match=rf"pad_token_id is {found}, after the last position"):
        check_sizes("here", {**checkpoint.config, "pad_token_id": found}, checkpoint.weights)


def test_numbers_that_are_none_are_named():
    numbers = {"fine": torch.ones(3), "broken": torch.tensor([1.0, float("nan")]), "large": torch.full((9,), 3e38)}
    assert not_finite(numbers) == ["broken"]
