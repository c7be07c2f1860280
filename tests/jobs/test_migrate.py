"""From spacy-transformers to our encoder. What SPACY_BERTFT_OLD names is made by tests/peer/make_old.py."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import spacy
import srsly
import torch
from safetensors.torch import load_file
from spacy.cli.package import package
from spacy.training import Example
from spacy.util import fix_random_seed, load_config, registry, replace_model_node
from thinc.api import Model
from typer.testing import CliRunner

from spacy_bertft.cli import app
from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.components.listeners import Listener
from spacy_bertft.errors import BertftError
from spacy_bertft.jobs.migrate import build_stand_in, migrate

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

OLD = os.environ.get("SPACY_BERTFT_OLD")
MADE = sorted(Path(OLD).resolve().glob("*/old")) if OLD else []
WITHOUT = pytest.param(
    None, marks=pytest.mark.skip(reason="SPACY_BERTFT_OLD names no folder that tests/peer/make_old.py filled")
)
each = pytest.mark.parametrize("old", MADE or [WITHOUT], ids=[path.parent.name for path in MADE] or ["none"])


@cache
def _scratch() -> TemporaryDirectory[str]:
    return TemporaryDirectory()


@cache
def migrated(old: Path) -> Path:
    """The new folder of an old pipeline, made once."""
    new = Path(_scratch().name) / old.parent.name
    migrate(old, new)
    return new


def run(*args: object):
    return CliRunner().invoke(app, ["migrate", *map(str, args)], prog_name="bertft")


def wanted(old):
    return json.loads((old.parent / "want.json").read_text("utf-8"))


def check_says(nlp, want):
    """The same annotations; scores may differ by rounding."""
    for one in want:
        doc = nlp(one["doc"]["text"])
        found = doc.to_json()
        assert {**found, "spans": {}, "cats": {}} == one["doc"]
        assert doc.cats == pytest.approx(one["cats"], abs=1e-5)
        assert list(doc.spans) == list(one["spans"])
        for key, spans in one["spans"].items():
            assert [[span.start, span.end, span.label_] for span in doc.spans[key]] == spans["spans"]
            np.testing.assert_allclose(doc.spans[key].attrs.get("scores", ()), spans["scores"], atol=1e-5)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- pipelines that spacy-transformers made


@pytest.mark.skipif(not OLD, reason="SPACY_BERTFT_OLD is not set")
def test_the_folder_of_old_pipelines_is_filled():
    assert len(MADE) == 7


@each
def test_a_migrated_pipeline_says_what_the_old_one_said(old):
    nlp = spacy.load(migrated(old))
    want = wanted(old)
    assert any(one["doc"]["ents"] for one in want)
    check_says(nlp, want)
    filled = [one["doc"] for one in want if one["doc"]["text"]]  # spaCy's reduce_max takes no empty Doc in a batch
    in_one_batch = [doc.to_json()["tokens"] for doc in nlp.pipe(one["text"] for one in filled)]
    assert in_one_batch == [one["tokens"] for one in filled]


@each
def test_it_loads_in_a_process_that_has_no_spacy_transformers(old):
    code = f"""
import sys
sys.modules["spacy_transformers"] = None
import spacy
nlp = spacy.load({str(migrated(old))!r})
print([[ent.text, ent.label_] for ent in nlp("Bob Stone went to Rome, and Clara met Anna in the old office.").ents])
assert not [name for name in sys.modules if name.startswith("spacy_transformers.")]
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (want,) = (one["doc"] for one in wanted(old) if one["doc"]["text"].startswith("Bob Stone"))
    assert eval(done.stdout) == [[want["text"][ent["start"] : ent["end"]], ent["label"]] for ent in want["ents"]]


@each
def test_it_survives_disk_and_bytes(old, tmp_path):
    nlp = spacy.load(migrated(old))
    nlp.to_disk(tmp_path / "again")
    check_says(spacy.load(tmp_path / "again"), wanted(old))
    twin = spacy.util.load_model_from_config(nlp.config).from_bytes(nlp.to_bytes())
    check_says(twin, wanted(old))


@each
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # spaCy leaves files open
def test_its_package_requires_this_one_and_not_spacy_transformers(old, tmp_path):
    package(migrated(old), tmp_path, create_sdist=False, name="moved", version="1.0.0")
    meta = srsly.read_json(tmp_path / "en_moved-1.0.0" / "meta.json")
    names = [line.lower().replace("_", "-") for line in meta["requirements"]]
    assert any(name.startswith("spacy-bertft") for name in names)
    assert not any(name.startswith("spacy-transformers") for name in names)


@each
def test_its_config_has_nothing_of_spacy_transformers(old):
    text = (migrated(old) / "config.cfg").read_text("utf-8")
    assert "spacy-transformers" in (old / "config.cfg").read_text("utf-8")
    for gone in ("spacy-transformers", 'factory = "transformer"', "StandIn", "strided_spans", "span_getters"):
        assert gone not in text
    assert "spacy-transformers" not in spacy.load(migrated(old)).config.to_str()


@each
def test_the_weights_are_those_of_the_old_one(old):
    nlp = spacy.load(migrated(old))
    (pipe,) = (component for _, component in nlp.components if isinstance(component, EncoderPipe))
    saved = srsly.msgpack_loads((old / pipe.name / "model").read_bytes())["shims"]
    (shim,) = [srsly.msgpack_loads(content) for shims in saved for content in shims]
    state = torch.load(io.BytesIO(shim["state"]), weights_only=True)
    found = load_file(migrated(old) / pipe.name / "encoder" / "model.safetensors")
    assert {key for key in found if "position_ids" not in key} <= set(state)
    assert all(torch.equal(found[key], state[key]) for key in found)


@each
def test_it_trains_on_and_teaches_its_encoder(old):
    nlp = spacy.load(migrated(old))
    (name,) = (name for name, component in nlp.components if isinstance(component, EncoderPipe))
    ner = next(name for name in ("ner", "names") if name in nlp.pipe_names)
    fix_random_seed(0)
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 1e-3
    before = {key: value.clone() for key, value in nlp.get_pipe(name).encoder.state_dict().items()}
    text, entities = "Oslo is a garden", [(0, 4, "CITY")]
    first = last = None
    for _ in range(30):
        losses: dict[str, float] = {}
        nlp.update([Example.from_dict(nlp.make_doc(text), {"entities": entities})], sgd=optimizer, losses=losses)
        first, last = (losses[ner] if first is None else first), losses[ner]
    after = nlp.get_pipe(name).encoder.state_dict()
    assert last < first or first < 1e-3
    assert any(not torch.equal(before[key], after[key]) for key in before)


@each
def test_vocab_tokenizer_and_meta_data_are_kept(old):
    nlp = spacy.load(migrated(old))
    was, now = (srsly.read_json(folder / "meta.json") for folder in (old, migrated(old)))
    for key in ("lang", "name", "version", "description", "author", "email", "url", "license", "vectors"):
        assert now[key] == was[key]
    assert now["components"] == nlp.component_names
    assert now["labels"].keys() == set(nlp.component_names)
    assert {name: labels for name, labels in now["labels"].items() if labels} == {
        name: labels for name, labels in was["labels"].items() if labels
    }
    strings = srsly.read_json(old / "vocab" / "strings.json")
    assert all(text in nlp.vocab.strings for text in strings)
    fresh = spacy.blank("en").tokenizer.from_disk(old / "tokenizer")
    assert nlp.tokenizer.rules == fresh.rules


@each
def test_the_old_folder_is_left_as_it_was(old):
    before = files(old)
    migrate(old, migrated(old), overwrite=True)
    assert files(old) == before


@pytest.fixture
def varied():
    found = [old for old in MADE if old.parent.name == "varied"]
    if not found:
        pytest.skip("SPACY_BERTFT_OLD names no folder that tests/peer/make_old.py filled")
    return found[0]


def test_names_order_settings_and_disabled_components_are_kept(varied):
    nlp = spacy.load(migrated(varied))
    assert nlp.component_names == [
        "sentencizer",
        "trf",
        "tagger",
        "names",
        "entity_ruler",
        "off",
        "textcat_multilabel",
    ]
    assert nlp.disabled == ["off"]
    assert [token.text for token in nlp.make_doc("gimme")] == ["gim", "me"]
    assert "a string of its own" in nlp.vocab.strings
    np.testing.assert_array_equal(nlp.vocab.get_vector("garden"), np.arange(4, dtype="f"))
    assert nlp.config["components"]["tagger"]["model"]["tok2vec"] == {
        "@architectures": "spacy-bertft.Listener.v1",
        "pooling": "first",
        "upstream": "trf",
        "grad_factor": 0.5,
        "width": None,
    }
    assert nlp.config["components"]["textcat_multilabel"]["model"]["tok2vec"]["grad_factor"] == 0.0
    assert nlp.meta["requirements"] == ["tabulate>=0.8"]


def test_a_disabled_component_reads_the_encoder_when_it_is_enabled(varied):
    nlp = spacy.load(migrated(varied))
    nlp.enable_pipe("off")
    doc = nlp("Anna lives in Berlin.")
    assert [(span.text, span.label_) for span in doc.spans["sc"]] == [("Anna", "PERSON"), ("Berlin", "CITY")]


@each
def test_the_command_names_the_encoder_and_its_readers(old, tmp_path):
    result = run(old, tmp_path / "new")
    assert result.exit_code == 0, result.output
    nlp = spacy.load(tmp_path / "new")
    (pipe,) = (component for _, component in nlp.components if isinstance(component, EncoderPipe))
    blocks = {name: block.get("model", {}) for name, block in nlp.config["components"].items()}
    start, readers = result.stdout.removesuffix("\n").split(", read by ")
    assert start == f"✔ {tmp_path / 'new'}: the encoder {pipe.name}"
    assert {name for name in nlp.component_names if "Listener.v1" in str(blocks[name])} <= set(readers.split(", "))
    assert result.stderr.startswith("ℹ texts of more than 128 tokens were read in spans of 128;")
    assert len(result.stderr.splitlines()) == 1


# --- a pipeline made by hand, as spacy-transformers lays it out

TEXTS = ["Anna lives in Berlin", "Bob Stone went to Rome", "", " ", "A long meeting, Мама мыла раму."]
THEIR_LISTENER = {
    "@architectures": "spacy-transformers.TransformerListener.v1",
    "grad_factor": 1.0,
    "upstream": "*",
    "pooling": {"@layers": "reduce_mean.v1"},
}
THEIR_MODEL = {
    "@architectures": "spacy-transformers.TransformerModel.v3",
    "name": "some-bert",
    "mixed_precision": False,
    "get_spans": {"@span_getters": "spacy-transformers.strided_spans.v1", "window": 128, "stride": 96},
    "grad_scaler_config": {},
    "tokenizer_config": {"use_fast": True},
    "transformer_config": {},
}


def _torch_bytes(state, **settings):
    buffer = io.BytesIO()
    torch.save(state, buffer, **settings)
    return buffer.getvalue()


def _shim(encoder):
    """What spacy-transformers keeps of an encoder."""
    tokenizer = {path.name: path.read_bytes() for path in sorted(encoder.iterdir()) if "token" in path.name}
    return {
        "config": srsly.read_json(encoder / "config.json"),
        "state": _torch_bytes(load_file(encoder / "model.safetensors")),
        "tokenizer": {"kwargs": {"use_fast": True}, **tokenizer},
        "_init_tokenizer_config": {},
        "_init_transformer_config": {},
    }


def _model(shim):
    """The file of a transformer component."""
    nodes = [
        {"index": 0, "name": "transformer", "dims": {"nO": 32}, "refs": {}},
        {"index": 1, "name": "hf-pytorch", "dims": {"nI": None, "nO": None}, "refs": {}},
    ]
    shims = [[], [srsly.msgpack_dumps(shim)]]
    return srsly.msgpack_dumps({"nodes": nodes, "attrs": [{}, {}], "params": [{}, {}], "shims": shims})


def _change_shim(folder, change):
    path = folder / "transformer" / "model"
    (shim,) = srsly.msgpack_loads(path.read_bytes())["shims"][1]
    shim = srsly.msgpack_loads(shim)
    change(shim)
    path.write_bytes(_model(shim))


def _change_config(folder, change):
    config = load_config(folder / "config.cfg")
    change(config)
    config.to_disk(folder / "config.cfg")


def _readers(nlp):
    tagger = {"@architectures": "spacy.Tagger.v2", "tok2vec": {"@architectures": "spacy-bertft.Listener.v1"}}
    nlp.add_pipe("tagger", config={"model": tagger})
    cats = {"@architectures": "spacy.TextCatReduce.v1", "exclusive_classes": True, "tok2vec": tagger["tok2vec"]}
    cats |= {f"use_reduce_{how}": how == "mean" for how in ("first", "last", "max", "mean")}
    nlp.add_pipe("textcat", config={"model": cats})


@pytest.fixture(scope="module")
def made(tiny_bert, tmp_path_factory):
    """An old pipeline, and what a pipeline of ours with its weights says."""
    folder = tmp_path_factory.mktemp("handmade") / "old"
    nlp = spacy.blank("en")
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": str(tiny_bert), "device": "cpu"}
    nlp.add_pipe("bertft_encoder", name="transformer", config={"model": model})
    _readers(nlp)
    eg = Example.from_dict(nlp.make_doc(TEXTS[0]), {"tags": ["N", "V", "P", "N"], "cats": {"home": 1.0, "work": 0.0}})
    fix_random_seed(0)
    optimizer = nlp.initialize(lambda: [eg])
    optimizer.learn_rate = 1e-3
    for _ in range(3):
        nlp.update([eg], sgd=optimizer)
    said = [([token.tag_ for token in doc], doc.cats) for doc in map(nlp, TEXTS)]
    encoder = folder.parent / "encoder"
    nlp.get_pipe("transformer").encoder.save(encoder)
    for _, component in nlp.components:
        pipe_model = getattr(component, "model", None)
        for node in list(pipe_model.walk()) if isinstance(pipe_model, Model) else ():
            if isinstance(node, Listener):
                stand_in = build_stand_in(registry.layers.get("reduce_mean.v1")(), "mean")
                replace_model_node(pipe_model, node, stand_in)
    nlp.meta.update(name="handmade", requirements=["spacy-transformers>=1.1.2,<1.5.0"])
    nlp.to_disk(folder)
    shutil.rmtree(folder / "transformer")
    (folder / "transformer").mkdir()
    (folder / "transformer" / "model").write_bytes(_model(_shim(encoder)))
    srsly.write_json(folder / "transformer" / "cfg", {"max_batch_items": 4096})

    def to_theirs(config):
        for name in ("tagger", "textcat"):
            config["components"][name]["model"]["tok2vec"] = copy.deepcopy(THEIR_LISTENER)
        setter = {"@annotation_setters": "spacy-transformers.null_annotation_setter.v1"}
        config["components"]["transformer"] = {
            "factory": "transformer",
            "max_batch_items": 4096,
            "set_extra_annotations": setter,
            "model": copy.deepcopy(THEIR_MODEL),
        }

    _change_config(folder, to_theirs)
    return folder, said


@pytest.fixture
def old(made, tmp_path):
    """A copy of it to spoil."""
    return Path(shutil.copytree(made[0], tmp_path / "old"))


def test_a_handmade_pipeline_keeps_its_weights_and_annotations(made, tmp_path):
    folder, said = made
    done = migrate(folder, tmp_path / "new")
    assert (done.encoders, done.readers, done.windows) == (("transformer",), ("tagger", "textcat"), (128,))
    nlp = spacy.load(tmp_path / "new")
    assert (nlp.meta["name"], nlp.meta["requirements"]) == ("handmade", [])
    for text, (tags, cats) in zip(TEXTS, said, strict=True):
        doc = nlp(text)
        assert [token.tag_ for token in doc] == tags
        assert doc.cats == pytest.approx(cats, abs=1e-6)
    saved = load_file(folder.parent / "encoder" / "model.safetensors")
    found = load_file(tmp_path / "new" / "transformer" / "encoder" / "model.safetensors")
    assert saved.keys() == found.keys()
    assert all(torch.equal(saved[key], found[key]) for key in saved)


def test_a_migrated_pipeline_can_be_trained_on(made, tmp_path):
    migrate(made[0], tmp_path / "new")
    nlp = spacy.load(tmp_path / "new")
    optimizer = nlp.resume_training()
    before = {key: value.clone() for key, value in nlp.get_pipe("transformer").encoder.state_dict().items()}
    eg = Example.from_dict(nlp.make_doc(TEXTS[0]), {"tags": ["V", "N", "P", "N"], "cats": {"home": 0.0, "work": 1.0}})
    for _ in range(2):
        nlp.update([eg], sgd=optimizer)
    after = nlp.get_pipe("transformer").encoder.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_a_head_of_ours_can_be_added_to_it(made, tmp_path):
    migrate(made[0], tmp_path / "new")
    nlp = spacy.load(tmp_path / "new")
    tags = [[token.tag_ for token in nlp(text)] for text in TEXTS]
    eg = Example.from_dict(nlp.make_doc(TEXTS[0]), {"entities": [(0, 4, "PERSON"), (14, 20, "CITY")]})
    nlp.add_pipe("bertft_ner")
    with nlp.select_pipes(enable=["bertft_ner"]):
        nlp.get_pipe("bertft_ner").initialize(lambda: [eg], nlp=nlp)
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 3e-3
    for _ in range(30):
        nlp.update([eg], sgd=optimizer, exclude=["transformer", "tagger", "textcat"])
    assert [(ent.text, ent.label_) for ent in nlp(TEXTS[0]).ents] == [("Anna", "PERSON"), ("Berlin", "CITY")]
    assert [[token.tag_ for token in nlp(text)] for text in TEXTS] == tags


def test_the_first_subword_and_settings_of_listeners_are_kept(old, tmp_path):
    def change(config):
        listener = config["components"]["tagger"]["model"]["tok2vec"]
        listener.update(pooling={"@layers": "reduce_first.v1"}, grad_factor=0.25, upstream="transformer")

    _change_config(old, change)
    migrate(old, tmp_path / "new")
    nlp = spacy.load(tmp_path / "new")
    (listener,) = (node for node in nlp.get_pipe("tagger").model.walk() if isinstance(node, Listener))
    assert (listener.pooling, listener.grad_factor, listener.upstream) == ("first", 0.25, "transformer")


def test_a_pipeline_with_little_meta_data_is_migrated(old, tmp_path):
    meta = srsly.read_json(old / "meta.json")
    for key in ("requirements", "labels", "components", "pipeline"):
        meta.pop(key, None)
    srsly.write_json(old / "meta.json", meta)
    migrate(old, tmp_path / "new")
    assert spacy.load(tmp_path / "new").meta["name"] == "handmade"


def test_requirements_of_other_packages_and_odd_ones_are_kept(old, tmp_path):
    meta = srsly.read_json(old / "meta.json")
    meta["requirements"] = ["tabulate", "spacy_transformers[cuda]>=1", "-e ./here", "Spacy.Transformers"]
    srsly.write_json(old / "meta.json", meta)
    migrate(old, tmp_path / "new")
    assert srsly.read_json(tmp_path / "new" / "meta.json")["requirements"] == ["tabulate", "-e ./here"]


def test_weights_of_an_older_torch_file_are_read(made, old, tmp_path):
    state = load_file(made[0].parent / "encoder" / "model.safetensors")
    _change_shim(old, lambda shim: shim.update(state=_torch_bytes(state, _use_new_zipfile_serialization=False)))
    migrate(old, tmp_path / "new")
    found = load_file(tmp_path / "new" / "transformer" / "encoder" / "model.safetensors")
    assert all(torch.equal(state[key], found[key]) for key in state)


def test_weights_that_share_their_memory_are_read(made, old, tmp_path):
    state = load_file(made[0].parent / "encoder" / "model.safetensors")
    (key,) = (key for key in state if key.endswith("word_embeddings.weight"))
    _change_shim(old, lambda shim: shim.update(state=_torch_bytes({**state, "decoder.weight": state[key].T})))
    migrate(old, tmp_path / "new")
    found = load_file(tmp_path / "new" / "transformer" / "encoder" / "model.safetensors")
    assert torch.equal(found[key], state[key])


# --- what is refused


def _refused(old, new, match, *options):
    """The command refuses with one line, and nothing is written."""
    parent = Path(new).parent
    before, beside = (files(old) if old.is_dir() else None), sorted(parent.iterdir()) if parent.is_dir() else None
    there = (new.read_bytes() if new.is_file() else files(new)) if new.exists() else None
    result = run(old, new, *options)
    assert isinstance(result.exception, SystemExit), result.exception  # other errors than ours pass
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("✘ ")
    assert re.search(match, result.stderr), result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert (files(old) if old.is_dir() else None) == before
    assert (sorted(parent.iterdir()) if parent.is_dir() else None) == beside
    assert ((new.read_bytes() if new.is_file() else files(new)) if new.exists() else None) == there


def test_a_folder_without_config_is_refused(old, tmp_path):
    (old / "config.cfg").unlink()
    with pytest.raises(BertftError, match=r"found no config\.cfg"):
        migrate(old, tmp_path / "new")
    _refused(old, tmp_path / "new", r"found no config\.cfg; expected the folder of a saved pipeline")
    _refused(tmp_path / "nowhere", tmp_path / "new", r"found no config\.cfg")
    _refused(old / "meta.json", tmp_path / "new", r"found no config\.cfg")


def test_a_pipeline_without_transformer_is_refused(tmp_path):
    nlp = spacy.blank("en")
    nlp.to_disk(tmp_path / "empty")
    _refused(tmp_path / "empty", tmp_path / "new", "found no component of the factory 'transformer'")
    nlp.add_pipe("sentencizer")
    nlp.to_disk(tmp_path / "old")
    _refused(tmp_path / "old", tmp_path / "new", "found no component of the factory 'transformer' among sentencizer")


@pytest.mark.parametrize(
    "architecture",
    ["spacy-transformers.Tok2VecTransformer.v3", "spacy-curated-transformers.BertTransformer.v1", "my.Own.v1"],
)
def test_another_architecture_is_refused(old, tmp_path, architecture):
    _change_config(old, lambda c: c["components"]["transformer"]["model"].update({"@architectures": architecture}))
    _refused(old, tmp_path / "new", f"found the architecture '{architecture}' in component 'transformer'")


def test_a_transformer_inside_another_component_is_refused(old, tmp_path):
    own = {**THEIR_MODEL, "@architectures": "spacy-transformers.Tok2VecTransformer.v3"}
    _change_config(old, lambda c: c["components"]["tagger"]["model"].update(tok2vec=own))
    _refused(old, tmp_path / "new", r"uses .*spacy-transformers\.Tok2VecTransformer\.v3")


@pytest.mark.parametrize("pooling", ["reduce_max.v1", "reduce_last.v1", "my_own.v1"])
def test_another_pooling_is_refused(old, tmp_path, pooling):
    _change_config(old, lambda c: c["components"]["textcat"]["model"]["tok2vec"].update(pooling={"@layers": pooling}))
    _refused(old, tmp_path / "new", rf"pools by '{pooling}'; expected one of reduce_mean\.v1, reduce_first\.v1")


def test_what_is_left_of_spacy_transformers_elsewhere_is_refused(old, tmp_path):
    getter = {"@span_getters": "spacy-transformers.doc_spans.v1"}
    _change_config(old, lambda c: c["training"].update(before_update={"@callbacks": "my.v1", "get_spans": getter}))
    _refused(old, tmp_path / "new", r"The config uses spacy-transformers\.doc_spans\.v1")


@pytest.mark.parametrize("version", ["TransformerListener.v2", "TransformerTok2Vec.v1"])
def test_other_layers_of_theirs_are_refused(old, tmp_path, version):
    layer = {**THEIR_LISTENER, "@architectures": f"spacy-transformers.{version}"}
    _change_config(old, lambda c: c["components"]["tagger"]["model"].update(tok2vec=layer))
    _refused(old, tmp_path / "new", f"uses spacy-transformers.{version}")


def test_a_transformer_without_its_file_is_refused(old, tmp_path):
    (old / "transformer" / "model").unlink()
    _refused(old, tmp_path / "new", "model: found no such file")
    (old / "transformer" / "model").mkdir()
    _refused(old, tmp_path / "new", r"model: found a folder, as spacy-transformers 1\.0 wrote it")
    shutil.rmtree(old / "transformer")
    _refused(old, tmp_path / "new", "model: found no such file")


GARBAGE = {
    "nothing": b"",
    "text": b"not a model",
    "zeros": bytes(1000),
    "high": b"\xff" * 1000,
    "list": srsly.msgpack_dumps([1, 2]),
    "number": srsly.msgpack_dumps(7),
    "no shims": srsly.msgpack_dumps({"nodes": []}),
    "empty shims": srsly.msgpack_dumps({"shims": []}),
    "odd shims": srsly.msgpack_dumps({"shims": [[b"\xc1"], [7]]}),
    "text shims": srsly.msgpack_dumps({"shims": ["one", "two"]}),
    "no state": srsly.msgpack_dumps({"shims": [[srsly.msgpack_dumps({"state": b"", "config": {}})]]}),
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_a_file_of_other_bytes_is_refused(old, tmp_path, content):
    (old / "transformer" / "model").write_bytes(content)
    _refused(old, tmp_path / "new", "model: found no transformer that can be read")


@pytest.mark.parametrize("kept", [1, 10, 200, 0.1, 0.5, 0.9, -1])
def test_a_file_that_ends_early_is_refused(old, tmp_path, kept):
    path = old / "transformer" / "model"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    _refused(old, tmp_path / "new", "model: found no transformer that can be read")


@pytest.mark.parametrize("kept", [1, 30, 0.5, -1])
def test_weights_that_end_early_are_refused(old, tmp_path, kept):
    def change(shim):
        size = len(shim["state"])
        shim["state"] = shim["state"][: int(kept * size) if isinstance(kept, float) else kept]

    _change_shim(old, change)
    _refused(old, tmp_path / "new", "model: found no transformer that can be read")


class _Writes:
    """An object that would write a file if it were unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def _evil(marker):
    evil = {"embeddings.weight": torch.zeros(1), "more": _Writes(marker)}
    yield _torch_bytes(evil)
    yield _torch_bytes(evil, _use_new_zipfile_serialization=False)
    yield pickle.dumps(evil, protocol=2)


@pytest.mark.parametrize("kind", range(3), ids=["zip", "legacy", "pickle"])
def test_a_pickle_that_would_do_something_is_refused_and_not_run(old, tmp_path, kind):
    marker = tmp_path / "marker"
    state = list(_evil(marker))[kind]
    if kind < 2:
        torch.load(io.BytesIO(state), weights_only=False)
        assert marker.exists()
        marker.unlink()
    _change_shim(old, lambda shim: shim.update(state=state))
    _refused(old, tmp_path / "new", "model: found no transformer that can be read")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


SPOILED = {
    "no tokenizer": lambda shim: shim.pop("tokenizer"),
    "tokenizer a list": lambda shim: shim.update(tokenizer=[1]),
    "no config": lambda shim: shim.pop("config"),
    "a layer without weights": lambda shim: shim["config"].update(num_hidden_layers=3),
    "no weights": lambda shim: shim.update(state=_torch_bytes({})),
    "a tensor": lambda shim: shim.update(state=_torch_bytes(torch.zeros(3))),
    "no tensors": lambda shim: shim.update(state=_torch_bytes({"a": 1})),
    "numbers for names": lambda shim: shim.update(state=_torch_bytes({1: torch.zeros(1)})),
    "one byte": lambda shim: shim.update(state=b"\x80"),
    "a dot": lambda shim: shim.update(state=b"."),
}


@pytest.mark.parametrize("change", SPOILED.values(), ids=SPOILED)
def test_a_transformer_that_is_not_whole_is_refused(old, tmp_path, change):
    _change_shim(old, change)
    _refused(old, tmp_path / "new", "model: found no transformer that can be read")


def _without(*names):
    def change(config):
        for name in names[:-1]:
            config = config[name]
        config.pop(names[-1])

    return lambda old: _change_config(old, change)


BROKEN = {
    "empty config": lambda old: (old / "config.cfg").write_text(""),
    "config that is none": lambda old: (old / "config.cfg").write_text("[nlp\nx"),
    "config of bytes": lambda old: (old / "config.cfg").write_bytes(b"\xff\xfe\x00"),
    "no model": _without("components", "transformer", "model"),
    "no name": _without("components", "transformer", "model", "name"),
    "no pooling": _without("components", "tagger", "model", "tok2vec", "pooling"),
    "no tagger": lambda old: shutil.rmtree(old / "tagger"),
    "half a tagger": lambda old: (old / "tagger/model").write_bytes((old / "tagger/model").read_bytes()[:50]),
    "no tokenizer": lambda old: (old / "tokenizer").unlink(),
    "meta data a list": lambda old: (old / "meta.json").write_text("[]"),
    "meta data that is none": lambda old: (old / "meta.json").write_text("{"),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_pipeline_that_is_not_whole_is_refused(old, tmp_path, change):
    change(old)
    _refused(old, tmp_path / "new", "found a pipeline that can't be migrated")


def test_the_version_of_spacy_is_that_of_now(old, tmp_path):
    meta = srsly.read_json(old / "meta.json")
    srsly.write_json(old / "meta.json", {**meta, "spacy_version": ">=3.5.0,<3.6.0", "spacy_git_version": "abc"})
    migrate(old, tmp_path / "new")
    found = spacy.load(tmp_path / "new").meta
    assert (found["spacy_version"], found["spacy_git_version"]) != (">=3.5.0,<3.6.0", "abc")


def test_a_tokenizer_file_stays_in_its_folder(old, tmp_path):
    outside = tmp_path / "outside.txt"
    names = ["../outside.txt", str(outside), "sub/outside.txt"]
    _change_shim(old, lambda shim: shim["tokenizer"].update(dict.fromkeys(names, b"outside")))
    migrate(old, tmp_path / "new")
    assert not outside.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_a_checkpoint_whose_code_would_be_run_is_not_run(old, tmp_path):
    marker = tmp_path / "marker"
    code = f"open({str(marker)!r}, 'w').close()\n".encode()

    def change(shim):
        shim["tokenizer"]["evil.py"] = code
        shim["config"]["auto_map"] = {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}

    _change_shim(old, change)
    migrate(old, tmp_path / "new")
    assert not marker.exists()


# --- where it is written


def test_the_new_folder_can_not_be_the_old_one_or_in_it_or_around_it(old):
    for new in (old, old / "new", old / "transformer" / "deep" / "new", old.parent):
        _refused(old, new, "is the pipeline .* itself, or one lies in the other")
        _refused(old, new, "is the pipeline .* itself, or one lies in the other", "--overwrite")


def test_a_link_to_the_old_folder_can_not_be_the_new_one(old, tmp_path):
    (tmp_path / "link").symlink_to(old)
    _refused(old, tmp_path / "link", "itself, or one lies in the other", "--overwrite")


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_a_file_or_a_folder_of_other_things_is_left_alone(old, tmp_path, options):
    (tmp_path / "file").write_text("mine")
    _refused(old, tmp_path / "file", "is a file", *options)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    _refused(old, tmp_path / "other", r"holds something other than a pipeline \(thesis\.txt\)", *options)


def test_a_folder_that_is_in_a_file_is_refused(old, tmp_path):
    (tmp_path / "file").write_text("mine")
    _refused(old, tmp_path / "file" / "new", "can't be written")


def test_a_pipeline_is_replaced_only_when_asked_to(old, tmp_path):
    new = tmp_path / "new"
    spacy.blank("en").to_disk(new)
    _refused(old, new, "holds a pipeline already")
    result = run(old, new, "--overwrite")
    assert result.exit_code == 0, result.output
    assert spacy.load(new).pipe_names == ["transformer", "tagger", "textcat"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_a_pipeline_stays_if_its_replacement_fails(old, tmp_path):
    spacy.blank("de").to_disk(tmp_path / "new")
    (old / "transformer" / "model").write_bytes(b"garbage")
    _refused(old, tmp_path / "new", "found no transformer that can be read", "--overwrite")
    assert spacy.load(tmp_path / "new").lang == "de"


def test_an_empty_folder_and_folders_that_are_not_there_are_filled(old, tmp_path):
    (tmp_path / "empty").mkdir()
    for new in (tmp_path / "empty", tmp_path / "deep" / "er" / "new"):
        migrate(old, new)
        assert spacy.load(new)(TEXTS[0])[0].tag_
        assert [path.name for path in new.parent.iterdir() if path.name.startswith(".")] == []


# --- the command


def test_help_names_the_arguments_and_options():
    assert "migrate" in CliRunner().invoke(app, ["--help"]).output
    text = run("--help").output
    for part in ("old", "new", "--overwrite", "--code"):
        assert part in text.lower()


def test_the_command_says_what_became_of_a_pipeline(old, tmp_path):
    result = run(old, tmp_path / "new")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"✔ {tmp_path / 'new'}: the encoder transformer, read by tagger, textcat\n"
    assert result.stderr.startswith("ℹ texts of more than 128 tokens were read in spans of 128;")


def test_the_command_says_that_no_component_reads_the_encoder(old, tmp_path):
    def change(config):
        for name in ("tagger", "textcat"):
            del config["components"][name]
        config["nlp"]["pipeline"] = ["transformer"]
        config["components"]["transformer"]["model"]["get_spans"] = {
            "@span_getters": "spacy-transformers.sent_spans.v1"
        }

    _change_config(old, change)
    result = run(old, tmp_path / "new")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"✔ {tmp_path / 'new'}: the encoder transformer, read by no component\n"
    assert result.stderr == ""


def test_the_command_imports_code_that_a_pipeline_needs(old, tmp_path):
    (tmp_path / "code.py").write_text(
        "from spacy.language import Language\n"
        "@Language.component('migrate_test_component')\n"
        "def component(doc):\n    return doc\n"
    )

    def change(config):
        config["components"]["own"] = {"factory": "migrate_test_component"}
        config["nlp"]["pipeline"].append("own")

    _change_config(old, change)
    result = run(old, tmp_path / "new", "--code", tmp_path / "code.py")
    assert result.exit_code == 0, result.output
    assert spacy.load(tmp_path / "new").pipe_names[-1] == "own"


def test_wrong_usage_ends_with_code_2(old):
    assert run(old).exit_code == 2
    assert run().exit_code == 2
