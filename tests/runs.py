"""Configs of short trainings on the examples of pipelines.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import spacy
from pipelines import ANNOTATED, examples
from spacy.tokens import DocBin
from spacy.util import load_config
from thinc.api import Config

CONFIGS = Path(__file__).parents[1] / "configs"


def run_config(folder: Path, encoder: Path, *, name: str = "ner_textcat", **changes: Any) -> Path:
    """Write a config of configs/ with data for it, and give its path. changes: section__key = value."""
    nlp = spacy.blank("en")
    data = folder / "data.spacy"
    DocBin(docs=[eg.reference for eg in examples(nlp, ANNOTATED * 2)]).to_disk(data)
    changed = {
        "paths.train": str(data),
        "paths.dev": str(data),
        "components.encoder.model.name": str(encoder),
        "components.encoder.model.device": "cpu",
        "components.encoder.model.precision": "float32",  # in other processes too
        "training.max_epochs": 2,
        "training.eval_frequency": 2,
        "training.batcher.size": 4,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    config = load_config(CONFIGS / f"{name}.cfg", overrides=changed, interpolate=False)
    path = folder / "config.cfg"
    config.to_disk(path)
    return path


def with_logger(path: Path, block: dict[str, Any]) -> Path:
    """Replace the logger of a config."""
    config = Config().from_disk(path, interpolate=False)
    config["training"]["logger"] = block
    config.to_disk(path)
    return path
