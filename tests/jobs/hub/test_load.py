from __future__ import annotations

import os
import subprocess
import sys

import pytest
from fake_hub import READER, Repository, fake_hub, forget_connections
from pipelines import TEXTS, trained

import spacy_bertft
from spacy_bertft.errors import ConfigError
from spacy_bertft.hub import push

pytestmark = pytest.mark.touches_transformers

NAME = "anna/messages"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub(monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.fixture(scope="module")
def pipeline(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("load") / "pipeline"
    trained(tiny_bert).to_disk(folder)
    return folder


def test_a_revision_is_loaded_as_it_was(hub, pipeline, tmp_path):
    first = push(pipeline, NAME, license="mit")
    nlp = spacy_bertft.from_hub(NAME)
    nlp.remove_pipe("textcat")
    nlp.to_disk(tmp_path / "without")
    push(tmp_path / "without", NAME, license="mit")
    assert spacy_bertft.from_hub(NAME).component_names == ["encoder", "ner"]
    assert spacy_bertft.from_hub(NAME, revision=first.commit).component_names == ["encoder", "ner", "textcat"]
    assert spacy_bertft.from_hub(NAME, revision=first.commit, exclude=["ner"]).component_names == ["encoder", "textcat"]


def test_the_cache_serves_without_a_connection(hub, pipeline, monkeypatch):
    push(pipeline, NAME, license="mit")
    before = spacy_bertft.from_hub(NAME)(TEXTS[1])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    forget_connections()
    after = spacy_bertft.from_hub(NAME)(TEXTS[1])
    assert before.ents
    assert [ent.text for ent in after.ents] == [ent.text for ent in before.ents]


def test_what_the_hub_does_not_give_is_told(hub, pipeline, monkeypatch):
    push(pipeline, NAME, license="mit")
    with pytest.raises(ConfigError, match=r"no such revision in it"):
        spacy_bertft.from_hub(NAME, revision="v9")
    with pytest.raises(ConfigError, match=r"found no access: no such repository, or a private one"):
        spacy_bertft.from_hub("anna/none")
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(ConfigError, match=r"found no access: no such repository, or a private one"):
        spacy_bertft.from_hub("anna/messages")
    with pytest.raises(ConfigError, match=r"expected user/name"):
        spacy_bertft.from_hub("messages")


def test_offline_and_not_in_the_cache_is_told():
    with pytest.raises(ConfigError, match=r"found offline mode. Expected access to it; unset HF_HUB_OFFLINE"):
        spacy_bertft.from_hub("anna/never-loaded")


def test_a_server_that_is_gone_is_told(monkeypatch, tmp_path):
    with fake_hub(monkeypatch, tmp_path) as server:
        server.server_close()
        with pytest.raises(ConfigError, match=r"check the network, HF_ENDPOINT and the name"):
            spacy_bertft.from_hub(NAME)


def test_a_checkpoint_is_no_pipeline(hub):
    hub.repos[NAME] = Repository(private=False)
    hub.repos[NAME].files["config.json"] = b"{}"
    with pytest.raises(ConfigError, match=r"has no config\.cfg; found .*config\.json\. Expected a pipeline"):
        spacy_bertft.from_hub(NAME)


def test_a_pipeline_with_unknown_parts_is_told(hub, pipeline):
    push(pipeline, NAME, license="mit")
    files = hub.repos[NAME].files
    files["config.cfg"] = files["config.cfg"].replace(b"bertft_ner", b"nobodys_ner")
    with pytest.raises(ConfigError, match=r"could not be loaded: .*nobodys_ner"):
        spacy_bertft.from_hub(NAME)


@pytest.mark.slow
def test_the_commands_work_in_processes_of_their_own(hub, pipeline, tmp_path):
    """As a user runs them, with the hub's own variables."""
    given = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONWARNINGS": "error",
    }

    def run(*words):
        command = [sys.executable, *words]
        return subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=True).stdout

    pushed = run("-m", "spacy_bertft", "push", str(pipeline), NAME, "--license", "mit")
    assert pushed.startswith(f"✔ {hub.url}/{NAME} (private), commit {hub.repos[NAME].sha[:7]}: ")
    code = pushed.strip().splitlines()[-1].strip()
    found = run("-c", f"import spacy_bertft\nnlp = {code}\nprint([ent.text for ent in nlp({TEXTS[1]!r}).ents])")
    assert found.strip() == "['Bob Stone', 'Rome']"
