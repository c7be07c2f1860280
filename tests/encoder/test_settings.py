"""What settings come to for one encoder on this machine, and those that can't be honoured."""

from __future__ import annotations

import pytest
import torch

from spacy_bertft import compat
from spacy_bertft.encoder.settings import (
    EncoderSettings,
    resolve_device,
    resolve_packed,
    resolve_window,
)
from spacy_bertft.errors import ConfigError


@pytest.mark.parametrize("n", [-5, 0])
def test_a_forward_takes_at_least_one_subword(n):
    with pytest.raises(ConfigError, match=rf"batch_subwords is {n}; expected at least 1\. Leave it out"):
        EncoderSettings(batch_subwords=n)


@pytest.mark.parametrize("n", [1, 10**6, None])
def test_any_other_number_will_do(n):
    assert EncoderSettings(batch_subwords=n).batch_subwords == n


# --- window


@pytest.mark.parametrize(
    ("window", "limit", "expected"),
    [
        (None, 64, 64),
        (None, None, 512),
        (10, 64, 10),
        (64, 64, 64),
        (3, 64, 3),
        (10_000, None, 10_000),
    ],
)
def test_the_window_is_the_one_asked_for_or_the_largest(window, limit, expected):
    assert resolve_window(EncoderSettings(window=window), limit, n_special=2) == expected


@pytest.mark.parametrize("window", [-1, 0, 2, 65])
def test_a_window_that_does_not_fit_is_an_error(window):
    said = rf"window is {window} subwords\. Expected more than its 2 special subwords and at most 64, the limit"
    with pytest.raises(ConfigError, match=said):
        resolve_window(EncoderSettings(window=window), 64, n_special=2)


def test_a_limit_that_leaves_no_room_is_an_error():
    with pytest.raises(ConfigError, match="window is 3 subwords"):
        resolve_window(EncoderSettings(), 3, n_special=3)


def test_an_encoder_without_a_limit_names_none():
    with pytest.raises(ConfigError, match="window is 2 subwords") as caught:
        resolve_window(EncoderSettings(window=2), None, n_special=2)
    assert "None" not in str(caught.value)


# --- packed


@pytest.fixture
def transformers(monkeypatch):
    """Packs "bert" alone, whatever version is installed."""
    monkeypatch.setattr(compat, "can_pack", lambda family: family == "bert")


@pytest.mark.parametrize(
    ("family", "batching", "expected"),
    [
        ("bert", "auto", True),
        ("bert", "packed", True),
        ("bert", "padded", False),
        ("deberta-v2", "auto", False),
        ("deberta-v2", "padded", False),
        ("", "auto", False),
    ],
)
def test_windows_are_packed_where_that_is_possible_and_wanted(transformers, family, batching, expected):
    assert resolve_packed(family, batching) is expected


def test_packing_what_can_only_be_padded_is_an_error_that_names_the_families(transformers):
    said = (
        r'is "packed", but deberta-v2 under transformers \d.* can only be padded\. Set batching = "auto".*albert, bert,'
    )
    with pytest.raises(ConfigError, match=said):
        resolve_packed("deberta-v2", "packed")


# --- device


@pytest.fixture
def machine(monkeypatch):
    """`machine(cuda=…, mps=…, chosen=…)`: what PyTorch finds here, and the GPU that spaCy was told to take."""

    def make(*, cuda=False, mps=False, chosen=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(compat, "spacy_gpu", lambda: chosen)

    return make


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, "cpu"),
        ({"mps": True}, "mps"),
        ({"cuda": True}, "cuda"),
        ({"cuda": True, "mps": True}, "cuda"),
        ({"cuda": True, "mps": True, "chosen": "mps"}, "mps"),
        ({"cuda": True, "chosen": "cuda"}, "cuda"),
    ],
)
def test_auto_takes_what_spacy_chose_else_the_best_there_is(machine, found, expected):
    machine(**found)
    assert resolve_device("auto") == torch.device(expected)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_there_is_taken(machine, device):
    machine(cuda=True, mps=True)
    assert resolve_device(device) == torch.device(device)


@pytest.mark.parametrize(
    ("device", "found"), [("cuda", {"mps": True}), ("mps", {"cuda": True}), ("cuda", {}), ("mps", {})]
)
def test_a_device_that_is_not_there_is_an_error(machine, device, found):
    machine(**found)
    with pytest.raises(
        ConfigError, match=rf'device is "{device}", but PyTorch .* finds none here\. Set device = "auto"'
    ):
        resolve_device(device)


def test_the_cpu_is_always_there(machine):
    machine(cuda=True, mps=True, chosen="cuda")
    assert resolve_device("cpu") == torch.device("cpu")
