"""What is read and checked before a training starts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from spacy.util import load_config_from_str
from thinc.api import Config, require_gpu
from thinc.util import gpu_is_available

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.config_check import check_config, check_files, check_overrides


def read_config(path: str | Path, overrides: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """Read a training config and check it. path: "-" for stdin. Returns it, not interpolated, and warnings.

    Raises a ConfigError for settings that nothing reads and that are probably misspelt, and for missing data a
    ConfigError or DataError. Errors of a config that spaCy can't read are spaCy's own.
    """
    text = sys.stdin.read() if str(path) == "-" else Path(path).read_text(encoding="utf-8")
    check_overrides(load_config_from_str(text), overrides)
    config = load_config_from_str(text, overrides=dict(overrides))
    warnings = check_config(config)
    check_files(config)
    return config, warnings


def choose_gpu(gpu_id: int) -> tuple[int, str]:
    """The GPU for spaCy (-1: none), and a sentence about it.

    spaCy's own components need CuPy for a GPU, ours don't: without it, they use the GPU and spaCy's the CPU.
    """
    if gpu_id < 0:
        return -1, "Using CPU for spaCy's own components" if torch.cuda.is_available() else "Using CPU"
    if gpu_is_available():  # type: ignore[no-untyped-call]
        require_gpu(gpu_id)
        return gpu_id, f"Using GPU: {gpu_id}"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu_id >= count:
        found = f"{count} GPUs, counted from 0" if count else "no GPU that PyTorch can use"
        raise ConfigError(
            f"--gpu-id {gpu_id}: found {found}. Expected one that is there. Leave --gpu-id out to train on the CPU, or "
            "install a PyTorch for your GPU (https://pytorch.org)."
        )
    torch.cuda.set_device(gpu_id)
    return -1, f"Using GPU {gpu_id} by PyTorch. spaCy's own components run on the CPU, because CuPy isn't installed"
