"""The projects that `spacy project clone` copies from this repository."""

from __future__ import annotations

import json
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest
from spacy.cli._util import app
from typer.testing import CliRunner
from weasel.util import load_project_config

from spacy_bertft.cli import app as bertft

pytestmark = pytest.mark.touches_transformers

ROOT = Path(__file__).parents[1]
MAKE = runpy.run_path(str(ROOT / "scripts/make_projects.py"))
NAMES = sorted(MAKE["PROJECTS"])


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A git repository with the projects, as this one is for others."""
    folder = tmp_path_factory.mktemp("repository")
    for name in NAMES:
        for path, content in MAKE["files_of"](name).items():
            target = folder / "projects" / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content, encoding="utf-8")
    person = ["-c", "user.name=Anna", "-c", "user.email=anna@example.org"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], [*person, "commit", "-q", "-m", "Projects"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return folder


@pytest.fixture(params=NAMES)
def clone(request, repository, tmp_path):
    target = tmp_path / request.param
    words = ["project", "clone", f"projects/{request.param}", str(target), "--repo", str(repository)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return target


def test_there_are_no_others():
    assert sorted(path.name for path in (ROOT / "projects").iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_is_what_the_script_writes(name):
    folder = ROOT / "projects" / name
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert {path: file.read_text(encoding="utf-8") for path, file in found.items()} == MAKE["files_of"](name)


@pytest.mark.parametrize("name", NAMES)
def test_each_part_has_every_label(name):
    labels = []
    for part in ("train", "dev", "test"):
        lines = (ROOT / f"projects/{name}/assets/{part}.jsonl").read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line) for line in lines]
        spans = {span["label"] for one in texts for span in one.get("spans", ())}
        labels.append(spans | {one.get("label") for one in texts})
    assert labels[0] == labels[1] == labels[2]


def test_a_clone_stands_alone(clone):
    """Each command's dependencies are in it, or made by a command before."""
    project = load_project_config(clone)
    commands = {command["name"]: command for command in project["commands"]}
    assert project["workflows"]["all"] == list(commands)
    made = set()
    for command in commands.values():
        assert [path for path in command["deps"] if path not in made and not (clone / path).exists()] == []
        assert command["help"]
        made |= set(command["outputs"])


def test_its_first_command_writes_a_config_and_the_others_take_their_options(clone, tiny_bert, monkeypatch):
    """Nox's session `project` runs them all."""
    project = load_project_config(clone, overrides={"vars.encoder": str(tiny_bert)})
    monkeypatch.chdir(clone)
    for command in project["commands"]:
        for line in command["script"]:
            words = shlex.split(line)
            assert words[:3] == ["python", "-m", "spacy"]
            if command["name"] == "init":
                result = CliRunner().invoke(bertft, words[4:])
                assert result.exit_code == 0, result.output
    assert (clone / "config.cfg").is_file()
