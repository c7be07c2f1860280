"""The ONNX graph against transformers' own model, and pipelines that run by it."""

from __future__ import annotations

import builtins
import copy
import multiprocessing
import re
import shutil
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
from encoders import (
    KNOWN,
    LONG,
    MIXED,
    ODD,
    assert_near,
    encoder_of,
    exported,
    net_of,
    plain_forward,
    rewrite,
    rows_of,
    split,
    texts_of,
)
from pipelines import TEXTS, annotations, examples, trained
from tiny import WIDTH
from transformers import AutoModel, AutoTokenizer

from spacy_bertft import pair_doc
from spacy_bertft.components.encoder_pipe import texts_of as pipe_texts
from spacy_bertft.encoder.exported import load_exported, load_named_export
from spacy_bertft.encoder.features import as_torch
from spacy_bertft.encoder.loading import load_folder
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.engines.onnx import OnnxEngine
from spacy_bertft.engines.onnx_graph import build
from spacy_bertft.errors import ConfigError, EncoderError
from spacy_bertft.export import export

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


# --- the graph


@pytest.mark.parametrize("family", KNOWN)
def test_hidden_rows_equal_the_plain_model_on_each_text_alone(tiny_encoder, tmp_path, family):
    folder = tiny_encoder(family)
    features = as_torch(exported(encoder_of(folder), tmp_path).predict(texts_of(MIXED)))
    expected = plain_forward(folder, MIXED)
    for rows, text in zip(split(features.hidden[features.rows], features.subword_counts), expected, strict=True):
        assert_near(rows, text[1:-1])
    assert_near(features.hidden[features.cls_rows], torch.stack([text[0] for text in expected]))


@pytest.mark.parametrize("family", KNOWN)
def test_odd_and_long_texts_give_what_the_encoder_gives(tiny_encoder, tmp_path, family):
    encoder = encoder_of(tiny_encoder(family))
    special = AutoTokenizer.from_pretrained(tiny_encoder(family))
    spelt = f"Anna {special.pad_token} lives {special.sep_token} in {special.mask_token} Berlin"
    texts = [*ODD.values(), LONG, spelt]
    assert_near(rows_of(exported(encoder, tmp_path), texts), rows_of(encoder, texts))


@pytest.mark.parametrize("family", KNOWN)
def test_int8_stays_close(tiny_encoder, tmp_path, family):
    encoder = encoder_of(tiny_encoder(family))
    texts = [*MIXED, LONG]
    found, expected = rows_of(exported(encoder, tmp_path, int8=True), texts), rows_of(encoder, texts)
    difference = (found - expected).abs()
    assert 0 < difference.mean() < 0.03 * expected.abs().mean()
    assert difference.max() < 0.5


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
@pytest.mark.parametrize("int8", [False, True])
def test_activations(tiny_bert, tmp_path, activation, int8):
    encoder_of(tiny_bert).save(tmp_path / "one")
    rewrite(tmp_path / "one/config.json", hidden_act=activation)
    encoder = encoder_of(tmp_path / "one")
    difference = (rows_of(exported(encoder, tmp_path / "two", int8=int8), MIXED) - rows_of(encoder, MIXED)).abs()
    assert difference.mean() < (0.03 if int8 else 1e-5)


def test_outputs_for_others_are_zero_at_padding(tiny_bert, tmp_path):
    engine = exported(encoder_of(tiny_bert), tmp_path).engine()
    ids = np.array([[2, 7, 8, 9, 3], [2, 7, 3, 0, 0]])
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    hidden, rows = engine._run(["last_hidden_state", "packed_hidden_state"], inputs)
    assert hidden.shape == (2, 5, WIDTH)
    assert (hidden[1, 3:] == 0).all()
    assert np.array_equal(hidden[mask.astype(bool)], rows)
    with torch.no_grad():
        plain = AutoModel.from_pretrained(tiny_bert).eval()(torch.tensor(ids), attention_mask=torch.tensor(mask))
    assert_near(torch.from_numpy(rows), plain.last_hidden_state[torch.tensor(mask).bool()])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", KNOWN)
def test_any_batch_gives_what_transformers_gives(tiny_encoder, tmp_path, family, side):
    folder = tiny_encoder(family)
    engine = exported(encoder_of(folder), tmp_path).engine()
    tokenizer, model = AutoTokenizer.from_pretrained(folder, padding_side=side), AutoModel.from_pretrained(folder)
    for texts in (["a"], MIXED, [LONG[:60], "Bob"]):
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        inputs = {name: batch[name].numpy() for name in ("input_ids", "attention_mask")}
        inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])
        hidden, rows = map(torch.from_numpy, engine._run(["last_hidden_state", "packed_hidden_state"], inputs))
        with torch.no_grad():
            plain = model.eval()(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        real = batch["attention_mask"].bool()
        assert_near(rows, plain[real])
        assert_near(hidden[real], plain[real])
        assert not hidden[~real].any()


@pytest.mark.parametrize("budget", [1, 50])
def test_batches_do_not_matter_in_float32(tiny_bert, tmp_path, budget):
    whole = exported(encoder_of(tiny_bert), tmp_path)
    few = load_exported(tmp_path, EncoderSettings(backend="onnxruntime", batch_subwords=budget))
    assert_near(rows_of(few, [*MIXED, LONG]), rows_of(whole, [*MIXED, LONG]))
    assert rows_of(whole, []).shape == (0, WIDTH)


def test_an_encoder_without_a_padding_subword(tiny_bert, tmp_path):
    encoder_of(tiny_bert).save(tmp_path / "one")
    rewrite(tmp_path / "one/config.json", pad_token_id=None)
    found = rows_of(exported(encoder_of(tmp_path / "one"), tmp_path / "two"), MIXED)
    assert_near(found, rows_of(encoder_of(tiny_bert), MIXED))


@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_a_damaged_graph_is_refused(tiny_bert, tmp_path, kept):
    exported(encoder_of(tiny_bert), tmp_path)
    content = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(content[: int(kept * len(content))] + b"garbage")
    encoder = load_exported(tmp_path, EncoderSettings(backend="onnxruntime"))
    with pytest.raises(EncoderError, match=r"could not be read by ONNX Runtime .* Expected the whole file .*export"):
        rows_of(encoder, MIXED)


def test_the_file_in_the_documents_runs(tiny_bert, tmp_path, monkeypatch):
    exported(encoder_of(tiny_bert), tmp_path / "production/encoder/encoder")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/onnx.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    expected = plain_forward(tiny_bert, ["Anna lives in Berlin"])[0]
    assert_near(torch.from_numpy(names["hidden"][0]), expected)


# --- pipelines


@pytest.fixture(scope="module")
def folder(tiny_bert, tmp_path_factory):
    """An exported pipeline, and what the one it was made from says of TEXTS."""
    folder = tmp_path_factory.mktemp("exported")
    trained(tiny_bert).to_disk(folder / "before")
    export(folder / "before", folder / "after")
    expected = said(spacy.load(folder / "before"))
    return folder / "after", expected


def said(nlp, **settings):
    return [annotations(doc)[0] for doc in nlp.pipe(TEXTS, **settings)]


def test_an_exported_pipeline_annotates_as_before(folder):
    path, expected = folder
    nlp = spacy.load(path)
    assert nlp.config["components"]["encoder"]["model"]["backend"] == "onnxruntime"
    assert isinstance(nlp.get_pipe("encoder").encoder.engine(), OnnxEngine)
    assert said(nlp) == expected
    assert any(expected)


def test_it_survives_disk_bytes_and_copies(folder, tmp_path):
    path, expected = folder
    nlp = spacy.load(shutil.copytree(path, tmp_path / "one"))
    nlp.to_disk(tmp_path / "one")
    nlp.to_disk(tmp_path / "two")
    files = sorted(path.name for path in (tmp_path / "two/encoder/encoder").iterdir())
    assert "model.onnx" in files
    assert not any(name.endswith((".safetensors", ".part")) for name in files)
    assert said(spacy.load(tmp_path / "one")) == said(spacy.load(tmp_path / "two")) == expected
    again = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    assert said(again) == expected
    twin = copy.deepcopy(nlp.get_pipe("encoder").encoder)
    assert torch.equal(rows_of(twin, MIXED), rows_of(nlp.get_pipe("encoder").encoder, MIXED))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_have_sessions_of_their_own(folder, method, monkeypatch):
    path, expected = folder
    nlp = spacy.load(path)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # so that the session has threads, which a fork does not inherit
    try:
        assert said(nlp) == expected
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr("spacy.language.mp", multiprocessing.get_context(method))
    with at_most(seconds=120):
        assert said(nlp, n_process=2, batch_size=2) == expected


@contextmanager
def at_most(*, seconds):
    """An error instead of waiting for ever, where the system has alarms."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def expire(*_):
        for child in multiprocessing.active_children():
            child.kill()
        raise TimeoutError(f"not done after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_training_it_is_refused_but_heads_learn_on_it(folder):
    nlp = spacy.load(folder[0])
    message = r'exported to ONNX Runtime and can\'t be trained.*Expected backend = "torch"'
    with pytest.raises(ConfigError, match=message):
        nlp.update(examples(nlp), sgd=nlp.resume_training())
    losses = []
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 1e-2
    for _ in range(5):
        with nlp.select_pipes(disable=["encoder"]):
            losses.append(nlp.update(examples(nlp), sgd=optimizer)["ner"])
    assert losses[-1] < losses[0]


def test_a_folder_without_a_graph_is_refused(tiny_bert):
    with pytest.raises(EncoderError, match=r'backend is "onnxruntime", but .* holds no model\.onnx .*bertft export'):
        load_exported(tiny_bert, EncoderSettings(backend="onnxruntime"))


def test_a_hub_name_has_no_graph():
    with pytest.raises(EncoderError, match=r'backend is "onnxruntime", but .* is not a folder here .*bertft export'):
        load_named_export("bert-base-cased", EncoderSettings(backend="onnxruntime"))


def test_a_graph_without_the_backend_is_refused(folder):
    with pytest.raises(EncoderError, match=r'holds no weights .*model\.onnx runs with backend = "onnxruntime"'):
        load_folder(folder[0] / "encoder/encoder", EncoderSettings())


@pytest.mark.parametrize(
    ("missing", "use", "install"),
    [("onnxruntime", "run", r"spacy-bertft-core\[onnx\]"), ("onnx", "build", r"spacy-bertft\[export\]")],
)
def test_a_missing_package_names_the_extra(tiny_bert, tmp_path, monkeypatch, missing, use, install):
    encoder = encoder_of(tiny_bert)
    ready = exported(encoder, tmp_path)
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == missing:
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, missing)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EncoderError, match=rf'not installed\. Expected .*pip install "{install}"'):
        rows_of(ready, MIXED) if use == "run" else build(net_of(encoder))


@pytest.mark.parametrize("family", KNOWN)
@pytest.mark.parametrize("int8", [False, True])
def test_pairs_keep_their_segments(tiny_encoder, tmp_path, family, int8):
    encoder, nlp = encoder_of(tiny_encoder(family)), spacy.blank("en")
    texts = pipe_texts([pair_doc(nlp, "Anna lives", "in Berlin near the garden"), nlp("Bob"), pair_doc(nlp, "a", "b")])
    found, expected = (as_torch(one.predict(texts)) for one in (exported(encoder, tmp_path, int8=int8), encoder))
    difference = (found.hidden[found.rows] - expected.hidden[expected.rows]).abs()
    assert difference.mean() < (0.03 if int8 else 1e-5)
