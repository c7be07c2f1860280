"""The space that is searched when none is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.tune.configs import filled_config, settings_of
from spacy_bertft.jobs.tune.default_space import default_space
from spacy_bertft.jobs.tune.space import Choices, Range, read_space, space_text

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.cfg"))
TRAINING = [path for path in CONFIGS if "[components]" in path.read_text(encoding="utf-8")]
RATE = "training.optimizer.learn_rate"


def space_of(name="ner", **changed):
    path = next(path for path in CONFIGS if path.stem == name)
    settings = settings_of(filled_config(path, {}))
    return default_space(settings | {key.replace("__", "."): value for key, value in changed.items()})


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_it_holds_the_config_s_own_values_and_can_be_read(path, tmp_path):
    settings = settings_of(filled_config(path, {}))
    space = default_space(settings)
    assert None not in [setting.place(settings[setting.name]) for setting in space]
    assert {setting.name.rpartition(".")[2] for setting in space} >= {"initial_rate", "dropout", "layer_decay"}
    (tmp_path / "space.cfg").write_text(space_text(space), encoding="utf-8")
    assert read_space(tmp_path / "space.cfg", settings) == space


def test_it_lies_around_the_config_s_values():
    assert space_of() == (
        Range(f"{RATE}.initial_rate", 1.25e-5, 2e-4, whole=False, log=True),
        Range("training.max_epochs", 2, 8, whole=True),
        Range("training.dropout", 0.0, 0.3, whole=False, step=0.05),
        Range("components.encoder.tuning.layer_decay", 0.7, 1.0, whole=False, step=0.05),
        Choices("training.batcher.size", (8, 16, 32)),
    )


def test_values_off_the_grid_are_inside():
    space = {setting.name: setting for setting in space_of(training__dropout=0.37)}
    assert space["training.dropout"] == Range("training.dropout", 0.0, 0.37, whole=False)


def test_a_run_in_steps_varies_its_steps():
    space = space_of(training__max_epochs=0, training__max_steps=100)
    assert Choices("training.max_steps", (50, 100, 200)) in space


def test_what_the_config_does_not_have_is_left_out():
    # Under a schedule of a fixed length, a longer run would add steps at a rate of 0.
    names = {setting.name for setting in space_of(**{f"{RATE}.@schedules".replace(".", "__"): "warmup_linear.v1"})}
    assert "training.max_epochs" not in names
    bare = {"training.max_epochs": 4, "training.max_steps": 0, "training.dropout": {"@schedules": "decaying.v1"}}
    with pytest.raises(ConfigError, match="--space"):
        default_space(bare)
