"""The Python code of the README runs as it stands there, on tiny pipelines."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from pipelines import rated, trained, two_segments
from spacy.cli._util import parse_config_overrides
from spacy.util import load_config

pytestmark = pytest.mark.touches_transformers

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = {
    re.sub(r"\W+", " ", re.split(r"^##? ", README[: found.start()], flags=re.MULTILINE)[-1].split("\n", 1)[0]): found[1]
    for found in re.finditer(r"```python\n(.*?)```", README, re.DOTALL)
}


PIPELINES = {
    "spacy bertft": trained,
    "Train on your own data": None,
    "Use the result": trained,
    "Sentence pairs": lambda encoder: two_segments(encoder, "bertft_pair"),
    "Ratings and other numbers": rated,
    "Questions and answers": lambda encoder: two_segments(encoder, "bertft_qa"),
}


def test_every_block_of_code_is_run_here():
    assert set(BLOCKS) == set(PIPELINES)
    assert README.count("```python") == len(BLOCKS)


@pytest.mark.parametrize("heading", PIPELINES)
def test_the_code_runs(heading, tiny_bert, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make = PIPELINES[heading]
    if make is not None:
        Path("training").mkdir()
        make(tiny_bert).to_disk("training/model-best")
    exec(BLOCKS[heading].replace("bert-base-cased", str(tiny_bert)), {})
    if heading == "Train on your own data":
        assert (tmp_path / "pipeline/config.cfg").is_file()
    elif heading != "Questions and answers":  # of which an untrained head may answer none
        assert capsys.readouterr().out.strip()


def commands():
    """The options of each `spacy train` line, and those that the text names, with the config they are for."""
    lines = README.replace("\\\n", " ").splitlines()
    for line in lines:
        if "-m spacy train configs/" in line:
            config, *options = shlex.split(line.split("-m spacy train ", 1)[1])
            yield pytest.param(config, options, id=line.strip()[:60])
    for option in re.findall(r"`(--(?:corpora|components|training|nlp)\.[^`]+)`", README):
        yield pytest.param("configs/pair.cfg" if "pair" in option or "both" in option else "configs/ner.cfg",
                           shlex.split(option), id=option[:60])  # fmt: skip


@pytest.mark.parametrize(("config", "options"), list(commands()))
def test_the_options_are_settings_of_the_config(config, options):
    named = [place for place, option in enumerate(options) if option.startswith("--") and "." in option]
    overrides = parse_config_overrides([word for place in named for word in options[place : place + 2]])
    assert overrides
    load_config(Path(__file__).parents[1] / config, overrides=overrides)


def test_all_commands_of_training_are_checked():
    assert len(list(commands())) >= 6
