"""`bertft distill`: options, table, one message where something is wrong."""

from __future__ import annotations

import pytest
from pipelines import annotated_file, trained
from typer.testing import CliRunner

from spacy_bertft.cli import app
from spacy_bertft.jobs.export import compare

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]


def run(*args: object):
    return CliRunner().invoke(app, ["distill", *map(str, args)], prog_name="bertft")


@pytest.fixture(scope="module")
def teacher(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "teacher"
    trained(tiny_bert).to_disk(folder)
    annotated_file(folder.with_name("data.jsonl"))
    return folder


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr(compare, "SAMPLE_WORDS", 50)
    monkeypatch.setattr(compare, "ROUNDS", 1)


def test_help_names_the_options():
    text = run("--help").output
    for option in (
        "--train",
        "--dev",
        "--unlabelled",
        "--layers",
        "--student",
        "--output",
        "--weight",
        "--temperature",
    ):
        assert option in text


def test_it_trains_and_shows_a_table(teacher, tmp_path):
    data = teacher.with_name("data.jsonl")
    words = ["--train", data, "--dev", data, "--layers", 1, "--output", tmp_path / "out", "--weight", 0.5]
    result = run(teacher, *words, "--", "--training.max_epochs", 1)
    assert result.exit_code == 0, result.output
    out = result.stdout
    assert f"teacher    {teacher}\nstudent    {tmp_path / 'out/model-best'}\n" in out
    lines = [line.split() for line in out.splitlines()]
    assert any(line[:2] == ["ents_f", "100.00"] and line[-1].endswith("%") for line in lines if line)
    assert any(line[0] == "words/s" and len(line) == 3 for line in lines if line)
    assert "weight = 0.5" in (tmp_path / "out/config.cfg").read_text(encoding="utf-8")
    assert "max_epochs = 1\n" in (tmp_path / "out/config.cfg").read_text(encoding="utf-8")
    assert (tmp_path / "out/model-last").is_dir()


def test_settings_need_no_dashes_before_them(teacher, tmp_path):
    data = teacher.with_name("data.jsonl")
    words = ["--train", data, "--dev", data, "--output", tmp_path / "out"]
    result = run(teacher, *words, "--training.max_epochs", 1)
    assert result.exit_code == 1
    assert "found neither of a number of layers and a name" in result.output
    assert result.output.count("✘") == 1


def test_no_setting_of_the_config(teacher, tmp_path):
    data = teacher.with_name("data.jsonl")
    result = run(
        teacher, "--dev", data, "--train", data, "--layers", 1, "--output", tmp_path / "out", "--max_epochs", 1
    )
    assert result.exit_code == 2
    assert "expected an option of this command, or a setting of the config" in result.output
