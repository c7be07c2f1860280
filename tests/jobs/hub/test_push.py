"""Pushing to a local server with the hub's interface, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import spacy
from checkpoints import make_checkpoint
from fake_hub import READER, Repository, fake_hub
from pipelines import ANNOTATED, annotations, initialized, trained

from spacy_bertft.errors import ConfigError
from spacy_bertft.hub import from_hub, push
from spacy_bertft.jobs.hub.card import CARD_MARK
from spacy_bertft.jobs.huggingface.read import import_checkpoint

pytestmark = pytest.mark.touches_transformers

NAME = "anna/messages"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub(monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.fixture(scope="module")
def pipeline(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("push") / "pipeline"
    nlp = trained(tiny_bert)
    nlp.meta["license"] = "MIT"
    nlp.to_disk(folder)
    return folder


@pytest.fixture
def copy(pipeline, tmp_path):
    return shutil.copytree(pipeline, tmp_path / "copy")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_pushed_pipeline_is_the_same_when_loaded(hub, pipeline):
    report = push(pipeline, NAME)
    repo = hub.repos[NAME]
    assert repo.private
    assert not report.public
    assert (report.url, report.commit) == (f"{hub.url}/{NAME}", repo.sha)
    assert repo.messages == ["initial commit", "Push the pipeline with bertft"]
    files = contents(pipeline)
    assert repo.files == {**files, ".gitattributes": repo.files[".gitattributes"], "README.md": report.card.encode()}
    assert report.sizes == {name: len(data) for name, data in repo.files.items() if name != ".gitattributes"}
    text = ANNOTATED[1][0]
    assert annotations(from_hub(NAME)(text)) == annotations(spacy.load(pipeline)(text))
    assert annotations(from_hub(NAME)(text))[0]


def test_a_dry_run_asks_nothing_of_the_hub(hub, pipeline):
    report = push(pipeline, NAME, dry_run=True)
    assert hub.requests == []
    assert (report.url, report.commit) == (None, None)
    assert push(pipeline, NAME).sizes == report.sizes


def test_a_second_push_replaces_what_changed_and_nothing_else(hub, copy):
    push(copy, NAME)
    hub.repos[NAME].files["image.png"] = b"of people"
    hub.repos[NAME].files["encoder/encoder/old.safetensors"] = b"of another format"
    (copy / "ner/cfg").write_bytes((copy / "ner/cfg").read_bytes() + b"\n")
    report = push(copy, NAME, message="Second")
    repo = hub.repos[NAME]
    assert report.deleted == ("encoder/encoder/old.safetensors",)
    assert {name: data for name, data in repo.files.items() if name in contents(copy)} == contents(copy)
    assert repo.files["image.png"] == b"of people"
    assert "encoder/encoder/old.safetensors" not in repo.files
    assert repo.messages[-1] == "Second"


def test_the_card_is_written_again_until_people_change_it(hub, copy):
    push(copy, NAME)
    (copy / "meta.json").write_text(
        json.dumps({**json.loads((copy / "meta.json").read_text()), "description": "Another."})
    )
    assert not push(copy, NAME).card_kept
    assert b"\nAnother.\n" in hub.repos[NAME].files["README.md"]
    own = hub.repos[NAME].files["README.md"].replace(CARD_MARK.encode(), b"Mine.")
    hub.repos[NAME].commits.append({**hub.repos[NAME].files, "README.md": own})
    report = push(copy, NAME)
    assert report.card_kept
    assert "README.md" not in report.sizes
    assert hub.repos[NAME].files["README.md"] == own


def test_a_card_of_ones_own_replaces_all_others(hub, copy, tmp_path):
    card = tmp_path / "card.md"
    card.write_text("---\nlicense: other\n---\n# Mine\n", encoding="utf-8")
    (copy / "README.md").write_text("of spacy package", encoding="utf-8")
    hub.repos[NAME] = Repository(private=True)
    hub.repos[NAME].files["README.md"] = b"of people"
    assert not push(copy, NAME, card=card).card_kept
    assert hub.repos[NAME].files["README.md"] == card.read_bytes()


def test_a_public_repository_needs_a_word(hub, pipeline):
    hub.repos[NAME] = Repository(private=False)
    with pytest.raises(ConfigError, match=r"is public; expected a private one\. .* give --public"):
        push(pipeline, NAME)
    assert len(hub.repos[NAME].commits) == 1
    assert push(pipeline, NAME, public=True).public
    assert push(pipeline, "anna/new", public=True).public
    assert not hub.repos["anna/new"].private


def test_a_repository_of_other_files_is_refused(hub, pipeline):
    hub.repos[NAME] = Repository(private=True)
    hub.repos[NAME].files.update({"README.md": b"", "pytorch_model.bin": b"", "config.json": b""})
    with pytest.raises(ConfigError, match=r"other files \(config.json, pytorch_model.bin\); expected a new or empty"):
        push(pipeline, NAME)
    assert len(hub.repos[NAME].commits) == 1


@pytest.mark.parametrize("given", [None, "", "all rights reserved!"])
def test_a_licence_is_asked_for(pipeline, copy, given):
    meta = json.loads((copy / "meta.json").read_text(encoding="utf-8"))
    (copy / "meta.json").write_text(json.dumps({**meta, "license": given or ""}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"licence.*; expected an identifier of the hub, such as mit.* --license"):
        push(copy, NAME, license=given, dry_run=True)
    assert "\nlicense: cc-by-sa-4.0\n" in push(copy, NAME, license="CC BY-SA 4.0", dry_run=True).card
    assert "\nlicense: mit\n" in push(pipeline, NAME, dry_run=True).card


def test_a_licence_that_the_hub_does_not_know_is_told(hub, pipeline):
    with pytest.raises(ConfigError, match=r"Invalid metadata in README.md.*license"):
        push(pipeline, NAME, license="nonsense-1.0")
    assert len(hub.repos[NAME].commits) == 1


@pytest.mark.parametrize("token", [READER, "", "hf_wrong"])
def test_without_the_right_to_write_it_says_how_to_get_it(hub, pipeline, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ConfigError, match=r"found no access: .* log in with `hf auth login` or HF_TOKEN"):
        push(pipeline, NAME)
    assert hub.repos == {}


def test_offline_mode_is_told(pipeline):
    with pytest.raises(ConfigError, match=r"found offline mode. Expected access to it; unset HF_HUB_OFFLINE"):
        push(pipeline, NAME)


@pytest.mark.parametrize("name", ["messages", "anna/", "anna/of/all", "anna/a b", ""])
def test_a_name_must_have_two_parts(pipeline, name):
    with pytest.raises(ConfigError, match=r"as the name of a repository; expected user/name"):
        push(pipeline, name, dry_run=True)


def test_a_folder_without_a_pipeline_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"Expected a pipeline that spaCy saved"):
        push(tmp_path, NAME, license="mit", dry_run=True)


@pytest.mark.parametrize(("save", "refused"), [("adapter", True), ("merged", False)])
def test_an_adapter_on_a_local_encoder_is_refused(tiny_bert, tmp_path, save, refused):
    tuning = {"@misc": "spacy-bertft.LoraTuning.v1", "save": save}
    initialized(tiny_bert, component={"tuning": tuning}).to_disk(tmp_path / "lora")
    if refused:
        with pytest.raises(ConfigError, match=r"an adapter for .*, a folder of this machine; expected .* save = "):
            push(tmp_path / "lora", NAME, license="mit", dry_run=True)
    else:
        assert push(tmp_path / "lora", NAME, license="mit", dry_run=True).sizes


def test_paths_of_this_machine_are_named(copy, tiny_bert, tmp_path):
    text = (copy / "config.cfg").read_text(encoding="utf-8")
    (copy / "config.cfg").write_text(text.replace("train = null", f"train = {json.dumps(str(tmp_path))}"), "utf-8")
    assert set(push(copy, NAME, dry_run=True).local_paths) == {
        f"paths.train = {tmp_path}",
        f"components.encoder.model.name = {tiny_bert}",
    }


def test_an_encoder_in_a_folder_here_is_named_even_without_an_absolute_path(copy, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bert, "encoders/of-anna")
    text = (copy / "config.cfg").read_text(encoding="utf-8")
    (copy / "config.cfg").write_text(text.replace(str(tiny_bert), "encoders/of-anna"), encoding="utf-8")
    assert push(copy, NAME, dry_run=True).local_paths == ("components.encoder.model.name = encoders/of-anna",)


def test_hidden_files_are_not_sent(copy):
    before = push(copy, NAME, dry_run=True).sizes
    (copy / ".env").write_text("SECRET=1", encoding="utf-8")
    (copy / "ner/.ipynb_checkpoints").mkdir()
    (copy / "ner/.ipynb_checkpoints/cfg").write_text("{}", encoding="utf-8")
    assert push(copy, NAME, dry_run=True).sizes == before


def test_links_to_files_elsewhere_are_refused(copy, tmp_path):
    (tmp_path / "private.txt").write_text("secret", encoding="utf-8")
    (copy / "ner/notes.txt").symlink_to(tmp_path / "private.txt")
    with pytest.raises(ConfigError, match=r"notes\.txt: found a link to .*private\.txt, outside of the pipeline"):
        push(copy, NAME, dry_run=True)


def test_links_inside_the_pipeline_are_sent_as_files(copy):
    (copy / "ner/same").symlink_to(copy / "ner/cfg")
    assert push(copy, NAME, dry_run=True).sizes["ner/same"] == (copy / "ner/cfg").stat().st_size


@pytest.mark.parametrize(
    ("option", "said"), [({"license": "mit"}, "--license"), ({"base_model": "bert-base-cased"}, "--base-model")]
)
def test_a_card_of_ones_own_says_everything_itself(pipeline, tmp_path, option, said):
    (tmp_path / "card.md").write_text("# Mine\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"^Found {said} beside --card"):
        push(pipeline, NAME, card=tmp_path / "card.md", dry_run=True, **option)


def test_encoders_inside_other_models_are_found(tiny_bert, tmp_path):
    encoder = {"@architectures": "spacy-bertft.Encoder.v1", "name": str(tiny_bert)}
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec", config={"model": {"@architectures": "spacy-bertft.Tok2Vec.v1", "encoder": encoder}})
    nlp.initialize()
    nlp.to_disk(tmp_path / "pipeline")
    found = push(tmp_path / "pipeline", NAME, license="mit", dry_run=True).local_paths
    assert found == (f"components.tok2vec.model.encoder.name = {tiny_bert}",)


def test_a_model_for_masked_words_is_its_own_base_model(tmp_path):
    folder = make_checkpoint(tmp_path / "checkpoint", "bert-uncased", "fill-mask")
    import_checkpoint(str(folder), tmp_path / "pipeline")
    report = push(tmp_path / "pipeline", NAME, license="mit", dry_run=True)
    assert "base_model" not in report.card
    assert report.local_paths == (f"components.mlm.model = {folder}",)
    text = (tmp_path / "pipeline/config.cfg").read_text(encoding="utf-8")
    (tmp_path / "pipeline/config.cfg").write_text(text.replace(str(folder), "anna/some-bert"), encoding="utf-8")
    card = push(tmp_path / "pipeline", NAME, license="mit", dry_run=True).card
    assert "\nbase_model: anna/some-bert\n" in card
    assert "\npipeline_tag: fill-mask\n" in card


def test_the_name_of_an_encoder_that_is_a_folder_is_no_base_model(pipeline, copy, tiny_bert):
    assert "base_model" not in push(pipeline, NAME, dry_run=True).card
    assert "\nbase_model: bert-base-cased\n" in push(pipeline, NAME, base_model="bert-base-cased", dry_run=True).card
    text = (copy / "config.cfg").read_text(encoding="utf-8")
    assert json.dumps(str(tiny_bert)) in text
    (copy / "config.cfg").write_text(text.replace(str(tiny_bert), "anna/some-bert"), encoding="utf-8")
    assert "\nbase_model: anna/some-bert\n" in push(copy, NAME, dry_run=True).card
