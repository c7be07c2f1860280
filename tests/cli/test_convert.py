from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spacy_bertft import __version__
from spacy_bertft.cli import app, console

GOOD = '{"text": "Ada met Bobby", "label": "a", "id": 1, "spans": [[0, 3, "PER"], [8, 11, "PER"]]}\n'


def run(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="bertft")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.jsonl"
    path.write_text(GOOD, "utf-8")
    return path


def test_version():
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"spacy-bertft {__version__}\n")


def test_help_names_the_commands_and_options():
    assert "convert" in run("--help").output
    text = run("convert", "--help").output
    for option in ("--output", "--lang", "--format", "--text-key", "--no-quotes", "--merge-sentences"):
        assert option in text


def test_convert_shows_counts_on_stdout_and_warnings_on_stderr(good, tmp_path):
    result = run("convert", good, "--output", tmp_path / "out")
    assert result.exit_code == 0
    assert (tmp_path / "out" / "good.spacy").stat().st_size > 0
    header, row = result.stdout.splitlines()[:2]
    assert header.split() == ["input", "format", "texts", "entities", "misaligned", "dropped", "output"]
    assert row.split() == [str(good), "JSON", "Lines", "1", "1", "1", "0", str(tmp_path / "out" / "good.spacy")]
    assert "PER" in result.stdout
    assert "keys that are not used: id (1)" in result.stderr
    assert "1 entities begin or end inside a token" in result.stderr
    assert f"{good}:1: 'Bob' (PER) in 'Bobby'" in result.stderr


def test_each_files_labels_stand_in_its_column(good, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("text,label\nx,b\ny,b\n", "utf-8")
    result = run("convert", good, other, "--output", tmp_path)
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["categories", "good.jsonl", "other.csv"] in rows
    assert ["a", "1", "0"] in rows
    assert ["b", "0", "2"] in rows


def test_development_texts_are_set_aside(good, tmp_path):
    good.write_text("".join(GOOD.replace("Ada", name) for name in ("Ada", "Bob", "Eva", "Tim")), "utf-8")
    result = run("convert", good, "--output", tmp_path / "out", "--dev-share", 0.25)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [str(good), "JSON", "Lines", "4", "4", "4", "0", str(tmp_path / "out")] in rows
    for name, texts in (("train", 3), ("dev", 1)):
        assert f"✔ {tmp_path / 'out' / name}.spacy: {texts} texts" in result.stdout
    result = run("convert", good, "--output", tmp_path / "out", "--dev-share", 25)
    assert result.exit_code == 1
    assert "✘ dev_share: found 25; expected a number between 0 and 1; fix: give 0.2" in result.stderr


def test_an_error_is_one_message_and_code_1(tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(GOOD + '{"text": 3}\n', "utf-8")
    result = run("convert", bad, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == f"✘ {bad}:2: found 'text': 3; expected a string; fix: put the text in double quotes\n"
    assert not (tmp_path / "out").exists()


def test_wrong_use_is_code_2(good):
    assert run("convert", good).exit_code == 2
    assert run("convert", good, "--output", "x", "--format", "xml").exit_code == 2
    assert run("nonsense").exit_code == 2


def test_all_options_reach_the_library(tmp_path):
    table = tmp_path / "a.txt"
    table.write_text('body\tkinds\n"a\tx;y\n', "utf-8")
    options = "--format tsv --text-key body --label-key kind --labels-key kinds --label-separator ; --no-quotes"
    result = run("convert", table, "--output", tmp_path / "a.spacy", "--lang", "xx", *options.split())
    assert result.exit_code == 0, result.output
    assert "x" in result.stdout.split()
    tokens = tmp_path / "b.iob"
    tokens.write_text("0 a B-X z\n\n1 b I-X z\n\n2 c O z\n", "utf-8")
    options = "--token-column 2 --tag-column 3 --merge-sentences 2"
    result = run("convert", tokens, "--output", tmp_path, *options.split())
    assert result.stdout.splitlines()[1].split()[1:4] == ["CoNLL", "2", "2"]
    assert "1 tags did not fit the one before" in result.stderr


def test_texts_without_annotation_are_warned_about(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "category": "x"}\n\n', "utf-8")
    result = run("convert", path, "--output", tmp_path)
    assert result.exit_code == 0
    assert "no entities, categories or answers found" in result.stderr
    assert "category (1)" in result.stderr
    assert "1 lines without a text were skipped" in result.stderr


def test_rejected_answers_are_shown(tmp_path):
    path = tmp_path / "a.jsonl"
    answers = ("accept", "reject", "ignore")
    path.write_text("".join(f'{{"text": "a", "label": "x", "answer": "{answer}"}}\n' for answer in answers), "utf-8")
    result = run("convert", path, "--output", tmp_path)
    assert result.exit_code == 0
    assert "2 texts or answers were skipped: rejected, ignored" in result.stderr
    assert "keys that are not used" not in result.stderr


def test_characters_that_the_terminal_lacks_are_escaped(tmp_path, good):
    good.write_text(GOOD.replace('"a"', '"é✓"'), "utf-8")
    result = CliRunner(charset="ascii").invoke(app, ["convert", str(good), "--output", str(tmp_path)])
    assert result.exit_code == 0
    assert "\\xe9\\u2713" in result.stdout


def test_tables():
    shown = console.table(("name", "n"), [("a", 1234), ("long name", 5)])
    assert shown == "name           n\na          1,234\nlong name      5"


def python(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, args)], capture_output=True, text=True, encoding="utf-8", timeout=300, check=False
    )


def test_the_command_line_imports_nothing_heavy():
    heavy = "{'spacy', 'torch', 'transformers', 'numpy', 'tqdm'}"
    done = python("-c", f"import sys, spacy_bertft.cli; print(sorted({heavy} & set(sys.modules)))")
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.slow
def test_the_plugin_imports_no_more_than_spacy_does():
    code = (
        "import sys, spacy.cli; before = set(sys.modules); import spacy_bertft.cli.spacy_command; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; print(sorted(new))"
    )
    done = python("-c", code)
    assert (done.stdout.strip(), done.returncode) == ("['spacy_bertft']", 0), done.stderr


@pytest.mark.slow
def test_as_a_command_of_spacy(good, tmp_path):
    done = python("-m", "spacy", "bertft", "convert", good, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "good.spacy").exists()
    failed = python("-m", "spacy", "bertft", "convert", tmp_path / "none.jsonl", "--output", tmp_path / "out")
    assert failed.returncode == 1
    assert "found no such file" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_values_are_shown_and_count_as_annotation(tmp_path):
    one, other, third = tmp_path / "one.jsonl", tmp_path / "other.csv", tmp_path / "third.jsonl"
    one.write_text('{"text": "a", "stars": 1}\n{"text": "b", "stars": 4.5}\n{"text": "c"}\n', "utf-8")
    other.write_text("text,stars\nx,-2\n", "utf-8")
    third.write_text('{"text": "a"}\n', "utf-8")
    result = run("convert", one, other, third, "--output", tmp_path / "out", "--value-key", "stars")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    at = rows.index(["values", "texts", "lowest", "mean", "highest"])
    assert rows[at + 1 :] == [["one.jsonl", "2", "1", "2.75", "4.5"], ["other.csv", "1", "-2", "-2", "-2"]]
    assert "no entities, categories or answers found" not in result.stderr


def test_another_format_is_written_and_losses_are_shown(tmp_path):
    (tmp_path / "d.txt").write_text("😊 Ada met Bob", "utf-8")
    (tmp_path / "d.ann").write_text(
        "T1\tPER 2 5\tAda\nT2\tPER 2 5;10 13\tAda Bob\nR1\tMet Arg1:T1 Arg2:T2\t\n", "utf-8"
    )
    result = run("convert", tmp_path / "d.ann", "--to", "label-studio", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1].split()[1:] == ["brat", "1", "1", "0", "3", str(tmp_path / "out" / "d.json")]
    assert "dropped: 1 discontinuous spans" in result.stderr
    assert "dropped: 1 relations" in result.stderr
    strict = run("convert", tmp_path / "d.ann", "--strict", "--output", tmp_path / "strict")
    assert strict.exit_code == 1
    assert "d.ann:3: found relations (1)" in " ".join(strict.stderr.split())


def test_offsets_in_other_units_are_suggested(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "😊 Ada met Bob", "label": [[3, 6, "PER"]]}\n', "utf-8")
    result = run("convert", path, "--output", tmp_path)
    assert "1 of them would align if offsets counted other units: try --offsets utf16" in result.stderr
    again = run("convert", path, "--output", tmp_path, "--offsets", "utf16")
    assert again.stdout.splitlines()[1].split()[2:4] == ["1", "1"]
