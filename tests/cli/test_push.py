from __future__ import annotations

import json

import pytest
from fake_hub import Repository, fake_hub
from pipelines import trained
from typer.testing import CliRunner

from spacy_bertft.cli import app

pytestmark = pytest.mark.touches_transformers

NAME = "anna/messages"


def run(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="bertft")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub(monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.fixture(scope="module")
def pipeline(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("push") / "pipeline"
    trained(tiny_bert).to_disk(folder)
    text = (folder / "config.cfg").read_text(encoding="utf-8")
    (folder / "config.cfg").write_text(text.replace(str(tiny_bert), "anna/some-bert"), encoding="utf-8")
    return folder


def test_help_names_the_options():
    assert "push" in run("--help").output
    text = run("push", "--help").output
    for option in ("--license", "--public", "--base-model", "--card", "--message", "--dry-run", "--code"):
        assert option in text


def test_a_dry_run_lists_the_files_and_the_card(pipeline):
    result = run("push", pipeline, NAME, "--license", "mit", "--dry-run")
    assert (result.exit_code, result.stderr) == (0, "")
    head, card = result.stdout.split("\n\n---\n", 1)
    listed = {line.split()[1]: line.split()[0] for line in head.splitlines()}
    there = [path for path in pipeline.rglob("*") if path.is_file()]
    assert set(listed) == {"file", "README.md", *(path.relative_to(pipeline).as_posix() for path in there)}
    assert "\nlicense: mit\n" in card
    last = card.splitlines()[-1]
    assert last.startswith(f"✔ would push {len(there) + 1} files, ")
    assert last.endswith(f" MB to {NAME} (private); nothing was sent")


def test_a_push_says_where_it_went_and_how_to_load_it(hub, pipeline):
    result = run("push", pipeline, NAME, "--license", "mit", "-m", "First", "--public")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"✔ {hub.url}/{NAME} (public), commit {hub.repos[NAME].sha[:7]}: ")
    assert result.stdout.rstrip().endswith(f'spacy_bertft.from_hub("{NAME}")')
    assert hub.repos[NAME].messages[-1] == "First"


def test_it_tells_what_it_left_and_what_it_deleted(hub, pipeline):
    hub.repos[NAME] = Repository(private=True)
    files = {"README.md": b"of people", "config.cfg": b"", "ner/old.bin": b""}
    hub.repos[NAME].files.update(files)
    text = (pipeline / "config.cfg").read_text(encoding="utf-8")
    (pipeline / "config.cfg").write_text(text.replace("dev = null", f"dev = {json.dumps(str(pipeline))}"), "utf-8")
    result = run("push", pipeline, NAME, "--license", "mit")
    (pipeline / "config.cfg").write_text(text, "utf-8")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"⚠ config.cfg names a path of this machine, which readers will see: paths.dev = {pipeline}",
        "ℹ the repository's README.md was written or changed by people, so it stays",
        "ℹ deleted in the repository: ner/old.bin",
    ]


def test_errors_are_one_message(pipeline):
    result = run("push", pipeline, NAME)
    assert result.exit_code == 1
    assert result.stderr.startswith("✘ Found no licence for the pipeline; expected an identifier of the hub")
    assert len(result.stderr.splitlines()) == 1
