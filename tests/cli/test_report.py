"""The command `report`."""

from __future__ import annotations

import json

import pytest
from pipelines import ANNOTATED, trained
from typer.testing import CliRunner

from spacy_bertft.cli import app

pytestmark = pytest.mark.touches_transformers


def run(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="bertft")


@pytest.fixture(scope="module")
def folder(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    trained(tiny_bert).to_disk(folder / "pipeline")
    lines = [json.dumps({"text": text, "spans": spans, "label": cat}) for text, spans, cat in ANNOTATED]
    for name in ("dev", "train"):
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_help_names_the_options():
    assert "report" in run("--help").output
    text = run("report", "--help").output
    for option in ("--output", "--compare", "--train", "--seed", "--code"):
        assert option in text


def test_it_writes_the_page_and_shows_the_main_scores(folder, tmp_path):
    dev, page = folder / "dev.jsonl", tmp_path / "new" / "page.html"
    result = run("report", folder / "pipeline", dev, dev, "--train", folder / "train.jsonl", "--output", page)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "ner: F-score 100.00 (95 % interval 100.00 to 100.00)",
        "textcat: Accuracy 100.00 (95 % interval 100.00 to 100.00)",
        f"✔ The report on 12 texts: {page} (open it in a browser)",
    ]
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"pipeline": "none"}, "is not a folder"),
        ({"data": "none.jsonl"}, "were not found"),
        ({"compare": "none"}, "is not a folder"),
        ({"train": "none.jsonl"}, "were not found"),
        ({"output": "."}, "found a folder; expected an HTML file"),
    ],
)
def test_an_error_is_one_message_and_code_1(folder, tmp_path, changed, said):
    paths = {"pipeline": folder / "pipeline", "data": folder / "dev.jsonl", "output": tmp_path / "page.html"}
    paths |= {name: tmp_path / path for name, path in changed.items()}
    options = [word for name in ("output", "compare", "train") if name in paths for word in (f"--{name}", paths[name])]
    result = run("report", paths["pipeline"], paths["data"], *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert not (tmp_path / "page.html").exists()
