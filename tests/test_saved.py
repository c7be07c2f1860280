"""Pipelines that the first edition saved load, and annotate as they did then: the archive's expected.json says how.

Texts of several windows are left out: the first edition cut them into full windows, which overlapped more.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch

pytestmark = pytest.mark.touches_transformers

ARCHIVE = Path(__file__).parent / "saved/first_edition.zip"
PIPELINES = ("entities", "questions", "multilabel", "masks", "onnx")
LONG = 200  # characters; shorter texts fit in one of their windows


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


def annotations(doc):
    """All that its components set, scores left as they are."""
    spans = {key: doc.spans.get(key, []) for key in ("answers", "masks")}
    return {
        "text": doc.text,
        "ents": [[ent.start_char, ent.end_char, ent.label_, ent._.score] for ent in doc.ents],
        "cats": doc.cats,
        "answers": [[span.start_char, span.end_char, span._.score] for span in spans["answers"]],
        "masks": [[span.start_char, span.end_char, span._.candidates] for span in spans["masks"]],
        "tags": [token.tag_ for token in doc],
        "tensor": float(np.abs(doc.tensor).sum()),
    }


def assert_alike(found, expected):
    """The same, numbers up to rounding: `expected` has five digits, and other CPUs add up in other orders."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_alike(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-4, rel=1e-4)
    else:
        assert found == expected


def assert_as_then(nlp, expected):
    """The annotations of the texts that fit in a window are those in the archive."""
    docs = [doc for doc in expected if len(doc["text"]) < LONG]
    assert len(docs) >= len(expected) - 1
    for doc, wanted in zip(nlp.pipe([doc["text"] for doc in docs]), docs, strict=True):
        assert_alike(annotations(doc), wanted)


@pytest.mark.parametrize("name", PIPELINES)
def test_it_annotates_as_it_did(saved, name):
    expected = json.loads((saved / "expected.json").read_text(encoding="utf-8"))[name]
    assert any(doc["ents"] or doc["cats"] or doc["masks"] for doc in expected)
    assert_as_then(spacy.load(saved / name), expected)


def test_bytes_of_then_load_too(saved):
    expected = json.loads((saved / "expected.json").read_text(encoding="utf-8"))["entities"]
    nlp = spacy.blank("en").from_config(spacy.util.load_config(saved / "entities/config.cfg"))
    nlp.from_bytes((saved / "entities.bytes").read_bytes())
    assert_as_then(nlp, expected)


def test_they_can_be_trained_on(saved):
    """Heads, encoder and a listener's component still learn together."""
    nlp = spacy.load(saved / "entities")
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 3e-3
    torch.manual_seed(0)
    text = "Anna lives in Berlin"
    gold = {"entities": [(0, 4, "PERSON")], "cats": {"home": 0.0, "work": 1.0}, "tags": ["X", "X", "N", "N"]}
    losses = []
    for _ in range(40):
        example = spacy.training.Example.from_dict(nlp.make_doc(text), gold)
        losses.append(nlp.update([example], sgd=optimizer))
    for name in ("ner", "textcat", "tagger"):
        assert losses[-1][name] < losses[0][name] / 2
