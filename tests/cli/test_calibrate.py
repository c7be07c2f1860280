from __future__ import annotations

import json
import shutil

import pytest
import spacy
import torch
from pipelines import ANNOTATED, blank, trained
from typer.testing import CliRunner

from spacy_bertft.cli import app
from spacy_bertft.jobs.calibrate import calibrate
from spacy_bertft.jobs.evaluate import read_examples

pytestmark = pytest.mark.touches_transformers

KNOWN = [(text, cat) for text, _, cat in ANNOTATED] + [("Anna lives in Berlin", "work"), ("A meeting", "home")]
UNKNOWN = [(text, "none") for text in ("She sells sea shells.", "Merci beaucoup.", "A long fox", "Nothing")]


def run(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="bertft")


@pytest.fixture(scope="module")
def made(tiny_bert, tmp_path_factory):
    root = tmp_path_factory.mktemp("cli")
    dev = root / "dev.jsonl"
    dev.write_text("".join(json.dumps({"text": t, "label": cat}) + "\n" for t, cat in [*KNOWN, *UNKNOWN]), "utf-8")
    nlp = blank(tiny_bert, {})
    nlp.add_pipe("bertft_textcat", name="intent", config={"unknown_label": "none", "unknown_threshold": 9.0})
    torch.manual_seed(0)
    optimizer = nlp.initialize(lambda: read_examples(nlp, dev))
    optimizer.learn_rate = 3e-3
    for _ in range(12):
        nlp.update(read_examples(nlp, dev), sgd=optimizer)
    nlp.to_disk(root / "pipeline")
    return root


@pytest.fixture
def pipeline(made, tmp_path):
    return shutil.copytree(made / "pipeline", tmp_path / "pipeline")


@pytest.fixture
def dev(made):
    return made / "dev.jsonl"


def rows(text):
    return [line.split() for line in text.splitlines()]


def test_help_names_the_options():
    assert "calibrate" in run("--help").output
    text = run("calibrate", "--help").output
    for option in ("--output", "--component", "--dry-run", "--code"):
        assert option in text


def test_it_shows_settings_and_scores_before_and_after(pipeline, dev):
    expected = calibrate(pipeline, dev, dry_run=True)
    result = run("calibrate", pipeline, dev)
    assert (result.exit_code, result.stderr) == (0, "")
    found = rows(result.stdout)
    assert found[0] == ["component", "setting", "before", "after"]
    assert found[1][:3] == ["intent", "temperature", "1"]
    assert found[2][:3] == ["intent", "unknown_threshold", "9"]
    assert [float(row[3]) for row in found[1:3]] == [pytest.approx(one.after, rel=1e-4) for one in expected.fitted]
    assert found[3:5] == [[], ["score", "(points)", "before", "after"]]
    assert ["cats_unknown_r", "100.00", f"{expected.after.overall['cats_unknown_r']:.2f}"] in found
    assert ["cats_known_acc", "0.00", f"{expected.after.overall['cats_known_acc']:.2f}"] in found
    assert result.stdout.endswith(f"✔ set in {pipeline / 'config.cfg'}\n")
    task = spacy.load(pipeline).get_pipe("intent").task
    assert [task.temperature, task.unknown_threshold] == [one.after for one in expected.fitted]


def test_a_dry_run_says_what_it_would_set(pipeline, dev):
    before = (pipeline / "config.cfg").read_bytes()
    result = run("calibrate", pipeline, dev, "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.endswith(f"✔ would set in {pipeline / 'config.cfg'}\n")
    assert (pipeline / "config.cfg").read_bytes() == before
    done = run("calibrate", pipeline, dev)
    assert rows(done.stdout)[:-1] == rows(result.stdout)[:-1]


def test_a_copy_is_made_if_asked_for(pipeline, dev, tmp_path):
    before = (pipeline / "config.cfg").read_bytes()
    result = run("calibrate", pipeline, dev, "--output", tmp_path / "copy")
    assert result.exit_code == 0
    assert result.stdout.endswith(f"✔ set in {tmp_path / 'copy' / 'config.cfg'}\n")
    assert (pipeline / "config.cfg").read_bytes() == before
    assert (tmp_path / "copy" / "config.cfg").read_bytes() != before


def test_one_head_can_be_named(pipeline, dev):
    assert run("calibrate", pipeline, dev, "--component", "intent", "--dry-run").exit_code == 0
    result = run("calibrate", pipeline, dev, "--component", "slots")
    assert result.exit_code == 1
    assert "expected one named 'slots'" in result.stderr


def test_nothing_to_fit_is_said(tiny_bert, dev, tmp_path):
    trained(tiny_bert, {"tags": "bertft_textcat_multilabel"}, steps=1).to_disk(tmp_path / "tags")
    result = run("calibrate", tmp_path / "tags", dev)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "⚠ the heads have nothing to fit\n"


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("pipeline", "is not a folder"),
        ("data", "were not found"),
        ("content", "found no records"),
        ("annotation", "have no annotation for 'intent'"),
        ("unknown", "0 others to fit on"),
        ("output", "itself, or one lies in the other"),
    ],
)
def test_an_error_is_one_message_and_code_1(pipeline, dev, tmp_path, bad, said):
    before = (pipeline / "config.cfg").read_bytes()
    content = {"content": "", "annotation": '{"text": "a"}', "unknown": '{"text": "a", "label": "home"}'}
    if bad in content:
        dev = tmp_path / "other.jsonl"
        dev.write_text(content[bad])
    arguments = ["--output", tmp_path] if bad == "output" else []
    result = run(
        "calibrate",
        tmp_path / "nowhere" if bad == "pipeline" else pipeline,
        tmp_path / "none.spacy" if bad == "data" else dev,
        *arguments,
    )
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("✘ ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert (pipeline / "config.cfg").read_bytes() == before


def test_wrong_use_is_code_2(pipeline, dev):
    assert run("calibrate", pipeline).exit_code == 2
    assert run("calibrate", pipeline, dev, "--temperature", "2").exit_code == 2


def test_code_registers_functions_that_the_pipeline_needs(pipeline, dev, tmp_path):
    code = "from spacy.language import Language\n\n\n@Language.component('calibrate_test_same')\n"
    (tmp_path / "functions.py").write_text(code + "def same(doc):\n    return doc\n", "utf-8")
    config = spacy.util.load_config(pipeline / "config.cfg")
    config["nlp"]["pipeline"].append("same")
    config["components"]["same"] = {"factory": "calibrate_test_same"}
    config.to_disk(pipeline / "config.cfg")
    result = run("calibrate", pipeline, dev)
    assert result.exit_code == 1
    assert "--code" in result.stderr
    assert run("calibrate", pipeline, dev, "--code", tmp_path / "functions.py").exit_code == 0
