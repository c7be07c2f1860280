"""The project around the package: project.yml, the configs and the scripts."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import sys
import zipfile
from copy import deepcopy
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from spacy.cli.debug_config import debug_config
from tiny import make_encoder
from weasel.util import load_project_config

from spacy_bertft.encoder.loading import load
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.errors import DataError

pytestmark = pytest.mark.touches_transformers

ROOT = Path(__file__).parents[1]
NO_PIPELINES = ("adapt", "pretrain")
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.cfg") if path.stem not in NO_PIPELINES)
TEXTS = ROOT / "assets" / "support" / "dev.jsonl"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"project_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


embed_encoder = script("embed_encoder")
wnut17 = script("wnut17")
try_wheel = script("try_wheel")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder") / "encoder", "bert-uncased", head="AutoModelForMaskedLM")


# --- project.yml


@pytest.fixture
def project(tmp_path):
    # Loading makes the folders that the project names, so it is loaded somewhere else.
    (tmp_path / "project.yml").write_bytes((ROOT / "project.yml").read_bytes())
    return load_project_config(tmp_path)


def test_the_workflows_run_in_order(project):
    assert project["workflows"]["all"] == ["convert", "train", "evaluate", "package", "try", "report"]
    for name, first in (("pairs", []), ("questions", []), ("intents", ["intents-convert"])):
        steps = [*first, *(f"{name}-{step}" for step in ("train", "calibrate", "evaluate"))]
        assert project["workflows"][name] == steps
    assert project["workflows"]["few"] == ["convert", "few-train", "few-evaluate"]
    assert project["workflows"]["small"] == ["convert", "train", "distill", "shrink"]
    assert project["workflows"]["wnut17"] == [f"wnut17-{step}" for step in ("check", "convert", "train", "evaluate")]
    assert project["workflows"]["adapt"] == [f"adapt-{step}" for step in ("encoder", "convert", "train", "evaluate")]
    assert project["workflows"]["pretrain"] == [
        f"pretrain-{name}" for name in ("teacher", "encoder", "long", "last", "embed")
    ]


def test_every_dependency_is_there_or_made_by_an_earlier_command(project):
    commands = {command["name"]: command for command in project["commands"]}
    for steps in project["workflows"].values():
        made = {project["vars"][name] for name in ("wnut17_folder", "domain_texts", "domain_entities", "texts")}
        for command in (commands[step] for step in steps):
            missing = [path for path in command["deps"] if path not in made and not (ROOT / path).exists()]
            assert missing == [], command["name"]
            made |= set(command["outputs"])


def test_every_script_and_config_it_runs_is_there_and_named_as_dependency(project):
    for command in project["commands"]:
        words = {word for line in command["script"] for word in shlex.split(line)}
        for word in words:
            if re.fullmatch(r"(scripts/.+\.py|configs/.+\.cfg)", word):
                assert (ROOT / word).is_file()
                assert word in command["deps"], command["name"]


def test_every_command_has_help_and_outputs(project):
    assert all(command["help"] and command["outputs"] for command in project["commands"])


def test_the_assets_come_from_fixed_commits_and_go_where_the_commands_look(project):
    names = [part.names[0] for part in wnut17.PARTS.values()]
    expected = [f"{project['vars']['wnut17_folder']}/{name}" for name in names]
    expected += [f"{project['vars']['domain_entities']}/{split}.iob" for split in ("train", "dev", "test")]
    assert [asset["dest"] for asset in project["assets"]] == expected
    folders = {asset["url"].rsplit("/", 1)[0] for asset in project["assets"]}
    assert len(folders) == 2
    assert all(re.search(r"/[0-9a-f]{40}(/data/BC5CDR-IOB)?$", folder) for folder in folders)


# --- configs


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_spacy_finds_the_config_valid(path, encoder):
    paths = {f"paths.{split}": str(TEXTS) for split in ("train", "dev")}
    debug_config(path, overrides={"components.encoder.model.name": str(encoder), **paths})


# --- embed_encoder.py


@pytest.fixture
def trained(encoder, tmp_path):
    """What `bertft adapt` leaves."""
    folder = tmp_path / "trained"
    shutil.copytree(encoder, folder)
    (folder / "curve.csv").write_text("step,loss\n0,\n", encoding="utf-8")
    return folder


def test_an_encoder_is_kept_in_half_precision_and_loaded_in_full(trained, tmp_path):
    output = tmp_path / "embedded"
    output.mkdir()
    (output / "README.md").touch()
    off = embed_encoder.embed(trained, output)
    assert {path.name for path in output.iterdir()} == {*embed_encoder.FILES, "model.safetensors", "README.md"}
    halves, weights = (load_file(folder / "model.safetensors") for folder in (output, trained))
    assert {half.dtype for half in halves.values()} == {torch.float16}
    assert 0 < off == max(float((weights[name] - half.float()).abs().max()) for name, half in halves.items()) < 1e-3
    loaded = load(str(output), EncoderSettings())
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}


def test_weights_that_no_half_can_hold_are_refused(trained, tmp_path):
    weights = load_file(trained / "model.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name] + 1e6
    save_file(weights, trained / "model.safetensors")
    with pytest.raises(DataError, match=f"too large for half precision in {re.escape(name)}; expected .* fix: "):
        embed_encoder.embed(trained, tmp_path / "embedded")
    assert not (tmp_path / "embedded").exists()


def test_a_folder_that_adapt_did_not_write_is_refused(tmp_path):
    (tmp_path / "config.json").touch()
    with pytest.raises(DataError, match=r"found no tokenizer\.json, .*, model\.safetensors; expected .* fix: "):
        embed_encoder.embed(tmp_path, tmp_path / "embedded")


# --- wnut17.py

PLAIN = "Empire\tB-location\nState\tI-location\n=\tO\n\nESB\tB-location\n"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        f"\ufeff\n\n{PLAIN}\n\n \n",
        PLAIN.replace("\n\n", "\n\t\n\n"),
        PLAIN.replace("\tO", " \tO \t"),
        PLAIN.replace("B-location\nState", "I-location\nState"),
        PLAIN.rstrip("\n"),
    ],
    ids=["plain", "carriage-returns", "blank-ends", "blank-lines", "spaces", "begins-with-I", "no-last-line-end"],
)
def test_content_is_normalised(text):
    assert wnut17.normalise(text, "file") == PLAIN


def test_a_token_may_be_an_odd_character():
    text = "a\u2028b\tO\n\u00a0\tO\n\x85\tO\n"
    assert wnut17.normalise(text, "file") == text


def test_an_entity_of_another_kind_begins_anew():
    assert wnut17.normalise("a\tB-x\nb\tI-y\nc\tI-y\n", "file") == "a\tB-x\nb\tB-y\nc\tI-y\n"


@pytest.mark.parametrize("line", ["token", "a\tb\tO"])
def test_a_line_that_is_no_token_and_tag_is_refused(line):
    with pytest.raises(DataError, match=r"^file:2: found .* expected a token and a tag .* fix: delete the file"):
        wnut17.normalise(f"a\tO\n{line}\n", "file")


@pytest.fixture
def small_parts(monkeypatch):
    """Parts that all hold PLAIN."""
    import hashlib

    digest = hashlib.sha256(PLAIN.encode()).hexdigest()
    parts = {name: wnut17.Part(part.names, 2, 4, digest) for name, part in wnut17.PARTS.items()}
    monkeypatch.setattr(wnut17, "PARTS", parts)
    return parts


def test_files_are_found_under_either_name(small_parts, tmp_path):
    (tmp_path / "wnut17train.conll").write_bytes(PLAIN.replace("\n", "\r\n").encode())
    (tmp_path / "dev.iob").write_bytes(PLAIN.encode())
    (tmp_path / "emerging.test.annotated").write_bytes(f"{PLAIN}\n\n".encode())
    written = wnut17.prepare(tmp_path, tmp_path / "out")
    assert [path.name for path in written] == ["train.iob", "dev.iob", "test.iob"]
    assert {path.read_bytes() for path in written} == {PLAIN.encode()}


def test_changed_content_is_refused_and_nothing_is_written(small_parts, tmp_path):
    for name in ("train", "dev"):
        (tmp_path / f"{name}.iob").write_bytes(PLAIN.encode())
    (tmp_path / "test.iob").write_bytes(PLAIN.replace("ESB\tB-location\n", "ESB\tO\n.\tO\n").encode())
    found = r"test\.iob: found 2 sentences with 5 tokens, SHA-256 of the content [0-9a-f]{64}; "
    with pytest.raises(DataError, match=found + r"expected 2 sentences with 4 tokens, SHA-256 [0-9a-f]{64}; fix: "):
        wnut17.prepare(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_named_with_what_is_there(tmp_path):
    (tmp_path / "other.txt").touch()
    with pytest.raises(DataError, match=r"found other\.txt; expected wnut17train\.conll or train\.iob; fix: fetch"):
        wnut17.prepare(tmp_path, tmp_path)
    with pytest.raises(DataError, match="found no such folder; expected"):
        wnut17.prepare(tmp_path / "none", tmp_path)


def test_bytes_that_are_no_utf8_are_refused(small_parts, tmp_path):
    (tmp_path / "train.iob").write_bytes(b"caf\xe9\tO\n")
    with pytest.raises(DataError, match=r"train\.iob: found bytes that are not UTF-8, at 3; expected UTF-8; fix: "):
        wnut17.prepare(tmp_path, tmp_path)


# --- try_wheel.py

FOUND = [
    {"entities": [[0, 4, "PERSON", 0.9], [8, 12, "DATE", 0.5]], "categories": {"refund": 0.75, "billing": 0.25}},
    {"entities": [[3, 9, "ORG", None]], "categories": {"refund": 0.5, "billing": 0.5}},
]


def changed(*path, to):
    copy = deepcopy(FOUND)
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return copy


def test_the_same_results_have_no_differences():
    assert try_wheel.differences(FOUND, deepcopy(FOUND)) == []
    assert try_wheel.differences(FOUND, changed(0, "entities", 0, 3, to=0.9 + 5e-7)) == []


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (FOUND[:1], "2 texts before, 1 after"),
        (changed(0, "entities", 0, 3, to=0.900002), r"text 1: entity \(0, 4, 'PERSON'\): score 0.9 before, 0.900002"),
        (changed(0, "entities", 0, 1, to=5), r"text 1: entities .*\(0, 4, 'PERSON'\).* before, .*\(0, 5, 'PERSON'\)"),
        (changed(0, "entities", 1, 2, to="TIME"), "text 1: entities .* before, .*'TIME'"),
        (changed(1, "entities", to=[]), r"text 2: entities .* before, \[\] after"),
        (changed(1, "entities", 0, 3, to=0.1), "score None before, 0.1 after"),
        (changed(1, "categories", "refund", to=0.4), "text 2: category refund: score 0.5 before, 0.4 after"),
        (changed(1, "categories", "other", to=0.0), "text 2: categories .* before, .*'other'"),
        (changed(0, "categories", "refund", to=float("nan")), "text 1: category refund: score 0.75 before, nan after"),
    ],
)
def test_differences_are_found(after, said):
    (line,) = try_wheel.differences(FOUND, after)
    assert re.search(said, line)


def wheel_with(folder: Path, *requirements: str) -> Path:
    path = folder / "en_x-1.0-py3-none-any.whl"
    lines = ["Metadata-Version: 2.1", "Name: en_x", *(f"Requires-Dist: {line}" for line in requirements)]
    with zipfile.ZipFile(path, "w") as files:
        files.writestr("en_x-1.0.dist-info/METADATA", "\n".join(lines) + "\n\nSome text.\n")
    return path


def test_the_wheel_must_require_this_package(tmp_path):
    assert try_wheel.check_requirement(wheel_with(tmp_path, "spacy>=3.8", "spacy_bertft>=0.1")) == "spacy_bertft>=0.1"
    with pytest.raises(try_wheel.WheelError, match=r"found the requirements spacy>=3\.8; expected spacy-bertft"):
        try_wheel.check_requirement(wheel_with(tmp_path, "spacy>=3.8"))


def test_there_must_be_one_wheel(tmp_path):
    with pytest.raises(try_wheel.WheelError, match="found none; expected one wheel; fix: "):
        try_wheel.find_wheel(tmp_path)
    wheel = wheel_with(tmp_path)
    assert try_wheel.find_wheel(tmp_path) == wheel
    (tmp_path / "en_x-2.0-py3-none-any.whl").touch()
    with pytest.raises(try_wheel.WheelError, match=r"found en_x-1\.0.*, en_x-2\.0.*; expected one wheel"):
        try_wheel.find_wheel(tmp_path)


def test_results_that_differ_fail_the_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(try_wheel, "install", lambda environment, wheel: Path("python"))
    monkeypatch.setattr(try_wheel, "annotate_with", lambda *arguments: FOUND)
    before = tmp_path / "before.json"
    before.write_text(json.dumps(FOUND), encoding="utf-8")
    assert try_wheel.try_wheel(wheel_with(tmp_path), TEXTS, before) == 2
    before.write_text(json.dumps(changed(0, "entities", to=[])), encoding="utf-8")
    with pytest.raises(try_wheel.WheelError, match=r"found other results than before packaging: text 1: .*; fix: "):
        try_wheel.try_wheel(wheel_with(tmp_path), TEXTS, before)


def test_the_score_table_has_a_row_for_all_and_for_each_label():
    one = {"p": 0.5, "r": 0.25, "f": 1 / 3}
    scores = {"ents_p": 0.5, "ents_r": 0.25, "ents_f": 1 / 3, "ents_per_type": {"ORG": one}, "cats_macro_f": None}
    header, *rows = try_wheel.score_table(scores).splitlines()
    assert header.split() == ["test", "texts", "precision", "recall", "F-score"]
    assert [row.split() for row in rows] == [
        ["all", "entities", "50.0", "25.0", "33.3"],
        ["ORG", "50.0", "25.0", "33.3"],
    ]
