"""`Options` is the one list of what the converter can be told."""

from __future__ import annotations

import dataclasses
import inspect
from typing import get_args, get_type_hints

import pytest
from confection import ConfigValidationError
from convert_helpers import jsonl
from spacy.util import registry
from typer.testing import CliRunner

from spacy_bertft.cli import app
from spacy_bertft.cli.convert import convert_command
from spacy_bertft.convert import convert
from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.convert.corpus import create_corpus
from spacy_bertft.jobs.convert.options import Options, is_pair

FIELDS = {field.name: field.default for field in dataclasses.fields(Options)}
HELP = {name: get_args(hint) for name, hint in get_type_hints(Options, include_extras=True).items()}
READER = "spacy-bertft.Corpus.v1"


@pytest.mark.parametrize("function", [convert, create_corpus, convert_command])
def test_all_that_read_files_take_them_all(function):
    parameters = inspect.signature(function).parameters
    assert {name: one.default for name, one in parameters.items() if name in FIELDS} == FIELDS
    hints = get_type_hints(function)
    assert {name: hints[name] for name in FIELDS} == {name: kind for name, (kind, _) in HELP.items()}
    assert not [one for one in parameters.values() if one.kind is one.VAR_KEYWORD]


def test_the_command_line_shows_the_help_of_each():
    text = " ".join(CliRunner().invoke(app, ["convert", "--help"], env={"COLUMNS": "200"}).output.split())
    for name, (_, said) in HELP.items():
        assert f"--{name.replace('_', '-')}" in text
        assert said in text


def test_an_unknown_option_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text(jsonl({"text": "a"}), "utf-8")
    with pytest.raises(TypeError, match="textkey"):
        convert([tmp_path / "a.jsonl"], tmp_path, textkey="body")
    with pytest.raises(TypeError, match="textkey"):
        create_corpus(tmp_path / "a.jsonl", textkey="body")
    assert CliRunner().invoke(app, ["convert", "a.jsonl", "--output", "b", "--textkey", "body"]).exit_code == 2


def test_spacy_fills_them_in_a_config():
    filled = registry.fill({"corpus": {"@readers": READER, "path": "a.jsonl"}})["corpus"]
    assert {name: filled[name] for name in FIELDS} == FIELDS
    assert (filled["format"], filled["augmenter"]) == ("auto", None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("textkey", "body"), ("text_key", 3), ("value_key", ["value"]), ("quotes", "often"), ("token_column", "first"),
        ("merge_sentences", None), ("format", "xml"), ("augmenter", "both"),
    ],
)  # fmt: skip
def test_spacy_refuses_an_unknown_or_mistyped_one_in_a_config(name, value):
    block = {"corpus": {"@readers": READER, "path": "a.jsonl", name: value}}
    for check in (registry.resolve, registry.fill):
        with pytest.raises(ConfigValidationError, match=name):
            check(block)


def test_spacy_takes_them_from_a_config(tmp_path):
    import spacy

    (tmp_path / "a.txt").write_text('body\tkinds\n"a\tx;y\n', "utf-8")
    block = {
        "@readers": READER, "path": str(tmp_path / "a.txt"), "format": "tsv", "text_key": "body", "labels_key": "kinds",
        "label_separator": ";", "quotes": False,
    }  # fmt: skip
    (eg,) = registry.resolve({"corpus": block})["corpus"](spacy.blank("xx"))
    assert (eg.reference.text, eg.reference.cats) == ('"a', {"x": 1.0, "y": 1.0})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"value_key": ""}, r"value_key: found an empty string.*fix: "),
        ({"label_separator": ""}, r"label_separator: found an empty string.*fix: "),
        ({"value_key": "label"}, r"expected different names; fix: .*--value-key"),
        ({"first_key": "a", "second_key": "a"}, r"expected different names; fix: .*--first-key, --second-key"),
        ({"token_column": 0}, r"token_column: found 0.*fix: "),
        ({"tag_column": 0}, r"tag_column: found 0.*fix: "),
        ({"merge_sentences": 0}, r"merge_sentences: found 0.*fix: "),
    ],
)
def test_those_that_can_not_be(wrong, said):
    with pytest.raises(ConfigError, match=said):
        Options(**wrong)


def test_pairs_have_no_text():
    options = Options(first_key="premise")
    assert is_pair(["premise", "second"], options)
    assert is_pair(["second", "label"], options)
    assert not is_pair(["text", "second"], options)
    assert not is_pair(["label"], options)
