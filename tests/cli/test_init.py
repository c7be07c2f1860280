from __future__ import annotations

import json
import re

import pytest
from spacy.util import load_config
from typer.testing import CliRunner

from spacy_bertft.cli import app

pytestmark = pytest.mark.touches_transformers


def run(*args: object):
    return CliRunner().invoke(app, ["init", *map(str, args)], prog_name="bertft")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    lines = [{"text": f"Anna lives in Berlin {n}", "label": "home" if n % 2 else "work"} for n in range(20)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_help_names_the_tasks_and_options():
    text = run("--help").output
    for word in ("ner+textcat", "--train", "--dev", "--encoder", "--lang", "--aim", "--output", "--label-key"):
        assert word in text
    assert "--shots" in text


def test_it_says_what_it_chose_and_why(data, tiny_bert, tmp_path):
    output = tmp_path / "a.cfg"
    result = run("textcat", "--train", data, "--dev", data, "--encoder", tiny_bert, "--output", output)
    assert result.exit_code == 0, result.output
    assert re.search(r"train +20 texts; \d+ subwords on average", result.stdout)
    assert "categories: home 10, work 10" in result.stdout
    training = load_config(output)["training"]
    assert re.search(rf"max_epochs +{training['max_epochs']} +3 batches an epoch", result.stdout)
    assert re.search(r"class_weights +null +the rarest category", result.stdout)
    assert "⚠ 20 development texts are few" in result.stderr
    assert "⚠ 20 development texts are among the training texts" in result.stderr
    assert f"bertft train {output} --output training\n" in result.stdout


def test_for_few_texts_it_writes_what_prepares_encoder_and_heads(data, tiny_bert, tmp_path):
    given = ("textcat", "--train", data, "--dev", data, "--encoder", tiny_bert, "--output")
    result = run(*given, tmp_path / "few.cfg", "--shots")
    assert result.exit_code == 0, result.output
    assert re.search(r"contrastive steps +\d+ +--shots: encoder and heads", result.stdout)
    run("textcat", "--output", tmp_path / "general.cfg", "--shots")
    for name in ("few", "general"):
        config = load_config(tmp_path / f"{name}.cfg")
        assert config["initialize"]["before_init"]["@callbacks"] == "spacy-bertft.contrastive.v1"
        rate = config["training"]["optimizer"]["learn_rate"]["initial_rate"]
        assert config["initialize"]["before_init"]["rate"] == pytest.approx(rate * 0.5 / 0.3, rel=0.02)
        assert config["components"]["textcat"]["pooling"] == "mean"
        assert config["components"]["textcat"]["activation"] is None
    run(*given, tmp_path / "plain.cfg")
    assert load_config(tmp_path / "plain.cfg")["initialize"]["before_init"] is None


def test_for_few_entities_each_label_has_one_tag(tmp_path):
    result = run("ner", "--output", tmp_path / "few.cfg", "--shots")
    assert result.exit_code == 0, result.output
    ner = load_config(tmp_path / "few.cfg")["components"]["ner"]
    assert (ner["scheme"], ner["pooling"]) == ("io", "mean")


def test_it_says_how_the_texts_were_divided(data, tiny_bert, tmp_path):
    result = run("textcat", "--train", data, "--encoder", tiny_bert, "--output", tmp_path / "a.cfg")
    assert result.exit_code == 0, result.output
    assert re.search(
        rf"{re.escape(str(data))} +JSON Lines +20 +0 +0 +0 +{re.escape(str(tmp_path / 'corpus'))}", result.stdout
    )
    for name, texts in (("train", 16), ("dev", 4)):
        assert f"✔ {tmp_path / 'corpus' / name}.spacy: {texts} texts" in result.stdout
        assert re.search(rf"^{name} +{texts} texts; ", result.stdout, re.MULTILINE)


def test_without_data_it_writes_the_general_config(tmp_path):
    result = run("ner", "--output", tmp_path / "a.cfg", "--encoder", "roberta-base", "--lang", "de")
    assert result.exit_code == 0, result.output
    assert "--paths.train train.spacy --paths.dev dev.spacy" in result.stdout
    config = load_config(tmp_path / "a.cfg")
    assert config["components"]["encoder"]["model"]["name"] == "roberta-base"
    assert config["nlp"]["lang"] == "de"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nre"], "expected one of ner, textcat, multilabel"),
        (["ner", "--dev", "nothing.jsonl"], "give --train too"),
        (["ner", "--train", "nothing.jsonl"], "were not found"),
        (["ner", "--train", "nothing.jsonl", "--dev", "nothing.jsonl"], "were not found"),
    ],
)
def test_an_error_is_one_message(arguments, message, tmp_path):
    result = run(*arguments, "--output", tmp_path / "a.cfg")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("✘ ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "a.cfg").exists()


def test_wrong_aims_are_refused_with_the_choices():
    result = run("ner", "--aim", "quality")
    assert result.exit_code == 2
    assert "accuracy" in result.output
