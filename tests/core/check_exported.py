"""Load a pipeline where torch is not installed, and compare its annotations: for `nox -s core`.

python tests/core/check_exported.py PIPELINE EXPECTED.json
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import spacy

TEXTS = ["Anna lives in Berlin", "Bob Stone went to work in Rome yesterday", "", "I met Clara in the office"]
ABSENT = ("torch", "transformers", "onnx")


def annotations(nlp: Any, texts: list[str]) -> list[dict[str, Any]]:
    """Entities and categories with their scores."""
    return [
        {
            "entities": [[ent.start_char, ent.end_char, ent.label_, ent._.score] for ent in doc.ents],
            "categories": doc.cats,
        }
        for doc in nlp.pipe(texts)
    ]


def differences(found: Any, expected: Any) -> float:
    """The largest difference of numbers; everything else has to be equal."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), (found, expected)
        return max((differences(found[key], value) for key, value in expected.items()), default=0.0)
    if isinstance(expected, list):
        assert len(found) == len(expected), (found, expected)
        return max((differences(*both) for both in zip(found, expected, strict=True)), default=0.0)
    if isinstance(expected, float):
        return abs(found - expected)
    assert found == expected, (found, expected)
    return 0.0


def main(pipeline: str, expected: Path) -> None:
    """Load, annotate, compare."""
    there = [name for name in ABSENT if find_spec(name) is not None]
    assert not there, f"found {there}: the pipeline's wheel requires more than it needs"
    nlp = spacy.load(pipeline)
    off = differences(annotations(nlp, TEXTS), json.loads(expected.read_text(encoding="utf-8")))
    assert off < 1e-4, off
    n_installed = sum(1 for _ in distributions())
    print(f"{pipeline}: same annotations (scores within {off:.1g}), {n_installed} distributions installed, no torch")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
