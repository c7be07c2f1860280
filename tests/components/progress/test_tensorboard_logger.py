"""TensorBoard's events of a run, and what is said without the library or a folder."""

from __future__ import annotations

import sys

import pytest
from runs import run_config, with_logger
from spacy.cli.train import train
from typer.testing import CliRunner

from spacy_bertft.cli import app
from spacy_bertft.errors import ConfigError

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]
BLOCK = {"@loggers": "spacy-bertft.TensorBoardLogger.v1", "log_dir": None}


@pytest.fixture
def config(tiny_bert, tmp_path):
    return run_config(tmp_path, tiny_bert)


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_it_has_every_step_beside_the_models_and_runs_in_a_chain(config, tmp_path):
    console = {"@loggers": "spacy-bertft.ConsoleLogger.v1"}
    with_logger(config, {"@loggers": "spacy.ChainLogger.v1", "logger1": console, "logger2": BLOCK})
    result = CliRunner().invoke(app, ["train", str(config), "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    found = events(tmp_path / "out/tensorboard")
    scalars = {tag: {event.step: event.value for event in found.Scalars(tag)} for tag in found.Tags()["scalars"]}
    assert scalars.keys() >= {
        *("loss/ner", "loss/textcat", "training/learn_rate", "training/grad_norm", "training/epoch"),
        *("speed/subwords_per_second", "memory/process_mib", "score/score", "score/ents_f", "score/cats_score"),
    }
    assert "score/speed" not in scalars
    assert any(tag.startswith("cats_f_per_type/") for tag in scalars)
    assert list(scalars["loss/ner"]) == [0, 1, 2, 3, 4, 5]
    assert list(scalars["score/score"]) == [0, 2, 4, 5]
    assert max(scalars["training/learn_rate"].values()) == pytest.approx(5e-5)
    (text,) = found.Tensors("config/text_summary")
    assert b"bertft_encoder" in text.tensor_proto.string_val[0]
    rows = (tmp_path / "out/training_log.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 7


def test_log_dir_is_the_folder(config, tmp_path):
    with_logger(config, {**BLOCK, "log_dir": str(tmp_path / "events")})
    train(config)
    assert events(tmp_path / "events").Scalars("score/score")


def test_it_needs_a_folder(config):
    with_logger(config, BLOCK)
    with pytest.raises(ConfigError, match="neither a log_dir nor an --output folder"):
        train(config)


def test_without_the_library_it_names_the_extra(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with_logger(config, {**BLOCK, "log_dir": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"spacy-bertft\[tensorboard\]"):
        train(config)
