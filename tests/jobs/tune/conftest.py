"""A config that trains a tiny encoder on six texts in a few steps, and its data."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from pipelines import blank, examples
from spacy.tokens import DocBin
from spacy.util import load_config

NER = Path(__file__).parents[3] / "configs/ner.cfg"
RATE = "training.optimizer.learn_rate.initial_rate"


@pytest.fixture(scope="session")
def given(tmp_path_factory, tiny_bert):
    """A folder with config.cfg, whose own learning rate is a good one, and space.cfg, with bad ones too."""
    folder = tmp_path_factory.mktemp("tune")
    docs = [eg.reference for eg in examples(blank(tiny_bert))]
    DocBin(docs=docs).to_disk(folder / "data.spacy")
    overrides = {
        "paths.train": str(folder / "data.spacy"),
        "paths.dev": str(folder / "data.spacy"),
        "components.encoder.model.name": str(tiny_bert),
        "components.encoder.model.device": "cpu",
        "training.max_steps": 20,
        "training.max_epochs": 0,
        "training.eval_frequency": 2,
        RATE: 0.01,
    }
    load_config(NER, overrides=overrides, interpolate=False).to_disk(folder / "config.cfg")
    (folder / "space.cfg").write_text(
        f"[{RATE}]\nchoices = [0.01, 1e-9, 2e-9, 3e-9]\n\n[training.dropout]\nlow = 0\nhigh = 0.2\n", encoding="utf-8"
    )
    return SimpleNamespace(folder=folder, config=folder / "config.cfg", space=folder / "space.cfg")
