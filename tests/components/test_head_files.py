"""A head at rest: in a folder, in bytes, and back in a module."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import nn

from spacy_bertft.components.head_files import load_weights, pack_head, read_head, unpack_head, write_head
from spacy_bertft.errors import ConfigError

CFG = {"labels": ["Straße", "東京"], "width": 3, "targets_per_doc": 2.5, "statistics": {"mean": -0.5}, "other": None}


def weights_of(module):
    return safetensors.torch.save(module.state_dict())


def test_a_folder_gives_back_what_was_written(tmp_path):
    folder, weights = tmp_path / "new/ner", weights_of(nn.Linear(3, 2))
    write_head(folder, CFG, weights)
    assert read_head(folder) == (CFG, weights)
    assert sorted(path.name for path in folder.iterdir()) == ["cfg", "model.safetensors"]


def test_what_is_there_is_replaced(tmp_path):
    write_head(tmp_path, CFG, weights_of(nn.Linear(3, 2)))
    other = weights_of(nn.Linear(3, 4))
    write_head(tmp_path, {"labels": []}, other)
    assert read_head(tmp_path) == ({"labels": []}, other)


def test_no_weights_are_no_file(tmp_path):
    write_head(tmp_path, CFG, b"")
    assert [path.name for path in tmp_path.iterdir()] == ["cfg"]
    assert read_head(tmp_path) == (CFG, b"")


def test_no_weights_are_no_file_where_there_was_one_either(tmp_path):
    write_head(tmp_path, CFG, weights_of(nn.Linear(3, 2)))
    write_head(tmp_path, {"labels": []}, b"")
    assert read_head(tmp_path) == ({"labels": []}, b"")


@pytest.mark.parametrize("weights", [b"", b"\x00\xff weights"])
def test_bytes_give_back_what_was_packed(weights):
    assert unpack_head(pack_head(CFG, weights)) == (CFG, weights)


def test_weights_come_back_into_a_module():
    module, other = nn.Linear(3, 2), nn.Linear(3, 2)
    load_weights(other, weights_of(module), head="ner", settings="…")
    assert torch.equal(other.weight, module.weight)
    assert torch.equal(other.bias, module.bias)


@pytest.mark.parametrize("saved", [nn.Linear(3, 5), nn.Linear(3, 2, bias=False), nn.Sequential(nn.Linear(3, 2))])
def test_weights_that_do_not_fit_are_an_error_that_names_the_settings(saved):
    said = (
        r"weights of the head 'ner' don't fit its settings \(scheme='bio', 2 labels\): \S.* Expected .*Undo the change"
    )
    with pytest.raises(ConfigError, match=said):
        load_weights(nn.Linear(3, 2), weights_of(saved), head="ner", settings="scheme='bio', 2 labels")
