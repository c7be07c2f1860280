"""Saves that stop in the middle: killed, or out of space. What is there afterwards is whole, or says that it is not."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import spacy
import srsly
from pipelines import HEADS, TEXTS, annotations, blank, examples, initialized, trained, weights
from safetensors import SafetensorError, safe_open

from spacy_bertft.errors import BertftError, ConfigError

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

WEIGHTS, ENCODER = "model.safetensors", "encoder/encoder"


def said_by(nlp):
    return [annotations(doc) for doc in nlp.pipe(TEXTS)]


def learned_on(nlp, steps=3):
    """The same pipeline after some more steps: encoder and heads are others."""
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 3e-2
    for _ in range(steps):
        nlp.update(examples(nlp), sgd=optimizer)
    return nlp


@pytest.fixture
def two(tiny_bert, tmp_path):
    """The folders of an earlier and of a later save."""
    trained(tiny_bert).to_disk(tmp_path / "old")
    learned_on(spacy.load(tmp_path / "old")).to_disk(tmp_path / "new")
    return tmp_path / "old", tmp_path / "new"


def cfg_of(pipeline, head="ner"):
    return srsly.read_json(pipeline / head / "cfg")


def id_of(pipeline):
    with safe_open(pipeline / ENCODER / WEIGHTS, framework="pt") as opened:
        return opened.metadata().get("save_id")


# --- encoder and heads know that they belong together


def test_an_encoder_and_its_heads_are_saved_with_one_id(two):
    for folder in two:
        assert id_of(folder) == cfg_of(folder)["save_id"] == cfg_of(folder, "textcat")["save_id"]
        assert spacy.load(folder).get_pipe("encoder").save_id == id_of(folder)
    assert id_of(two[0]) != id_of(two[1])


def test_the_same_weights_have_the_same_id(two, tmp_path):
    spacy.load(two[0]).to_disk(tmp_path / "again")
    assert id_of(tmp_path / "again") == id_of(two[0])
    nlp = spacy.load(two[0])
    weights(nlp, "encoder")  # as transformers' model has them
    nlp.to_disk(tmp_path / "again")
    assert (tmp_path / "again" / ENCODER / WEIGHTS).read_bytes() == (two[0] / ENCODER / WEIGHTS).read_bytes()


@pytest.mark.parametrize("part", ["encoder", "ner", "textcat"])
def test_parts_of_different_saves_do_not_load_together(two, part):
    shutil.copytree(two[1] / part, two[0] / part, dirs_exist_ok=True)
    head = "textcat" if part == "textcat" else "ner"
    with pytest.raises(ConfigError, match=rf"The head '{head}' and its encoder are from different saves .* Use a"):
        spacy.load(two[0])
    for name in HEADS:
        srsly.write_json(two[0] / name / "cfg", {**cfg_of(two[0], name), "save_id": None})
    spacy.load(two[0])


def test_bytes_of_different_saves_do_not_load_together(two, tiny_bert):
    one, other = (srsly.msgpack_loads(spacy.load(folder).to_bytes()) for folder in two)
    assert blank(tiny_bert).from_bytes(srsly.msgpack_dumps(one))
    with pytest.raises(ConfigError, match="from different saves"):
        blank(tiny_bert).from_bytes(srsly.msgpack_dumps({**one, "encoder": other["encoder"]}))


def test_saves_without_ids_load_beside_any(two):
    for name in HEADS:
        cfg = {key: value for key, value in cfg_of(two[0], name).items() if key not in ("save_id", "weights_crc32")}
        srsly.write_json(two[0] / name / "cfg", cfg)
    expected = said_by(spacy.load(two[0]))
    assert said_by(spacy.load(two[0])) == expected


def test_a_head_that_reads_no_encoder_of_ours_has_no_id(tiny_bert, tmp_path):
    nlp = blank(tiny_bert)
    nlp.get_pipe("ner").to_disk(tmp_path / "ner")
    assert cfg_of(tmp_path)["save_id"] is None


def test_parts_from_two_pipelines_are_saved_as_one(two, tmp_path):
    one, other = map(spacy.load, two)
    one.remove_pipe("textcat")
    one.add_pipe("textcat", source=other)
    one.to_disk(tmp_path / "both")
    assert said_by(spacy.load(tmp_path / "both")) == said_by(one)


def test_a_frozen_encoder_may_be_left_out_of_a_save(two, tmp_path):
    nlp = spacy.load(two[0])
    nlp.to_disk(tmp_path / "elsewhere")
    nlp.to_disk(two[0], exclude=["encoder"])
    assert said_by(spacy.load(two[0])) == said_by(nlp)


def test_an_id_goes_with_the_weights_it_is_of(two):
    nlp = spacy.load(two[0])
    nlp.get_pipe("encoder").set_encoder(spacy.load(two[1]).get_pipe("encoder").encoder)
    assert nlp.get_pipe("encoder").save_id is None


# --- weights that are not there


@pytest.mark.parametrize("head", HEADS)
def test_a_trained_head_without_its_weights_does_not_load(two, head):
    (two[0] / head / WEIGHTS).unlink()
    with pytest.raises(ConfigError, match=rf"The head '{head}' was saved with no weights .*Expected that file"):
        spacy.load(two[0])


def test_a_head_that_was_never_initialised_loads(tiny_bert, tmp_path):
    nlp = initialized(tiny_bert)
    nlp.add_pipe("bertft_ner", name="later").add_label("PLANET")
    nlp.to_disk(tmp_path / "pipeline")
    assert spacy.load(tmp_path / "pipeline").get_pipe("later").labels == ("PLANET",)


# --- parts of files


def test_parts_that_a_killed_save_left_do_not_travel(two, tmp_path):
    for folder in (ENCODER, "ner"):
        (two[0] / folder / "vocab.txt.part").write_bytes(b"half")
        (two[0] / folder / f"{WEIGHTS}.part").write_bytes(b"half")
    nlp = spacy.load(two[0])
    nlp.to_disk(tmp_path / "next")
    assert not list((tmp_path / "next").rglob("*.part"))
    nlp.to_disk(two[0])
    assert not list(two[0].rglob("*.part"))


# --- out of space


def full(*args, error, **kwargs):
    raise error


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left")], ids=["os", "rust"]
)
@pytest.mark.parametrize("part", ["encoder", "ner"])
@pytest.mark.parametrize("step", ["weights", "small file", "folder"])
def test_what_cannot_be_saved_is_one_error_and_leaves_what_was_there(two, monkeypatch, error, part, step):
    expected = said_by(spacy.load(two[0]))
    there = {path: path.read_bytes() for path in two[0].rglob("*") if path.is_file()}
    nlp = spacy.load(two[1])
    last = "tokenizer_config.json" if part == "encoder" else "cfg"
    if step == "folder":
        monkeypatch.setattr(Path, "mkdir", partial(full, error=error))
    else:
        stop = WEIGHTS if step == "weights" else last
        monkeypatch.setattr("spacy_bertft.files._write", partial(_stop_at, f"{stop}.part", error))
    with pytest.raises(
        ConfigError, match=rf"'{part}' can't be saved in '{two[0] / part}': .*No space.* Expected .*Check"
    ):
        nlp.get_pipe(part).to_disk(two[0] / part)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in two[0].rglob("*") if path.is_file()} == there
    assert said_by(spacy.load(two[0])) == expected


def _stop_at(name, error, part, write):
    if part.name == name:
        part.write_bytes(b"half")
        raise error
    write(part)


# --- killed


SAVING = """
import sys
import spacy, torch
from spacy_bertft import files
torch.set_num_threads(1)
old, new, target = sys.argv[1:]
pipelines = [spacy.load(new), spacy.load(old)]
print("ready", flush=True)
while True:
    for nlp in pipelines:
        nlp.to_disk(target, exclude=["vocab", "tokenizer"])
        print("saved", flush=True)
"""


def test_a_save_that_is_killed_leaves_a_whole_pipeline_or_says_that_it_does_not(two, tmp_path):
    """At eight moments: mixtures of an old and a new save would annotate, and wrongly."""
    old, new = two
    expected = [said_by(spacy.load(folder)) for folder in two]
    assert expected[0] != expected[1]
    chance, found = random.Random(0), []
    for moment in range(8):
        target = shutil.copytree(old, tmp_path / f"target{moment}")
        process = subprocess.Popen([sys.executable, "-c", SAVING, old, new, target], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.0, 0.3))
        process.kill()
        process.wait()
        process.stdout.close()
        for name in ("config.cfg", "meta.json"):  # which spaCy writes itself, in place
            shutil.copy(old / name, target / name)
        found.append(outcome(target, expected))
        learned_on(spacy.load(old), steps=1).to_disk(target)  # a save into what is left mends it
        spacy.load(target)
        assert not list(target.rglob("*.part"))
    assert set(found) <= {"old", "new", "told"}


def test_a_save_that_is_killed_between_any_two_files(two, tmp_path):
    """Each order of what os.replace has done and what not: the states between its calls."""
    old, new = two
    expected = [said_by(spacy.load(folder)) for folder in two]
    found = []
    for done in range(20):
        target = shutil.copytree(old, tmp_path / f"target{done}")
        process = subprocess.run([sys.executable, "-c", STOPPING, new, target, str(done)], check=False)
        found.append(outcome(target, expected))
        if process.returncode == 0:  # it came to its end before
            break
    assert found[0] == "old"
    assert found[-1] == "new"
    assert "told" in found


STOPPING = """
import os, signal, sys
import spacy
new, target, left = sys.argv[1], sys.argv[2], [int(sys.argv[3])]
nlp = spacy.load(new)
replace = os.replace
def counted(source, destination):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    replace(source, destination)
os.replace = counted
nlp.to_disk(target)
"""


def outcome(target, expected):
    """Which of two pipelines a folder holds, whole, or "told" if it says that it holds none."""
    try:
        said = said_by(spacy.load(target))
    except BertftError as error:
        if "interrupted" not in str(error):
            raise
        return "told"
    assert said in expected, "a mixture"
    return ("old", "new")[expected.index(said)]
