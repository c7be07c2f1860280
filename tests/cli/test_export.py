from __future__ import annotations

import pytest
import spacy
from pipelines import TEXTS, examples, trained
from spacy.tokens import DocBin
from typer.testing import CliRunner

from spacy_bertft.cli import app
from spacy_bertft.engines import onnx_int8
from spacy_bertft.jobs.export import compare

pytestmark = pytest.mark.touches_transformers


def run(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="bertft")


@pytest.fixture(scope="module")
def pipeline(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "pipeline"
    trained(tiny_bert).to_disk(folder)
    DocBin(docs=[eg.reference for eg in examples(spacy.blank("en"))]).to_disk(folder.with_name("dev.spacy"))
    return folder


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr(compare, "SAMPLE_WORDS", 100)
    monkeypatch.setattr(compare, "ROUNDS", 1)


def test_help_names_the_options():
    assert "export" in run("--help").output
    text = run("export", "--help").output
    for option in ("--engine", "--int8", "--dev", "--tolerance", "--force", "--overwrite", "--code"):
        assert option in text


def test_export_shows_what_changed(pipeline, tmp_path):
    dev = pipeline.with_name("dev.spacy")
    result = run("export", pipeline, tmp_path / "out", "--engine", "onnx", "--int8", "--dev", dev, "--tolerance", 5)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert result.stdout.startswith(f"Hidden states of {len(TEXTS)} texts of the dev set: largest difference ")
    assert any(line[:3] == ["ents_f", "100.00", "100.00"] and line[3] in ("+0.00", "-0.00") for line in lines if line)
    assert any(line[0] == "words/s" and line[-1].endswith("x") for line in lines if line)
    assert any(line[:3] == ["MB", "on", "disk"] and float(line[-1][:-1]) < 1 for line in lines if line)
    assert "scores of single labels are as before." in result.stdout
    assert result.stdout.endswith(f"✔ {tmp_path / 'out'}: encoder encoder for ONNX Runtime, int8\n")
    assert "no scores" not in result.stderr
    assert spacy.load(tmp_path / "out")(TEXTS[1]).ents


def test_without_a_dev_set_it_says_that_no_scores_were_compared(pipeline, tmp_path):
    result = run("export", pipeline, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "built-in texts" in result.stdout
    assert "score (points)" not in result.stdout
    assert "no scores were compared: give a dev set with --dev" in result.stderr


def test_a_drop_is_shown_and_refused_and_forced(pipeline, tmp_path, monkeypatch):
    quantise = onnx_int8.quantise_weight
    monkeypatch.setattr(onnx_int8, "quantise_weight", lambda weight, _: quantise(0 * weight))  # all weights 0
    arguments = ("export", pipeline, tmp_path / "out", "--int8", "--dev", pipeline.with_name("dev.spacy"))
    result = run(*arguments)
    assert result.exit_code == 1
    assert "cats_score" in result.stdout  # the report that the refusal rests on
    assert "✘ The exported pipeline is worse on " in result.stderr
    assert "✔" not in result.stdout
    assert not (tmp_path / "out").exists()
    result = run(*arguments, "--force")
    assert result.exit_code == 0, result.output
    assert " dropped by " in result.stderr
    assert (tmp_path / "out/config.cfg").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "openvino"], "openvino"),
        (["--tolerance", "much"], "--tolerance"),
        (["--int4"], "--int4"),
    ],
)
def test_options_typed_wrongly_are_refused(pipeline, tmp_path, arguments, said):
    result = run("export", pipeline, tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_an_error_is_one_message(pipeline, tmp_path):
    result = run("export", tmp_path / "nowhere", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith("✘ The pipeline ")
    assert "Traceback" not in result.output
    result = run("export", pipeline, tmp_path / "out", "--tolerance", "-1")
    assert result.stderr.startswith("✘ The tolerance is -1;")


def test_huggingface_shows_each_head_and_where_it_is(pipeline, tmp_path):
    result = run("export", pipeline, tmp_path / "out", "--engine", "huggingface")
    assert (result.exit_code, result.stderr) == (0, "")
    ner, textcat = result.stdout.splitlines()
    assert ner.startswith(f"✔ {tmp_path / 'out/ner'}: BertForTokenClassification, labels: O, B-CITY, ")
    assert textcat.startswith(
        f"✔ {tmp_path / 'out/textcat'}: BertForSequenceClassification, labels: home, work; largest"
    )
    again = run("export", pipeline, tmp_path / "out", "--engine", "huggingface")
    assert again.exit_code == 1
    assert "holds exported checkpoints already" in again.stderr


def test_options_of_onnx_mean_nothing_for_huggingface(pipeline, tmp_path):
    result = run("export", pipeline, tmp_path / "out", "--engine", "huggingface", "--int8", "--tolerance", "1")
    assert result.exit_code == 1
    assert "Found --int8, --tolerance with --engine huggingface. Expected --engine onnx" in result.stderr


def test_code_registers_functions_that_the_pipeline_needs(pipeline, tmp_path):
    (tmp_path / "functions.py").write_text(
        "from spacy.language import Language\n\n\n"
        '@Language.component("export_test_shout")\n'
        "def shout(doc):\n    doc.user_data['shout'] = doc.text.upper()\n    return doc\n",
        "utf-8",
    )
    config = (pipeline / "config.cfg").read_text("utf-8")
    own = tmp_path / "own"
    spacy.load(pipeline).to_disk(own)
    config = (
        config.replace('"textcat"]', '"textcat","shout"]') + '\n[components.shout]\nfactory = "export_test_shout"\n'
    )
    (own / "config.cfg").write_text(config, "utf-8")
    result = run("export", own, tmp_path / "out")
    assert result.exit_code == 1
    assert "export_test_shout" in result.stderr
    assert "--code" in result.stderr
    result = run("export", own, tmp_path / "out", "--code", tmp_path / "functions.py")
    assert result.exit_code == 0, result.output
    assert spacy.load(tmp_path / "out")("a").user_data["shout"] == "A"
