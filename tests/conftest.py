from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import make_encoder

# Tiny tensors gain nothing from threads, and lose much where other processes run.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_encoder(family)`: the folder of a tiny encoder, made once."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = make_encoder(tmp_path_factory.mktemp("encoders") / family, family)
        return made[family]

    return make


@pytest.fixture(scope="session")
def tiny_bert(tiny_encoder: Callable[[str], Path]) -> Path:
    return tiny_encoder("bert-uncased")
