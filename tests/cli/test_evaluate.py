from __future__ import annotations

import json
import os
import shutil

import pytest
import spacy
from pipelines import ANNOTATED, annotated_file, trained
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab
from typer.testing import CliRunner

from spacy_bertft.cli import app
from spacy_bertft.jobs.evaluate import evaluate

pytestmark = pytest.mark.touches_transformers


def run(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="bertft")


@pytest.fixture(scope="module")
def pipeline(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "pipeline"
    trained(tiny_bert).to_disk(folder)
    return folder


@pytest.fixture
def dev(tmp_path):
    """The texts that were learned, one with another category and one without its entity."""
    (first, second, *rest) = ANNOTATED
    return annotated_file(tmp_path / "dev.jsonl", [(*first[:2], "work"), (second[0], second[1][:1], second[2]), *rest])


def rows(text):
    return [line.split() for line in text.splitlines()]


def test_help_names_the_options():
    assert "evaluate" in run("--help").output
    text = run("evaluate", "--help").output
    for option in ("--output", "--labels", "--displacy", "--code"):
        assert option in text


def test_it_shows_every_score_in_points(pipeline, dev):
    result = run("evaluate", pipeline, dev)
    assert (result.exit_code, result.stderr) == (0, "")
    assert rows(result.stdout)[0] == ["score", "points"]
    found = {name: float(value) for name, value in rows(result.stdout)[1:]}
    scores = evaluate(pipeline, dev).overall
    assert found["cats_micro_f"] == pytest.approx(100 * 5 / 6, abs=0.01)
    assert found["ents_p"] == pytest.approx(100 * 6 / 7, abs=0.01)
    assert found["ents_r"] == 100.0
    assert found == {
        name: pytest.approx(value, abs=0.005) for name, value in scores.items() if not name.startswith("token_")
    }
    assert "speed" not in result.stdout


def test_scores_of_labels_are_shown_if_asked_for(pipeline, dev):
    assert "PERSON" not in run("evaluate", pipeline, dev).stdout
    result = run("evaluate", pipeline, dev, "--labels")
    assert ["ents_per_type.PERSON.f", "100.00"] in rows(result.stdout)
    assert ["cats_f_per_type.work.r", "75.00"] in rows(result.stdout)


def test_the_scores_of_the_tokenizer_are_shown_where_it_errs(pipeline, tmp_path):
    doc = Doc(Vocab(), words=["Anna's", "home"], spaces=[True, False])
    doc.cats = {"home": 1.0}
    DocBin(docs=[doc]).to_disk(tmp_path / "dev.spacy")
    assert "token_f" in run("evaluate", pipeline, tmp_path / "dev.spacy").stdout


def test_all_scores_go_to_a_file(pipeline, dev, tmp_path):
    path = tmp_path / "new" / "scores.json"
    result = run("evaluate", pipeline, dev, "--output", path)
    assert result.exit_code == 0
    assert result.stdout == run("evaluate", pipeline, dev).stdout
    scores = evaluate(pipeline, dev)
    content = json.loads(path.read_text("utf-8"))
    assert content == {**scores.overall, **scores.of_labels}
    assert {"ents_f", "cats_score", "token_acc", "ents_per_type.CITY.p"} <= content.keys()


def test_converted_texts_give_the_same(pipeline, dev, tmp_path):
    assert run("convert", dev, "--output", tmp_path / "out").exit_code == 0
    for data in (tmp_path / "out" / "dev.spacy", tmp_path / "out"):
        assert run("evaluate", pipeline, data, "--labels").stdout == run("evaluate", pipeline, dev, "--labels").stdout


def test_data_without_annotation_for_any_component(tiny_bert, tmp_path):
    trained(tiny_bert, {"ner": "bertft_ner"}, steps=1).to_disk(tmp_path / "ner")
    (tmp_path / "dev.jsonl").write_text('{"text": "Anna lives in Berlin"}\n', "utf-8")
    result = run("evaluate", tmp_path / "ner", tmp_path / "dev.jsonl")
    assert result.exit_code in (0, 1)
    assert result.exception is None or isinstance(result.exception, SystemExit)  # no traceback


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("pipeline", "is not a folder"),
        ("folder", "has no config.cfg; found nothing"),
        ("data", "were not found"),
        ("ending", "content of an unknown format"),
        ("content", "dev.jsonl:1: found invalid JSON"),
        ("empty", "hold no texts"),
    ],
)
def test_an_error_is_one_message_and_code_1(pipeline, dev, tmp_path, bad, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "dev.txt").write_text("x")
    if bad == "content":
        dev.write_text("no json")
    where = {"pipeline": tmp_path / "nowhere", "folder": tmp_path / "empty"}.get(bad, pipeline)
    names = {"data": "none.spacy", "ending": "dev.txt", "empty": "empty"}
    result = run("evaluate", where, tmp_path / names.get(bad, "dev.jsonl"), "--output", tmp_path / "scores.json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("✘ ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "scores.json").exists()


def test_wrong_use_is_code_2(pipeline):
    assert run("evaluate", pipeline).exit_code == 2
    assert run("evaluate", pipeline, "x", "--label").exit_code == 2


def test_code_registers_functions_that_the_pipeline_needs(pipeline, dev, tmp_path):
    code = "from spacy.language import Language\n\n\n@Language.component('evaluate_test_same')\n"
    (tmp_path / "functions.py").write_text(code + "def same(doc):\n    return doc\n", "utf-8")
    own = shutil.copytree(pipeline, tmp_path / "own")
    config = spacy.util.load_config(own / "config.cfg")
    config["nlp"]["pipeline"].append("same")
    config["components"]["same"] = {"factory": "evaluate_test_same"}
    config.to_disk(own / "config.cfg")
    result = run("evaluate", own, dev)
    assert result.exit_code == 1
    assert "--code" in result.stderr
    assert run("evaluate", own, dev, "--code", tmp_path / "functions.py").exit_code == 0


def test_entities_can_be_looked_at(pipeline, dev, tmp_path):
    result = run("evaluate", pipeline, dev, "--displacy", tmp_path / "pages")
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert result.stdout == run("evaluate", pipeline, dev).stdout
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["entities.html"]
    page = (tmp_path / "pages" / "entities.html").read_text("utf-8")
    assert ANNOTATED[0][0].split()[0] in page
    assert 'class="entity"' in page
    failed = run("evaluate", pipeline, dev, "--displacy", dev)
    assert failed.exit_code == 1
    assert "found a file; expected a folder to write to; fix: name another" in failed.stderr


def refused(result, *said):
    """One message and code 1."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("✘ ")
    assert result.stderr.count("\n") == 1
    for words in said:
        assert words in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.py", None, "found no such file"),
        ("folder", None, "found a folder"),
        ("code.txt", "x = 1", "found something else"),
        ("code.py", "1 / 0", "found code that fails (ZeroDivisionError: division by zero)"),
        ("code.py", "def", "found code that fails (SyntaxError: "),
    ],
)
def test_code_that_cannot_be_run_is_one_message(tmp_path, name, content, said):
    (tmp_path / "folder").mkdir()
    if content is not None:
        (tmp_path / name).write_text(content)
    for command in (("evaluate", "p", "d"), ("calibrate", "p", "d"), ("export", "p", "o"), ("migrate", "p", "o")):
        refused(run(*command, "--code", tmp_path / name), f"{name}: {said}", "; expected ", "; fix: ")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_nothing_waits_for_a_fifo(pipeline, dev, tmp_path):
    os.mkfifo(tmp_path / "fifo.jsonl")
    for name in ("config.cfg", "meta.json"):
        odd = shutil.copytree(pipeline, tmp_path / name)
        (odd / name).unlink()
        os.mkfifo(odd / name)
        for command in (("evaluate", odd, dev), ("calibrate", odd, dev), ("export", odd, tmp_path / "o"),
                        ("migrate", odd, tmp_path / "o")):  # fmt: skip
            refused(run(*command), f"{name}: found something that is not a regular file")
    for command in (("evaluate", pipeline), ("calibrate", pipeline), ("export", pipeline, tmp_path / "o", "--dev")):
        refused(run(*command, tmp_path / "fifo.jsonl"), "fifo.jsonl: found something that is not a regular file")
    (tmp_path / "data").mkdir()
    os.mkfifo(tmp_path / "data" / "a.spacy")
    refused(run("evaluate", pipeline, tmp_path / "data"), "a.spacy: found something that is not a regular file")


@pytest.mark.parametrize("option", ["--output", "--displacy"])
def test_results_that_cannot_be_written_are_one_message(pipeline, dev, option):
    refused(run("evaluate", pipeline, dev, option, dev / "in a file"), "in a file' could not be written: ")


def test_a_full_disk_is_one_message(pipeline, dev, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    before = {path: path.read_bytes() for path in pipeline.rglob("*") if path.is_file()}
    monkeypatch.setattr("shutil.copytree", full)
    for command in (("export", pipeline, tmp_path / "out"), ("calibrate", pipeline, dev, "--output", tmp_path / "out")):
        result = run(*command)
        assert result.exit_code == 1
        assert f"✘ The output '{tmp_path / 'out'}' could not be written: [Errno 28] No space left" in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
    assert before == {path: path.read_bytes() for path in pipeline.rglob("*") if path.is_file()}
