"""A head at rest: in a folder, in bytes, and back in a module."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from spacy_bertft.components.head_files import (
    checked,
    load_weights,
    pack_head,
    read_head,
    replace_save_id,
    unpack_head,
    write_head,
)
from spacy_bertft.errors import ConfigError

CFG = {"labels": ["Straße", "東京"], "width": 3, "targets_per_doc": 2.5, "statistics": {"mean": -0.5}, "other": None}


def weights_of(module):
    return safetensors.torch.save(module.state_dict())


def arrays_of(module):
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def test_a_folder_gives_back_what_was_written(tmp_path):
    folder, weights = tmp_path / "new/ner", weights_of(nn.Linear(3, 2))
    write_head(folder, CFG, weights, head="ner")
    assert read_head(folder) == (CFG, weights)
    assert sorted(path.name for path in folder.iterdir()) == ["cfg", "model.safetensors"]


def test_the_id_of_the_encoder_s_save_is_replaced_alone(tmp_path):
    weights = weights_of(nn.Linear(3, 2))
    write_head(tmp_path, {**CFG, "save_id": "old"}, weights, head="ner")
    replace_save_id(tmp_path, "new")
    assert read_head(tmp_path) == ({**CFG, "save_id": "new"}, weights)


def test_what_is_there_is_replaced(tmp_path):
    write_head(tmp_path, CFG, weights_of(nn.Linear(3, 2)), head="ner")
    other = weights_of(nn.Linear(3, 4))
    write_head(tmp_path, {"labels": []}, other, head="ner")
    assert read_head(tmp_path) == ({"labels": []}, other)


def test_no_weights_are_no_file(tmp_path):
    write_head(tmp_path, CFG, b"", head="ner")
    assert [path.name for path in tmp_path.iterdir()] == ["cfg"]
    assert read_head(tmp_path) == (CFG, b"")


def test_no_weights_are_no_file_where_there_was_one_either(tmp_path):
    write_head(tmp_path, CFG, weights_of(nn.Linear(3, 2)), head="ner")
    write_head(tmp_path, {"labels": []}, b"", head="ner")
    assert read_head(tmp_path) == ({"labels": []}, b"")


@pytest.mark.parametrize("weights", [b"", b"\x00\xff weights"])
def test_bytes_give_back_what_was_packed(weights):
    assert unpack_head(pack_head(CFG, weights)) == (CFG, weights)


def test_weights_come_back_into_a_module():
    module, other = nn.Linear(3, 2), nn.Linear(3, 2)
    load_weights(other, arrays_of(module), head="ner", settings="…")
    assert torch.equal(other.weight, module.weight)
    assert torch.equal(other.bias, module.bias)


@pytest.mark.parametrize("saved", [nn.Linear(3, 5), nn.Linear(3, 2, bias=False), nn.Sequential(nn.Linear(3, 2))])
def test_weights_that_do_not_fit_are_an_error_that_names_the_settings(saved):
    said = (
        r"weights of the head 'ner' don't fit its settings \(scheme='bio', 2 labels\): \S.* Expected .*Undo the change"
    )
    with pytest.raises(ConfigError, match=said):
        load_weights(nn.Linear(3, 2), arrays_of(saved), head="ner", settings="scheme='bio', 2 labels")


# --- whole or not at all


def test_neither_file_is_replaced_if_one_cannot_be_written(tmp_path, monkeypatch):
    weights = weights_of(nn.Linear(3, 2))
    write_head(tmp_path, CFG, weights, head="ner")

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("srsly.write_json", full)
    with pytest.raises(ConfigError, match=r"The head 'ner' can't be saved in .*No space left.* Expected .* Check"):
        write_head(tmp_path, {"labels": []}, weights_of(nn.Linear(3, 2)), head="ner")
    assert read_head(tmp_path) == (CFG, weights)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cfg", "model.safetensors"]


def test_weights_of_another_save_are_refused(tmp_path):
    write_head(tmp_path / "one", CFG, weights_of(nn.Linear(3, 2)), head="ner")
    write_head(tmp_path / "other", CFG, weights_of(nn.Linear(3, 2)), head="ner")
    (tmp_path / "one/cfg").replace(tmp_path / "other/cfg")
    with pytest.raises(ConfigError, match=r"does not match the cfg in the same folder: .*Copy"):
        read_head(tmp_path / "other")


@pytest.mark.parametrize("content", [b"", b"\xff", b"{", b"[" * 100_000])
def test_a_cfg_that_is_no_json_is_refused(tmp_path, content):
    (tmp_path / "cfg").write_bytes(content)
    with pytest.raises(ConfigError, match=r"cfg' is not JSON: .* Expected the cfg of a saved head\. Copy"):
        read_head(tmp_path)


@pytest.mark.parametrize("content", ["[]", "null", "7"])
def test_a_cfg_that_is_no_object_is_refused(tmp_path, content):
    (tmp_path / "cfg").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cfg' holds a JSON \w+\. Expected an object"):
        read_head(tmp_path)


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_a_cfg_is_refused(tmp_path, there):
    folder = tmp_path if there else tmp_path / "nowhere"
    with pytest.raises(ConfigError, match=r"holds no cfg \(found: nothing\)\. Expected the folder"):
        read_head(folder)


@pytest.mark.parametrize(
    "packed", [b"", b"\xc1", b"\x80", pack_head([], b""), pack_head({}, "text"), b"\x91\x01"], ids=repr
)
def test_bytes_of_something_else_are_refused(packed):
    with pytest.raises(ConfigError, match=r"bytes that are not a saved head.*expected the result of to_bytes\(\)"):
        unpack_head(packed)


# --- checked


def checked_of(weights=b"", **settings):
    return checked({**CFG, **settings}, weights, head="ner", save_id=None)


def test_what_fits_gives_its_arrays():
    module = nn.Linear(3, 2)
    arrays = checked_of(weights_of(module))
    assert np.array_equal(arrays["weight"], module.weight.detach().numpy())
    halves = checked_of(safetensors.torch.save({name: one.half() for name, one in module.state_dict().items()}))
    assert halves["weight"].dtype == np.float32
    assert checked_of(width=None) == {}
    assert checked({"labels": [], "width": None, "targets_per_doc": 1}, b"", head="ner", save_id="x") == {}


@pytest.mark.parametrize(("of_head", "of_encoder"), [(None, None), ("a", None), (None, "a"), ("a", "a")])
def test_ids_that_are_alike_or_unknown_pass(of_head, of_encoder):
    cfg = {**CFG, "save_id": of_head}
    assert checked(cfg, weights_of(nn.Linear(3, 2)), head="ner", save_id=of_encoder)


def test_ids_that_differ_are_an_interrupted_save():
    with pytest.raises(ConfigError, match=r"'ner' and its encoder are from different saves \(a and b\): .*interrupted"):
        checked({**CFG, "save_id": "a"}, weights_of(nn.Linear(3, 2)), head="ner", save_id="b")


@pytest.mark.parametrize("weights", [b"x", weights_of(nn.Linear(3, 2))[:-1], b"\xff" * 100])
def test_damaged_weights_are_refused(weights):
    with pytest.raises(ConfigError, match=r"weights of the head 'ner' \(model\.safetensors\) can't be read: .*Copy"):
        checked_of(weights)
