"""Encoders from folders, packages and saved pipelines: what is found, what is missing, what is imported for it."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys

import pytest
import torch
from encoders import SENTENCE, encoder_of, rewrite, texts_of
from pipelines import TEXTS, trained
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, WIDTH, make_encoder
from torch import nn
from transformers import AutoModel, AutoTokenizer

from spacy_bertft.encoder.folders import find_folder
from spacy_bertft.encoder.loading import load, load_saved, load_splitter
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.engines.family_names import FAMILIES as FUSED
from spacy_bertft.engines.fused import FusedEngine
from spacy_bertft.errors import EncoderError

pytestmark = pytest.mark.touches_transformers

CPU = {"device": "cpu"}


def remove(folder, *patterns):
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A copy of a tiny encoder, to be damaged."""
    return shutil.copytree(tiny_bert, tmp_path / "copy")


def test_load_takes_a_local_folder(tiny_bert):
    assert load(str(tiny_bert), EncoderSettings(**CPU)).width == WIDTH


def test_a_folder_is_loaded_without_the_hub_and_without_its_code(tiny_bert, monkeypatch):
    asked = []
    for auto in (AutoModel, AutoTokenizer):

        def spy(*args, original=auto.from_pretrained, **kwargs):
            asked.append((kwargs["local_files_only"], kwargs["trust_remote_code"]))
            return original(*args, **kwargs)

        monkeypatch.setattr(auto, "from_pretrained", spy)
    encoder_of(tiny_bert)
    assert asked == [(True, False)] * 2


def test_load_takes_a_folder_of_an_installed_package(tiny_bert, tmp_path, monkeypatch):
    package = tmp_path / "site" / "tiny_model_package"
    shutil.copytree(tiny_bert, package / "data" / "bert")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert find_folder("tiny_model_package/data/bert") == package / "data" / "bert"
    assert load("tiny_model_package/data/bert", EncoderSettings(**CPU)).width == WIDTH


def test_a_splitter_is_loaded_without_the_weights(folder):
    texts = [SENTENCE, "unfathomableness", ""]
    expected = encoder_of(folder).splitter.tokenize(texts)
    (folder / "model.safetensors").unlink()
    found = load_splitter(str(folder)).tokenize(texts)
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.counts.tolist() == expected.counts.tolist()


@pytest.mark.parametrize(
    ("name", "said"),
    [("nobody/no-such-encoder", "could not be loaded from the Hugging Face hub"), ("folder", "could not be loaded: ")],
)
def test_a_splitter_that_cant_be_loaded_is_an_error(folder, name, said):
    (folder / "tokenizer.json").write_text("{oops", encoding="utf-8")
    with pytest.raises(EncoderError, match=said):
        load_splitter(str(folder) if name == "folder" else name)


@pytest.mark.parametrize("name", ["nobody/no-such-encoder", "no-such-encoder", "spacy/no-such-folder"])
def test_unknown_name_says_what_was_tried(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EncoderError) as caught:
        load(name, EncoderSettings(**CPU))
    for part in (repr(name), str(tmp_path / name), "installed package", "Hugging Face hub", "Expected a hub name"):
        assert part in str(caught.value)


def test_folder_without_config_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(EncoderError, match=r"holds no config\.json \(found: .*model\.safetensors.*Expected.*Give its"):
        encoder_of(folder)


def test_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"holds no weights \(found: config\.json.*Expected one of .* Save the"):
        encoder_of(folder)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"garbage" * 100], ids=["cut off", "garbage"]
)
def test_damaged_weights_are_refused(folder, damage):
    weights = folder / "model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(EncoderError, match=r"could not be loaded: .*found: .*Expected .*Check"):
        encoder_of(folder)


@pytest.mark.parametrize("content", ["{oops", "{}"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_damaged_settings_are_refused(folder, file, content):
    (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(EncoderError, match=r"could not be loaded: .*found: .*Expected .*Check"):
        encoder_of(folder)


def test_weights_of_another_size_are_refused(folder):
    rewrite(folder / "config.json", hidden_size=2 * WIDTH)
    with pytest.raises(EncoderError, match=r"could not be loaded: .*Expected .*Check"):
        encoder_of(folder)


@pytest.mark.parametrize("family", ["bert-uncased", "roberta", "albert"])
def test_folder_without_tokenizer_is_refused(tiny_encoder, tmp_path, family):
    folder = shutil.copytree(tiny_encoder(family), tmp_path / "copy")
    remove(folder, "*token*", "vocab*", "merges*")
    with pytest.raises(EncoderError, match=r"Expected.*(tokenizer\.json|files of a fast tokenizer)"):
        encoder_of(folder)


def test_slow_tokenizer_is_refused(folder):
    remove(folder, "*token*", "vocab*")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}', encoding="utf-8")
    with pytest.raises(EncoderError, match=r"ByT5Tokenizer, which has no fast version\. Expected a fast .* Choose"):
        encoder_of(folder)


def test_missing_weights_are_warned_of_once(folder):
    weights = load_file(folder / "model.safetensors")
    lost = sorted(key for key in weights if "layer.1.output.dense" in key)
    save_file({key: weights[key] for key in weights.keys() - set(lost)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match="start at random") as caught:
        encoder_of(folder)
    assert len(caught) == 1
    assert f"lack 2 parameters of BertModel, which start at random: {', '.join(lost)}. Expected" in str(
        caught[0].message
    )


@pytest.mark.parametrize("family", ["bert-uncased", "albert"])
def test_pretrained_pooler_is_found(tiny_encoder, family):
    encoder = encoder_of(tiny_encoder(family))
    pooler = encoder.pooler()
    assert isinstance(pooler, nn.Linear)
    assert any(parameter is pooler.weight for parameter in encoder.parameters())


@pytest.mark.parametrize("family", ["distilbert", "electra", "modernbert", "deberta-v2"])
def test_family_without_pooler_has_none(tiny_encoder, family):
    assert encoder_of(tiny_encoder(family)).pooler() is None


@pytest.fixture(scope="module")
def without_pooler(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("mlm"), "bert-uncased", head="AutoModelForMaskedLM")


def test_checkpoint_without_pooler_has_none(without_pooler):
    assert encoder_of(without_pooler).pooler() is None


def test_checkpoint_without_pooler_has_none_after_saving(without_pooler, tmp_path):
    encoder_of(without_pooler).save(tmp_path / "saved")
    assert encoder_of(tmp_path / "saved").pooler() is None


# --- saved pipelines


def saved(folder, **settings):
    return load_saved(folder, EncoderSettings(**(CPU | settings))).eval()


@torch.no_grad()
def hidden(encoder):
    return encoder(texts_of([SENTENCE, "a"])).hidden


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert-cased", "deberta-v2"])
def test_a_saved_pipeline_is_loaded_and_used_without_heavy_imports(tiny_encoder, tmp_path, family):
    trained(tiny_encoder(family)).to_disk(tmp_path / "model")
    code = f"""
import spacy, sys
nlp = spacy.load({str(tmp_path / "model")!r})
docs = list(nlp.pipe({TEXTS!r}))
nlp.to_disk({str(tmp_path / "again")!r})
assert any(doc.ents for doc in docs)
print(sorted({{"transformers", "torch._dynamo", "onnx", "onnxruntime"}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    first, again = (tmp_path / name / "encoder/encoder/model.safetensors" for name in ("model", "again"))
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_encoder_gives_the_same_without_transformers(tiny_encoder, tmp_path, family):
    encoder = encoder_of(tiny_encoder(family))
    encoder.save(tmp_path / "saved")
    again = saved(tmp_path / "saved")
    known = "bert" if family.startswith("bert") else family
    assert (again.loaded is None) == (known in FUSED)
    torch.testing.assert_close(hidden(again), hidden(encoder), rtol=1e-5, atol=1e-5)
    assert (again.window, again.first_position) == (encoder.window, encoder.first_position)
    state = encoder.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in again.state_dict().items())


def test_an_encoder_saves_over_the_folder_that_it_is_mapped_from(tiny_bert, tmp_path):
    encoder_of(tiny_bert).save(tmp_path)
    encoder = saved(tmp_path)
    expected = hidden(copy.deepcopy(encoder))
    for _ in range(2):
        encoder.save(tmp_path)
    assert torch.equal(hidden(encoder), expected)
    assert torch.equal(hidden(saved(tmp_path)), expected)
    assert not list(tmp_path.glob("*.part"))


def test_a_missing_pooler_stays_missing(without_pooler, tmp_path):
    encoder_of(without_pooler).save(tmp_path)
    encoder = saved(tmp_path)
    assert encoder.loaded is None
    assert encoder.pooler() is None


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "silu"},  # engines/family_weights.py knows no such shape
        {"num_hidden_layers": 3},  # nor these weights
    ],
)
def test_an_unusual_config_is_left_to_transformers(tiny_bert, tmp_path, changes, monkeypatch):
    encoder_of(tiny_bert).save(tmp_path)
    rewrite(tmp_path / "config.json", **changes)
    asked = []
    monkeypatch.setattr(
        "spacy_bertft.encoder.loading.load_folder", lambda folder, settings, saved: asked.append(folder)
    )
    load_saved(tmp_path, EncoderSettings(**CPU))
    assert asked == [tmp_path]


def test_a_damaged_saved_encoder_is_an_error(tiny_bert, tmp_path):
    encoder_of(tiny_bert).save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"garbage" * 100)
    with pytest.raises(EncoderError, match=r"could not be loaded: .*Check that the copy is complete"):
        saved(tmp_path)


# --- one engine or another


def test_the_fused_engine_follows_what_the_model_learns(tiny_bert):
    encoder = encoder_of(tiny_bert)
    before = hidden(encoder)
    with torch.no_grad():
        engine = encoder.engine()
        assert isinstance(engine, FusedEngine)
        assert encoder.engine() is engine
        encoder.model.encoder.layer[0].output.dense.weight.mul_(2.0)
        assert encoder.engine() is not engine
    after = hidden(encoder)
    assert (after - before).abs().max() > 0.01
    plain = encoder_of(tiny_bert, batching="padded")
    plain.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(after, hidden(plain), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "grad", "training"),
    [
        ({}, True, False),
        ({}, False, True),
        ({"batching": "padded"}, False, False),
    ],
)
def test_transformers_model_runs_where_the_fused_engine_would_not_do(tiny_bert, settings, grad, training):
    encoder = encoder_of(tiny_bert, **settings).train(training)
    with torch.set_grad_enabled(grad):
        assert not isinstance(encoder.engine(), FusedEngine)


def test_hidden_rows_of_a_frozen_encoder_can_be_learned_on(tiny_bert):
    rows = hidden(encoder_of(tiny_bert))
    layer = nn.Linear(WIDTH, 2)
    layer(rows).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0


def test_copies_have_engines_of_their_own(tiny_bert):
    encoder = encoder_of(tiny_bert)
    expected = hidden(encoder)
    twin = copy.deepcopy(encoder)
    with torch.no_grad():
        encoder.model.encoder.layer[0].output.dense.weight.mul_(2.0)
    assert torch.equal(hidden(twin), expected)
