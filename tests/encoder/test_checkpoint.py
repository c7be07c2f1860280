"""Encoders at rest: what a folder of theirs holds, what is left out of it, and that all of it comes back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import LONG, encoder_of, exported, rewrite
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import FAMILIES
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer

from spacy_bertft.encoder.checkpoint import (
    GRAPH,
    WEIGHTS,
    Checkpoint,
    read_checkpoint,
    read_graph,
    read_save_id,
    saved_files,
)
from spacy_bertft.errors import EncoderError

pytestmark = pytest.mark.touches_transformers

FILES = {"config.json": b'{"model_type": "bert"}', "tokenizer.json": b"{}", "vocab.txt": "a\nß\n".encode()}


def weights_of(*names):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(3, 4, generator=generator) for name in names}


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A copy of a tiny encoder, as this package writes it."""
    encoder_of(tiny_bert).save(tmp_path / "copy")
    return tmp_path / "copy"


# --- written and read


def test_what_is_written_is_read(tmp_path):
    written = Checkpoint(FILES, weights_of("embeddings", "pooler.dense.weight"))
    written.write(tmp_path / "new/folder")
    assert {path.name for path in (tmp_path / "new/folder").iterdir()} == {*FILES, WEIGHTS}
    read = read_checkpoint(tmp_path / "new/folder")
    assert read.files == FILES
    assert read.weights.keys() == written.weights.keys()
    assert all(torch.equal(read.weights[name], tensor) for name, tensor in written.weights.items())
    assert read.trained_pooler
    assert read.graph is None


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_comes_back_as_it_was_saved(tiny_encoder, tmp_path, family):
    at_rest = encoder_of(tiny_encoder(family)).at_rest()
    at_rest.write(tmp_path)
    read = read_checkpoint(tmp_path)
    assert read.files == at_rest.files
    assert read.weights.keys() == at_rest.weights.keys()
    assert all(torch.equal(read.weights[name], tensor) for name, tensor in at_rest.weights.items())
    assert read.config["model_type"] == family.removesuffix("-uncased").removesuffix("-cased")


def test_weights_whose_numbers_are_not_in_a_row_are_written_as_they_read(tmp_path):
    weights = {"turned": torch.arange(6.0).view(2, 3).T}
    Checkpoint(FILES, weights).write(tmp_path)
    assert torch.equal(read_checkpoint(tmp_path).weights["turned"], weights["turned"])


def test_the_file_of_weights_says_what_it_is_of(folder):
    with safe_open(folder / WEIGHTS, framework="pt") as weights:  # or transformers refuses it
        assert weights.metadata() == {"format": "pt"}


def test_an_untrained_pooler_is_left_out(tmp_path):
    weights = weights_of("embeddings", "pooler.dense.weight", "pooler.dense.bias")
    Checkpoint(FILES, weights, trained_pooler=False).write(tmp_path)
    read = read_checkpoint(tmp_path)
    assert read.weights.keys() == {"embeddings"}
    assert not read.trained_pooler


def test_half_precision_is_read_as_float32(folder):
    weights = load_file(folder / WEIGHTS)
    save_file({name: tensor.half() for name, tensor in weights.items()}, folder / WEIGHTS, {"format": "pt"})
    read = read_checkpoint(folder)
    assert {tensor.dtype for tensor in read.weights.values()} == {torch.float32}
    for name, tensor in weights.items():
        torch.testing.assert_close(read.weights[name], tensor, rtol=1e-3, atol=1e-3)


def test_weights_of_any_format_and_folders_are_no_small_files(folder):
    before = read_checkpoint(folder).files
    names = ["pytorch_model.bin", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tf_model.h5"]
    for name in [*names, GRAPH, "flax_model.msgpack", "rust_model.ot"]:
        (folder / name).write_bytes(b"heavy")
    (folder / "more").mkdir()
    (folder / "more/file.txt").write_bytes(b"elsewhere")
    assert read_checkpoint(folder).files == before
    (folder / "special_tokens.txt").write_bytes(b"small")
    assert read_checkpoint(folder).files == {**before, "special_tokens.txt": b"small"}


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
def test_without_one_of_its_files_a_folder_is_none_of_ours(folder, name):
    assert read_checkpoint(folder) is not None
    (folder / name).unlink()
    assert read_checkpoint(folder) is None


@pytest.mark.parametrize("kept", [0, 8, 500])
def test_damaged_weights_are_left_to_those_who_say_what_is_wrong(folder, kept):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:kept])
    assert read_checkpoint(folder) is None


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        read_checkpoint(folder).write(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_none_of_the_files_is_replaced_if_one_cannot_be_written(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = Checkpoint({**FILES, "zz.txt": b"new"}, weights_of("other"))
    write = Path.write_bytes

    def full(path, data):
        if path.name == "zz.txt.part":
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        other.write(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_parts_are_no_files_of_an_encoder(folder):
    before = read_checkpoint(folder).files
    (folder / "vocab.txt.part").write_bytes(b"half")
    assert read_checkpoint(folder).files == before
    read_checkpoint(folder).write(folder)
    assert not list(folder.glob("*.part"))


def test_weights_that_are_whole_numbers_are_none(folder):
    weights = load_file(folder / WEIGHTS)
    ids = {"embeddings.position_ids": torch.arange(4)}  # which older checkpoints have beside their weights
    save_file({**weights, **ids}, folder / WEIGHTS, {"format": "pt"})
    assert read_checkpoint(folder) is not None
    name = min(weights)
    save_file({**weights, name: weights[name].int()}, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(EncoderError, match=rf"holds integers, in {name}\. Expected floating-point weights"):
        read_checkpoint(folder)


def test_a_tokenizer_that_is_none_is_named():
    with pytest.raises(EncoderError, match=r"The tokenizer\.json of the encoder is not a valid tokenizer: .*Copy it"):
        Checkpoint(FILES).tokenizer()


# --- which weights they are


def test_a_save_id_is_kept_with_the_weights(tmp_path):
    checkpoint = Checkpoint(FILES, weights_of("embeddings"))
    assert read_save_id(tmp_path) is None
    checkpoint.write(tmp_path)
    assert read_save_id(tmp_path) is None
    checkpoint.write(tmp_path, save_id="abc")
    assert read_save_id(tmp_path) == "abc"
    assert torch.equal(load_file(tmp_path / WEIGHTS)["embeddings"], checkpoint.weights["embeddings"])
    with safe_open(tmp_path / WEIGHTS, framework="pt") as weights:
        assert weights.metadata() == {"format": "pt", "save_id": "abc"}


def test_the_same_weights_and_id_make_the_same_file(tmp_path):
    """safetensors alone puts its metadata in any order."""
    written = set()
    for number in range(8):
        Checkpoint(FILES, weights_of("a", "ß")).write(tmp_path / str(number), save_id="abc")
        written.add((tmp_path / str(number) / WEIGHTS).read_bytes())
    assert len(written) == 1


def test_a_digest_tells_weights_from_others():
    weights = weights_of("one", "pooler")
    digest = Checkpoint(FILES, weights).digest()
    assert Checkpoint({}, dict(reversed(weights.items()))).digest() == digest
    changed = weights["one"].clone()
    changed[2, 3] += 1e-6
    assert Checkpoint(FILES, {**weights, "one": changed}).digest() != digest
    assert Checkpoint(FILES, {"two": weights["one"], "pooler": weights["pooler"]}).digest() != digest
    assert Checkpoint(FILES, {"one": weights["one"].T, "pooler": weights["pooler"]}).digest() != digest
    untrained = replace(Checkpoint(FILES, weights), trained_pooler=False)
    assert untrained.digest() == Checkpoint(FILES, {"one": weights["one"]}).digest()
    assert Checkpoint(FILES, graph=np.zeros(3, dtype=np.uint8)).digest() is None


# --- a graph


def test_a_graph_comes_back_without_weights(tiny_bert, tmp_path):
    exported(encoder_of(tiny_bert), tmp_path / "one")
    read = read_graph(tmp_path / "one")
    assert not read.weights
    assert read.graph.tobytes() == (tmp_path / "one" / GRAPH).read_bytes()
    assert not read.weights
    read.write(tmp_path / "two")
    assert not (tmp_path / "two" / WEIGHTS).exists()
    again = read_graph(tmp_path / "two")
    assert again.files == read.files
    assert np.array_equal(again.graph, read.graph)


# --- what it is made into


def test_the_tokenizer_neither_cuts_off_nor_pads(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = [encoding.ids for encoding in tokenizer.encode_batch([LONG, "a"])]
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=20)
    tokenizer.save(str(folder / "tokenizer.json"))
    found = read_checkpoint(folder).tokenizer().encode_batch([LONG, "a"])
    assert [encoding.ids for encoding in found] == expected


def test_the_limit_is_that_of_the_tokenizer(folder):
    positions = read_checkpoint(folder).config["max_position_embeddings"]
    assert read_checkpoint(folder).limit(2) == positions - 2  # the tokenizer says 1e30, which stands for none
    rewrite(folder / "tokenizer_config.json", model_max_length=20)
    assert read_checkpoint(folder).limit(2) == 20
    (folder / "tokenizer_config.json").unlink()
    assert read_checkpoint(folder).limit(0) == positions
    rewrite(folder / "config.json", max_position_embeddings=0)
    assert read_checkpoint(folder).limit(0) is None


@pytest.mark.parametrize("family", ["bert-uncased", "modernbert"])
def test_the_model_has_these_weights(tiny_encoder, family):
    encoder = encoder_of(tiny_encoder(family))
    state = encoder.model.state_dict()
    model = replace(encoder.at_rest(), weights={name: tensor + 1 for name, tensor in state.items()}).model()
    assert type(model) is type(encoder.model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    found = model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor + 1) for name, tensor in state.items())


def test_the_model_is_made_from_the_config_alone(folder, monkeypatch, tmp_path):
    """The folder may be gone by then."""
    checkpoint = read_checkpoint(folder)
    weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    config = {**checkpoint.config, "num_hidden_layers": 1, "name_or_path": "nowhere/at-all"}
    first_layer = {name: tensor for name, tensor in weights.items() if "layer.1." not in name}
    shutil.rmtree(folder)
    files = {**checkpoint.files, "config.json": json.dumps(config).encode()}
    model = Checkpoint(files, first_layer).model()
    assert len(model.encoder.layer) == 1
    assert torch.equal(model.embeddings.word_embeddings.weight, weights["embeddings.word_embeddings.weight"])


def test_saved_files_are_all_that_configs_and_tokenizers_save(tiny_bert):
    config, tokenizer = AutoConfig.from_pretrained(tiny_bert), AutoTokenizer.from_pretrained(tiny_bert)
    files = saved_files(tokenizer, config)
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= set(files)
    assert json.loads(files["config.json"])["model_type"] == "bert"
    assert saved_files() == {}
