"""The configs to start from: what all of them hold."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import spacy
from spacy.util import load_config

import spacy_bertft
from spacy_bertft.jobs.recipes.init import init

CONFIGS = sorted((Path(spacy_bertft.__file__).parents[1] / "configs").glob("*.cfg"))
CONFIG_TASKS = runpy.run_path(str(CONFIGS[0].parents[1] / "scripts/make_configs.py"))["CONFIGS"]
TRAINING = [path for path in CONFIGS if "[components]" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_it_makes_a_pipeline_with_nothing_left_to_fill_in(path):
    config = load_config(path)
    nlp = spacy.util.load_model_from_config(config, auto_fill=False, validate=True)
    assert nlp.component_names == list(config["components"])


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_the_precision_is_that_which_suits_the_device(path):
    assert load_config(path)["components"]["encoder"]["model"]["precision"] == "auto"


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_a_rate_factor_is_said_to_be_of_the_optimizer_s_rate(path):
    """That is what the code multiplies; the encoder has a factor of its own."""
    text = path.read_text(encoding="utf-8")
    comments = re.findall(r"^# (.*)\nlearn_rate_factor", text, re.MULTILINE)
    assert not [comment for comment in comments if "multiple of the encoder's" in comment]


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_it_is_what_init_writes_without_data(path, tmp_path, monkeypatch):
    """So there is one source of recipes; `python scripts/make_configs.py` writes them again."""
    monkeypatch.chdir(tmp_path)
    init(CONFIG_TASKS[path.stem], Path("configs", path.name))
    assert Path("configs", path.name).read_text(encoding="utf-8") == path.read_text(encoding="utf-8")
