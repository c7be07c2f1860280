from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

import functools
import gc
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import catalogue
import float32  # noqa: F401  # for all tests
import pytest
import torch
from spacy.lang.en import English
from tiny import make_encoder

# The tests with the tools around spaCy run where those are installed, in an environment of their own (`nox -s tools`).
collect_ignore = [] if find_spec("presidio_analyzer") else ["tools"]

# Tiny tensors gain nothing from threads, and lose much where other processes run.
torch.set_num_threads(1)

# The tests make and load some thousand pipelines. Two things that spaCy does for each would take half of their time:
# it reads English's 1,347 exceptions to the tokenizer's rules three times, for which white space and two words stand
# here; and catalogue looks through all entry points for each function that a config names.
English.Defaults.tokenizer_exceptions = {
    text: tokens
    for text, tokens in English.Defaults.tokenizer_exceptions.items()
    if text.isspace() or text in ("don't", "doesn't")
}
catalogue.AVAILABLE_ENTRY_POINTS = SimpleNamespace(select=functools.cache(catalogue.AVAILABLE_ENTRY_POINTS.select))


def pytest_collection_finish() -> None:
    """What has been imported and collected stays: no search for garbage, which some tests ask for, looks through it."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """No processes beside this one for a single file: they would take longer to start than it takes to run."""
    paths = {argument.split("::")[0] for argument in config.args}
    return 0 if len(paths) == 1 and Path(*paths).is_file() else None


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
