"""`bertft fill-mask`: what it shows and what it refuses."""

from __future__ import annotations

import pytest
from tiny import make_encoder
from typer.testing import CliRunner

from spacy_bertft.cli import app
from spacy_bertft.encoder.fill_mask import FillMask
from spacy_bertft.encoder.settings import EncoderSettings

pytestmark = pytest.mark.touches_transformers


def run(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="bertft")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("masked") / "one", "bert-uncased", head="AutoModelForMaskedLM")


def test_help_names_the_options():
    assert "fill-mask" in run("--help").output
    assert "--top" in run("fill-mask", "--help").output


@pytest.mark.parametrize("top", [None, 1, 3])
def test_it_shows_candidates_for_each_mask(folder, top):
    text = "Anna lives in [MASK] and [MASK]."
    result = run("fill-mask", folder, text, *(["--top", top] if top else []))
    assert (result.exit_code, result.stderr) == (0, "")
    (masks,) = FillMask.load(str(folder), EncoderSettings(device="cpu")).fill([text], top=top or 5)
    parts = result.stdout.split("\n\n")
    assert len(parts) == 2
    for number, (part, mask) in enumerate(zip(parts, masks, strict=True), start=1):
        header, *rows = [line.split() for line in part.splitlines()]
        assert header == ["mask", str(number), "probability"]
        assert [row[0] for row in rows] == [one.text for one in mask.candidates]
        assert [float(row[1]) for row in rows] == [
            pytest.approx(100 * one.probability, abs=0.06) for one in mask.candidates
        ]
        assert all(row[2] == "%" for row in rows)


@pytest.mark.parametrize("text", ["Anna lives", "", "[MASK", "<mask>"])
def test_a_text_without_a_mask_is_an_error_that_names_it(folder, text):
    result = run("fill-mask", folder, text)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"✘ found no [MASK] in {text!r}; expected one or more; fix: write [MASK] where a word is missing\n"
    )


def test_the_mask_of_the_family_is_named(tmp_path):
    folder = make_encoder(tmp_path / "one", "roberta", head="AutoModelForMaskedLM")
    result = run("fill-mask", folder, "Anna lives in [MASK].")
    assert result.exit_code == 1
    assert "found no <mask> in" in result.stderr
    assert run("fill-mask", folder, "Anna lives in <mask>.").exit_code == 0


def test_a_model_that_can_not_be_loaded_is_one_message(tmp_path):
    for model in ("nowhere/at-all", tmp_path):
        result = run("fill-mask", model, "Anna lives in [MASK].")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"✘ The encoder '{model}' could not be loaded with a masked-LM head: ")
        assert result.stderr.count("\n") == 1


def test_wrong_use_is_code_2(folder):
    for words in ([], [folder], [folder, "a [MASK]", "--top", 0], [folder, "a [MASK]", "--top", "many"]):
        assert run("fill-mask", *words).exit_code == 2


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.bin").write_text("a")
    result = run("fill-mask", tmp_path / "model.bin", "a [MASK]")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"✘ {tmp_path / 'model.bin'}: found a file; expected the folder of an encoder")
