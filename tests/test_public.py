"""What those who import the package may rely on."""

from __future__ import annotations

import importlib

import pytest

DOORS = {
    "spacy_bertft.convert": {"Counts", "FileReport", "Format", "Misaligned", "Progress", "Report", "convert"},
    "spacy_bertft.export": {"Change", "DroppedError", "ExportReport", "Hidden", "export"},
}


@pytest.mark.parametrize("name", DOORS)
def test_a_door_leads_to_all_that_it_names(name):
    door = importlib.import_module(name)
    assert set(door.__all__) >= DOORS[name]
    for each in door.__all__:
        assert getattr(door, each) is not None


@pytest.mark.parametrize(
    "name", ["BertftError", "ConfigError", "DataError", "EncoderError", "pair_doc", "question_doc"]
)
def test_the_package_has_its_errors_and_docs_of_two_texts(name):
    assert getattr(importlib.import_module("spacy_bertft"), name).__name__ == name
