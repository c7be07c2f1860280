"""`bertft import`: what it shows, and what it refuses."""

from __future__ import annotations

import pytest
import spacy
from checkpoints import make_checkpoint, named
from typer.testing import CliRunner

from spacy_bertft.cli import app

pytestmark = pytest.mark.touches_transformers


def run(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="bertft")


def test_help_names_the_options():
    text = run("import", "--help").output
    for option in ("--output", "--task", "--lang", "--pairs", "--scheme", "--outside", "--revision", "--overwrite"):
        assert option in text


@pytest.mark.parametrize(
    ("task", "options", "out", "said"),
    [
        ("ner", [], "labels: LOC, PER\nscheme: bio\n", "if it was trained on IOB1, give --scheme iob1"),
        ("ner", ["--scheme", "iob1"], "labels: LOC, PER\nscheme: iob1\n", "as transformers', largest difference"),
        ("textcat", [], "labels: praise, blame, question\n", "if it was trained on pairs of texts, give --pairs"),
        ("textcat", ["--pairs"], "labels: praise, blame, question\n", "largest difference"),
        ("multilabel", [], "labels: praise, blame, question\n", "largest difference"),
        ("regression", [], "", "largest difference"),
        ("qa", [], "", "largest difference"),
        ("fill-mask", ["--task", "fill-mask"], "", ""),
    ],
)
def test_it_shows_what_was_read_from_the_checkpoint(tmp_path, task, options, out, said):
    folder = make_checkpoint(tmp_path / "c", "bert-uncased", task)
    result = run("import", folder, "--output", tmp_path / "out", *options)
    assert result.exit_code == 0, result.stderr
    *shown, end = result.stdout.splitlines(keepends=True)
    assert "".join(shown) == out
    assert said in result.stderr
    nlp = spacy.load(tmp_path / "out")
    assert end.startswith(f"✔ {tmp_path / 'out'}: BertFor")
    assert f" as {', '.join(nlp.pipe_names)} (" in end


def test_labels_without_names_are_pointed_out(tmp_path):
    folder = make_checkpoint(tmp_path / "c", "bert-uncased", "multilabel", **named(("LABEL_0", "LABEL_1")))
    assert "write them into id2label" in run("import", folder, "-o", tmp_path / "out").stderr


def test_an_error_is_one_message(tmp_path):
    (tmp_path / "empty").mkdir()
    result = run("import", tmp_path / "empty", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith("✘ The folder")
    assert result.stderr.count("\n") == 1
