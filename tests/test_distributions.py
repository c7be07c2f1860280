"""The two distributions: spacy-bertft-core with the code, spacy-bertft with what training needs and no files."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import spacy_bertft
from spacy_bertft.components.requirements import CORE

if sys.version_info < (3, 11):
    pytest.skip("tomllib is in Python 3.11 and later", allow_module_level=True)
import tomllib

ROOT = Path(__file__).parents[1]
FOR_DEVELOPERS = {"test", "lint", "dev", "benchmarks"}
# Of use without torch: production, and converting texts.
WITHOUT_TORCH = {"onnx", "cassis", "datasets", "lint"}


def project(folder):
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))


core, whole = project(".")["project"], project("distributions/spacy-bertft")["project"]


def names(requirements):
    return {re.split(r"[\[<>=]", line)[0] for line in requirements}


def all_of(extra):
    """The names that an extra of the core requires, with those of the extras that it includes."""
    lines = core["optional-dependencies"][extra]
    inner = [part for line in lines if line.startswith(CORE) for part in line[len(CORE) + 1 : -1].split(",")]
    return names(lines).union(*(all_of(one) for one in inner))


def test_both_have_the_version_of_the_package():
    assert core["version"] == whole["version"] == spacy_bertft.__version__
    pins = [*whole["dependencies"], *(line for lines in whole["optional-dependencies"].values() for line in lines)]
    assert {line.partition("==")[2] for line in pins} == {spacy_bertft.__version__}


def test_the_whole_is_the_core_with_what_training_needs():
    assert (core["name"], whole["name"]) == (CORE, "spacy-bertft")
    assert whole["dependencies"] == [f"{CORE}[train]=={spacy_bertft.__version__}"]
    assert project("distributions/spacy-bertft")["tool"]["setuptools"] == {"packages": []}


def test_the_whole_passes_all_extras_on():
    assert set(whole["optional-dependencies"]) == set(core["optional-dependencies"]) - FOR_DEVELOPERS - {"train"}
    for extra, lines in whole["optional-dependencies"].items():
        assert lines == [f"{CORE}[{extra}]=={spacy_bertft.__version__}"]


def test_the_core_alone_has_no_torch():
    heavy = {"torch", "transformers", "onnx", "huggingface-hub"}
    assert not names(core["dependencies"]) & heavy
    assert not all_of("onnx") & heavy
    assert {"torch", "transformers"} <= all_of("train")


def test_extras_that_need_training_bring_it():
    without = {extra for extra in core["optional-dependencies"] if "torch" not in all_of(extra)}
    assert without == WITHOUT_TORCH
