from __future__ import annotations

import pytest
import torch
from packaging.version import Version
from thinc.api import NumpyOps, set_current_ops, use_ops
from transformers import AutoModel
from transformers.utils import logging

from spacy_bertft import compat

pytestmark = pytest.mark.touches_transformers


def with_version(monkeypatch, version):
    monkeypatch.setattr(compat, "transformers_version", lambda: Version(version))


@pytest.mark.parametrize(
    ("version", "name"),
    [("4.49.0", "torch_dtype"), ("4.55.4", "torch_dtype"), ("4.56.0", "dtype"), ("5.0.0", "dtype")],
)
def test_precision_argument_has_the_name_of_the_version(monkeypatch, version, name):
    with_version(monkeypatch, version)
    assert compat.dtype_argument(torch.float32) == {name: torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision_argument_is_taken_by_the_installed_version(tiny_bert, dtype):
    assert AutoModel.from_pretrained(tiny_bert, **compat.dtype_argument(dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("version", "family", "expected"),
    [("5.0.0", "bert", True), ("5.0.0", "deberta-v2", False), ("4.57.1", "bert", False)],
)
def test_known_families_are_packed_from_transformers_5_on(monkeypatch, version, family, expected):
    with_version(monkeypatch, version)
    assert compat.can_pack(family) is expected


@pytest.mark.skipif(compat.transformers_version().major < 5, reason="transformers 4 is padded")
def test_attention_runs_through_the_given_function_without_a_mask(tiny_bert):
    calls = []

    def attention(module, query, key, value, attention_mask, *, marker, **_):
        calls.append((attention_mask, marker))
        return value.transpose(1, 2), None

    model = AutoModel.from_pretrained(tiny_bert)
    compat.use_attention(model, "bertft_test", attention)
    model(input_ids=torch.tensor([[1, 2, 3]]), marker="mine")
    assert calls == [(None, "mine")] * model.config.num_hidden_layers


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("bars", [False, True])
def test_transformers_is_quiet_inside_and_as_before_behind(fails, bars):
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    set_bars(bars)
    logging.set_verbosity_info()
    try:
        with compat.quiet_transformers():
            assert logging.get_verbosity() == logging.ERROR
            assert not logging.is_progress_bar_enabled()
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    try:
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled() == bars
    finally:
        logging.set_verbosity(level)
        set_bars(shown)


def set_bars(on):
    (logging.enable_progress_bar if on else logging.disable_progress_bar)()


@pytest.mark.parametrize(("ops", "expected"), [("numpy", None), ("cupy", "cuda"), ("mps", "mps")])
def test_spacy_gpu_is_the_one_of_thinc_s_operations(ops, expected):
    chosen = NumpyOps()
    chosen.name = ops
    with use_ops("numpy"):  # puts back what was there
        set_current_ops(chosen)
        assert compat.spacy_gpu() == expected


# --- bfloat16 in a GPU's hardware


@pytest.mark.parametrize(
    ("capability", "told", "expected"),
    [((8, 0), True, True), ((9, 0), True, True), ((7, 5), True, False), ((8, 0), False, False)],
)
def test_a_gpu_has_bfloat16_from_ampere_on(monkeypatch, capability, told, expected):
    """PyTorch counts older ones too, on which it is emulated."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: told)
    assert compat.has_bfloat16(torch.device("cuda")) is expected


def test_other_gpus_have_none():
    assert not compat.has_bfloat16(torch.device("mps"))


@pytest.mark.parametrize("able", [(), ("_is_avx512_bf16_supported",), ("_is_amx_tile_supported",)])
def test_a_cpu_has_bfloat16_with_avx512_bf16_or_amx(monkeypatch, able):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in able, raising=False)
    assert compat.has_bfloat16(torch.device("cpu")) is bool(able)


def test_attention_without_cudnns_kernels(monkeypatch):
    enabled = {"cudnn": True}
    monkeypatch.setattr(torch.backends.cuda, "cudnn_sdp_enabled", lambda: enabled["cudnn"])
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda on: enabled.update(cudnn=on))
    with compat.without_cudnn_attention(torch.device("cpu")):
        assert enabled["cudnn"]
    with compat.without_cudnn_attention(torch.device("cuda")):
        assert not enabled["cudnn"]
    assert enabled["cudnn"]
    enabled["cudnn"] = False  # the user's choice
    with compat.without_cudnn_attention(torch.device("cuda")):
        assert not enabled["cudnn"]
    assert not enabled["cudnn"]


@pytest.mark.touches_transformers
def test_whether_activations_are_checkpointed_is_known(tiny_bert):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_bert)
    assert not compat.checkpoints_activations(model)
    compat.checkpoint_activations(model)
    assert compat.checkpoints_activations(model)
