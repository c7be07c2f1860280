from __future__ import annotations

import subprocess
import sys

import pytest
import spacy
from pipelines import TEXTS, annotated_file, trained
from typer.testing import CliRunner

from spacy_bertft.cli import app

pytestmark = pytest.mark.touches_transformers


def run(*args: object):
    return CliRunner().invoke(app, ["shrink", *map(str, args)], prog_name="bertft")


@pytest.fixture(scope="module")
def pipeline(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "pipeline"
    trained(tiny_bert).to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return annotated_file(tmp_path_factory.mktemp("data") / "train.jsonl")


def test_help_names_the_options():
    text = run("--help").output
    for option in (
        "--output",
        "--layers",
        "--min-count",
        "--max-size",
        "--min-size",
        "--no-characters",
        "--dev",
        "--overwrite",
    ):
        assert option in text


def test_a_pipeline_and_what_became_of_it(pipeline, data, tmp_path):
    result = run(pipeline, data, "--output", tmp_path / "out", "--dev", data)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0][0] == "encoder"
    counts = {line[0]: line[-3:] for line in lines[1:4]}
    assert int(counts["subwords"][0]) > int(counts["subwords"][1])
    assert counts["subwords"][2] < "1.00x"
    assert counts["layers"] == ["2", "2", "1.00x"]
    assert any(line[:3] == ["MB", "on", "disk"] for line in lines)
    assert "100.00 % of the corpus's subwords are kept" in result.stdout
    assert f"0 of {len(TEXTS)} held-out texts (0.0 %) split in another way" in result.stdout
    assert any(line[0] == "ents_f" and line[-1] in ("+0.00", "-0.00") for line in lines if line)
    assert result.stdout.splitlines()[-1].startswith(f"✔ {tmp_path / 'out'}: ")
    assert "⚠" not in result.stderr
    assert spacy.load(tmp_path / "out")(TEXTS[1]).ents


@pytest.mark.parametrize(("given", "kept"), [("1", "0"), ("0,1", "0, 1"), ("1,", "1")])
def test_layers_of_an_encoder(tiny_bert, tmp_path, given, kept):
    result = run(tiny_bert, "--output", tmp_path / "out", "--layers", given)
    assert result.exit_code == 0, result.output
    assert f"layers kept, from 0: {kept}\n" in result.stdout
    assert ("layers were dropped: train the result again" in result.stderr) is (kept != "0, 1")
    assert "nothing was compared: give held-out texts with --dev" in result.stderr
    assert (tmp_path / "out/config.json").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--layers", "0,x"], "✘ --layers is '0,x'. Expected numbers of layers from 0"),
        (["--layers", "9"], "✘ layers is 9, of an encoder with 2"),
        ([], "✘ There is nothing to shrink"),
    ],
)
def test_errors_are_one_line(tiny_bert, tmp_path, options, said):
    result = run(tiny_bert, "--output", tmp_path / "out", *options)
    assert result.exit_code == 1
    assert said in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_spacy_s_command_line_has_it(tiny_bert, data, tmp_path):
    command = [sys.executable, "-m", "spacy", "bertft", "shrink", tiny_bert, data, "--output", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "✔" in done.stdout
