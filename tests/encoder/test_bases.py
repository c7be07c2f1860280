"""Adapters: saved without the encoder that they belong to, which several of them share."""

from __future__ import annotations

import json
import pickle
import shutil
import sys

import pipelines
import pytest
import spacy
import torch
from encoders import CAN_PACK, SENTENCE, error_of, rewrite, texts_of
from pipelines import HEADS, TEXTS, annotations, blank, examples, module_of
from safetensors.torch import load_file, save_file
from tiny import FAMILIES

from spacy_bertft.encoder.bases import load_for_adapter
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.engines.fused import FusedEngine
from spacy_bertft.engines.transformers import TransformersEngine
from spacy_bertft.errors import ConfigError, EncoderError
from spacy_bertft.export import export

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

LORA = {"@misc": "spacy-bertft.LoraTuning.v1", "rank": 4, "save": "adapter"}
FILES = {"adapter_config.json", "adapter_base.json", "adapter_model.safetensors"} | {
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def learned(nlp, steps=5):
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 1e-2
    for _ in range(steps):
        nlp.update(examples(nlp), sgd=optimizer)
    for name in nlp.pipe_names:
        if "encoder" in name:
            nlp.get_pipe(name).settle()
    return nlp


def trained(folder, steps=5, **settings):
    torch.manual_seed(0)
    return learned(pipelines.initialized(folder, component={"tuning": LORA | settings}), steps)


@pytest.fixture
def base(tiny_bert, tmp_path):
    """A copy of the encoder, which the tests may change."""
    return shutil.copytree(tiny_bert, tmp_path / "base")


@pytest.fixture
def saved(base, tmp_path):
    trained(base).to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def all_annotations(nlp):
    return [annotations(nlp(text)) for text in TEXTS]


def assert_same(one, other):
    for text in TEXTS:
        found, expected = one(text), other(text)
        assert annotations(found)[0] == annotations(expected)[0]
        assert found.cats == pytest.approx(expected.cats, abs=1e-5)


def test_the_matrices_alone_are_saved(base, saved):
    folder = saved / "encoder/encoder"
    assert {path.name for path in folder.iterdir()} >= FILES
    assert not (folder / "model.safetensors").exists()
    assert (folder / "adapter_model.safetensors").stat().st_size < (base / "model.safetensors").stat().st_size / 2
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert len(config["target_modules"]) == 12


def test_a_loaded_pipeline_gives_the_same_on_our_own_engine_without_peft(base, saved, monkeypatch):
    expected = trained(base)
    monkeypatch.setitem(sys.modules, "peft", None)
    nlp = spacy.load(saved)
    assert_same(nlp, expected)
    encoder = module_of(nlp, "encoder")
    with torch.no_grad():
        assert isinstance(encoder.engine(), FusedEngine)
    plain = load_for_adapter(str(base), EncoderSettings(device="cpu")).predict(texts_of([SENTENCE])).hidden
    assert not torch.allclose(encoder.predict(texts_of([SENTENCE])).hidden, plain, atol=1e-2)


@torch.no_grad()
def test_encoders_share_an_engine_with_those_of_their_precision(base, saved):
    def encoder(precision):
        settings = {"components.encoder.model.precision": precision}
        return module_of(spacy.load(saved, config=settings), "encoder")

    full, half, other = encoder("float32"), encoder("bfloat16"), encoder("bfloat16")
    texts = texts_of([SENTENCE])
    expected = full.predict(texts).hidden
    assert full.shared is half.shared is other.shared
    assert 0 < error_of(half.predict(texts).hidden, expected) < 0.02
    assert torch.equal(full.predict(texts).hidden, expected)
    assert torch.equal(half.predict(texts).hidden, other.predict(texts).hidden)
    assert {half: engine.dtype for half, engine in full.shared.engines.items()} == {
        False: torch.float32,
        True: torch.bfloat16,
    }


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft
def test_peft_loads_it_too(base, saved):
    from peft import PeftModel
    from transformers import AutoModel

    model = PeftModel.from_pretrained(AutoModel.from_pretrained(base), saved / "encoder/encoder").eval()
    nlp = spacy.load(saved)
    encoder = module_of(nlp, "encoder")
    ids = torch.tensor([encoder.tokenizer.encode(SENTENCE).ids])
    expected = encoder.predict(texts_of([SENTENCE]))
    with torch.no_grad():
        found = model(input_ids=ids).last_hidden_state[0]
    torch.testing.assert_close(found[1:-1], expected.hidden[expected.rows], rtol=1e-4, atol=1e-4)


def test_training_continues_with_the_same_matrices(base, saved, tmp_path):
    nlp = spacy.load(saved)
    before = {name: (one.down.clone(), one.up.clone()) for name, one in module_of(nlp, "encoder").updates.items()}
    shared = {name: weight.clone() for name, weight in module_of(nlp, "encoder").shared.items()}
    nlp.resume_training()
    learned(nlp)
    after = module_of(nlp, "encoder").updates
    assert after.keys() == before.keys()
    assert all(not one.up.equal(before[name][1]) for name, one in after.items())
    assert all(len(one.down) == 4 for one in after.values())
    assert all(weight.equal(shared[name]) for name, weight in module_of(nlp, "encoder").shared.items())
    nlp.to_disk(tmp_path / "again")
    assert_same(spacy.load(tmp_path / "again"), nlp)


def two(folder):
    """Two heads, each on an encoder with an adapter of its own."""
    nlp = spacy.blank("en")
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": str(folder), "device": "cpu"}
    for name, factory in HEADS.items():
        nlp.add_pipe("bertft_encoder", name=f"{name}_encoder", config={"model": model, "tuning": LORA})
        nlp.add_pipe(factory, name=name, config={"encoder": f"{name}_encoder"})
    torch.manual_seed(0)
    nlp.initialize(lambda: examples(nlp))
    return nlp


def test_several_adapters_share_one_base(base, tmp_path):
    nlp = learned(two(base))
    one, other = (module_of(nlp, f"{name}_encoder") for name in HEADS)
    assert one.shared is other.shared
    weights = dict(one.loaded.named_parameters()), dict(other.loaded.named_parameters())
    same = {name for name in weights[0] if weights[0][name].data_ptr() == weights[1][name].data_ptr()}
    assert same == {name for name in weights[0] if "lora_" not in name}  # in training too
    nlp.to_disk(tmp_path / "two")
    again = spacy.load(tmp_path / "two")
    assert_same(again, nlp)
    one, other = (module_of(again, f"{name}_encoder") for name in HEADS)
    assert one.shared is other.shared
    assert one.loaded is other.loaded is None  # transformers' model was not needed
    engines = [encoder._engines.choose(encoder, learning=False) for encoder in (one, other)]
    assert engines[0].net is engines[1].net
    size = sum(path.stat().st_size for path in (tmp_path / "two").rglob("adapter_model.safetensors"))
    assert size < (base / "model.safetensors").stat().st_size


@pytest.mark.parametrize("way", ["bytes", "pickle", "source", "processes"])
def test_it_survives(base, saved, way, tmp_path):
    expected = spacy.load(saved)
    if way == "bytes":
        nlp = spacy.blank("en").from_config(expected.config).from_bytes(expected.to_bytes())
    elif way == "pickle":
        nlp = spacy.load(saved)
        for name in nlp.pipe_names:
            copied = pickle.loads(pickle.dumps(nlp.get_pipe(name)))
            if name == "encoder":
                assert copied.encoder.updates.keys() == nlp.get_pipe(name).encoder.updates.keys()
        return
    elif way == "source":
        nlp = spacy.blank("en")
        for name in expected.pipe_names:
            nlp.add_pipe(name, source=spacy.load(saved))
        nlp.to_disk(tmp_path / "sourced")
        nlp = spacy.load(tmp_path / "sourced")
    else:
        found = [annotations(doc) for doc in expected.pipe(TEXTS, n_process=2, batch_size=2)]
        assert [one[0] for one in found] == [one[0] for one in all_annotations(expected)]
        return
    assert_same(nlp, expected)


def test_it_exports(saved, tmp_path):
    export(saved, tmp_path / "onnx")
    exported, nlp = spacy.load(tmp_path / "onnx"), spacy.load(saved)
    for text in TEXTS:
        assert exported(text).cats == pytest.approx(nlp(text).cats, abs=1e-4)


def test_another_tuning_leaves_the_base_alone(base, saved, tmp_path):
    other = spacy.load(saved)
    nlp = spacy.load(saved, config={"components.encoder.tuning": {"@misc": "spacy-bertft.FullTuning.v1"}})
    assert_same(nlp, other)
    before = {name: weight.clone() for name, weight in module_of(other, "encoder").shared.items()}
    learned(nlp)
    assert module_of(nlp, "encoder").shared is None
    assert all(weight.equal(before[name]) for name, weight in module_of(other, "encoder").shared.items())
    nlp.to_disk(tmp_path / "whole")
    shutil.rmtree(base)
    assert_same(spacy.load(tmp_path / "whole"), nlp)


def test_a_frozen_adapter_stays_one(saved, tmp_path):
    nlp = spacy.load(saved, config={"components.encoder.tuning": {"@misc": "spacy-bertft.FrozenTuning.v1"}})
    learned(nlp)
    nlp.to_disk(tmp_path / "frozen")
    assert not list((tmp_path / "frozen").rglob("encoder/model.safetensors"))
    assert_same(spacy.load(tmp_path / "frozen"), nlp)


@pytest.mark.parametrize("first", ["adapter", "merged"])
def test_a_save_in_the_other_form_leaves_nothing_of_the_first(base, tmp_path, first):
    folder = tmp_path / "model"
    trained(base, save=first).to_disk(folder)
    nlp = trained(base, steps=7, save={"adapter": "merged", "merged": "adapter"}[first])
    nlp.to_disk(folder)
    names = {path.name for path in (folder / "encoder/encoder").iterdir()}
    assert ("model.safetensors" in names) is (first == "adapter")
    assert ("adapter_config.json" in names) is (first == "merged")
    assert_same(spacy.load(folder), nlp)


def test_an_untrained_adapter_is_saved(base, tmp_path):
    nlp = pipelines.initialized(base, component={"tuning": LORA})
    nlp.to_disk(tmp_path / "new")
    again = spacy.load(tmp_path / "new")
    assert_same(again, nlp)
    learned(again)
    assert len(module_of(again, "encoder").updates) == 12


def test_a_run_resumes_bit_for_bit(base):
    one, other = (trained(base, steps=0) for _ in range(2))
    learned(one, 3)
    for name in ("encoder", *HEADS):
        state = {key: value.clone() for key, value in one.get_pipe(name).training_state().items()}
        other.get_pipe(name).load_training_state(state)
    for nlp in (one, other):
        torch.manual_seed(1)
        learned(nlp, 2)
    first, second = (module_of(nlp, "encoder").updates for nlp in (one, other))
    assert all(update.up.equal(second[name].up) for name, update in first.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(tiny_encoder, family, tmp_path):
    nlp = trained(tiny_encoder(family), steps=2)
    nlp.to_disk(tmp_path / "model")
    again = spacy.load(tmp_path / "model")
    assert_same(again, nlp)
    with torch.enable_grad():
        assert isinstance(module_of(again, "encoder").engine(), TransformersEngine)
    assert module_of(again, "encoder").packed is (family in CAN_PACK)


def test_the_tokenizer_is_that_of_the_saved_pipeline(base, saved):
    before = all_annotations(spacy.load(saved))
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = not tokenizer["normalizer"]["lowercase"]
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert all_annotations(spacy.load(saved)) == before
    (saved / "encoder/encoder/tokenizer.json").unlink()
    with pytest.raises(EncoderError, match=r"holds no tokenizer\.json"):
        spacy.load(saved)


def test_other_files_of_the_base_stay_there(base, tmp_path):
    (base / "optimizer.pt").write_bytes(b"0" * 100)
    trained(base, steps=1).to_disk(tmp_path / "saved")
    assert not list((tmp_path / "saved").rglob("optimizer.pt"))
    assert spacy.load(tmp_path / "saved")


def test_dropout_applies_to_a_loaded_adapter_too(base, tmp_path):
    trained(base, dropout=0.5).to_disk(tmp_path / "saved")
    nlp = learned(spacy.load(tmp_path / "saved"), 1)
    layer = module_of(nlp, "encoder").model.encoder.layer[0].attention.self.query
    assert layer.lora_dropout["default"].p == 0.5


def test_a_save_id_follows_the_matrices(base, tmp_path):
    nlp = trained(base)
    nlp.to_disk(tmp_path / "one")
    first = nlp.get_pipe("encoder").save_id
    nlp.to_disk(tmp_path / "two")
    assert nlp.get_pipe("encoder").save_id == first
    learned(nlp, 1).to_disk(tmp_path / "three")
    assert nlp.get_pipe("encoder").save_id not in (None, first)
    assert spacy.load(tmp_path / "three").get_pipe("encoder").save_id == nlp.get_pipe("encoder").save_id


def test_a_training_state_leaves_the_base_alone(base, saved):
    one, other = spacy.load(saved), spacy.load(saved)
    state = learned(one).get_pipe("encoder").training_state()
    names = {name for name in state if name.startswith("weights/")}
    assert names
    assert all("lora_" in name for name in names)
    shared = {name: weight.clone() for name, weight in module_of(other, "encoder").shared.items()}
    other.get_pipe("encoder").load_training_state(state)
    assert all(weight.equal(shared[name]) for name, weight in module_of(other, "encoder").shared.items())


def test_a_teacher_shares_the_base(base, saved):
    nlp = spacy.load(saved)
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 1e-2
    nlp.update(examples(nlp), sgd=optimizer)
    (teacher,) = {nlp.get_pipe(name)._teacher.frozen for name in HEADS}
    assert teacher.copied
    assert teacher.encoder.shared is module_of(nlp, "encoder").shared
    assert_same_encoder(teacher.encoder, spacy.load(saved))
    losses = nlp.rehearse(examples(nlp), sgd=optimizer)
    assert losses["ner"] > 0


def assert_same_encoder(encoder, nlp):
    found, expected = (one.predict(texts_of(TEXTS)).hidden for one in (encoder, module_of(nlp, "encoder")))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# --- what is refused


def test_an_adapter_is_not_saved_over_its_base(base, tmp_path):
    trained(base, save="merged").to_disk(tmp_path / "whole")
    nlp = trained(tmp_path / "whole/encoder/encoder")
    with pytest.raises(ConfigError, match="would be saved over the encoder that it belongs to"):
        nlp.to_disk(tmp_path / "whole")
    assert (tmp_path / "whole/encoder/encoder/model.safetensors").is_file()


def test_a_saved_adapter_continues_with_its_rank(saved):
    nlp = spacy.load(saved, config={"components.encoder.tuning.rank": 8})
    with pytest.raises(ConfigError, match=r"adapter has rank 4 and alpha 16, but LoraTuning has 8 and 16"):
        learned(nlp)


def test_a_damaged_base_is_a_clear_error(base, saved):
    (base / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(EncoderError, match="could not be loaded"):
        spacy.load(saved)


def test_an_adapter_for_other_weights_is_refused(base, saved):
    weights = load_file(base / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"] += 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=r"was trained on other weights than those of '.*base' here"):
        spacy.load(saved)


def test_a_base_that_is_gone_is_named(base, saved):
    shutil.rmtree(base)
    with pytest.raises(EncoderError, match=r"needs '.*base', the encoder .* save = \"merged\" needs no other encoder"):
        spacy.load(saved)


def test_weights_that_were_saved_whole_have_no_adapter(base, tmp_path):
    trained(base, save="merged").to_disk(tmp_path / "whole")
    with pytest.raises(ConfigError, match=r'save of LoraTuning is "adapter", but the encoder in .* whole weights'):
        spacy.load(tmp_path / "whole", config={"components.encoder.tuning.save": "adapter"})


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 0},
        {"r": "x"},
        {"lora_alpha": float("nan")},
        {"base_model_name_or_path": 3},
        {"lora_alpha": -1},
        {"revision": []},
    ],
    ids=str,
)
def test_a_damaged_config(saved, changes):
    rewrite(saved / "encoder/encoder/adapter_config.json", **changes)
    with pytest.raises(EncoderError, match=r"adapter_config\.json of an adapter can't be used"):
        spacy.load(saved)


@pytest.mark.parametrize("content", ["", "[]", "{", "null"])
def test_a_config_that_is_no_object(saved, content):
    (saved / "encoder/encoder/adapter_config.json").write_text(content)
    with pytest.raises(EncoderError, match=r"adapter_config\.json of an adapter can't be used"):
        spacy.load(saved)


@pytest.mark.parametrize("content", ["", "[]", "{}", None])
def test_an_adapter_without_its_bases_digest(saved, content):
    path = saved / "encoder/encoder/adapter_base.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(EncoderError, match=r"adapter_base\.json of an adapter can't be used"):
        spacy.load(saved)


def spoil(kind, tensors):
    name = next(name for name in tensors if "lora_B" in name)
    if kind == "missing":
        del tensors[name]
    elif kind == "size":
        tensors[name] = torch.zeros(3, 4)
    elif kind == "nan":
        tensors[name][0, 0] = torch.nan
    elif kind == "rank":
        for other in [one for one in tensors if "query" in one]:
            tensors[other] = tensors[other][:2] if "lora_A" in other else tensors[other][:, :2].contiguous()
    elif kind == "pooler":
        for part, size in (("A", (4, 32)), ("B", (32, 4))):
            tensors[f"base_model.model.pooler.dense.lora_{part}.weight"] = torch.zeros(size)
    elif kind == "name":
        for part in "AB":
            tensors[f"base_model.model.nothing.lora_{part}.weight"] = torch.zeros(2, 2)


@pytest.mark.parametrize("kind", ["missing", "size", "nan", "name", "rank", "pooler"])
def test_damaged_matrices(saved, kind):
    path = saved / "encoder/encoder/adapter_model.safetensors"
    tensors = load_file(path)
    spoil(kind, tensors)
    save_file(tensors, path)
    with pytest.raises(EncoderError, match=r"adapter_model\.safetensors of an adapter can't be used"):
        spacy.load(saved)


def test_a_file_of_matrices_that_is_cut_off(saved):
    path = saved / "encoder/encoder/adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(EncoderError, match=r"adapter_model\.safetensors of an adapter can't be used"):
        spacy.load(saved)


def test_without_peft_training_names_the_extra(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    nlp = spacy.load(saved)
    with pytest.raises(ConfigError, match=r'needs peft.*extra "lora"'):
        learned(nlp)
    with pytest.raises(ConfigError, match=r'needs peft.*extra "lora"'):
        blank(json.loads((saved / "encoder/encoder/adapter_config.json").read_text())["base_model_name_or_path"],
              component={"tuning": LORA}).initialize(lambda: examples(nlp))  # fmt: skip
