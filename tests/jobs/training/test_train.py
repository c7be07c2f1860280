"""Runs that are stopped and resumed end in the weights of unbroken ones, bit for bit."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
from pipelines import module_of
from safetensors import SafetensorError
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.util import registry
from training_runs import OURS, PIPELINES, assert_same, config_of, make_texts, run, saved

from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.files import saving
from spacy_bertft.jobs import checkpoints
from spacy_bertft.jobs.checkpoints import find_checkpoints
from spacy_bertft.jobs.training import checkpoint
from spacy_bertft.jobs.training.checkpoint import Checkpoints
from spacy_bertft.jobs.training.train import CHECKPOINTS, Stopped, train

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_texts(tmp_path_factory.mktemp("corpus") / "texts.spacy", 26)


class Killed(BaseException):
    """What ends a run in the middle, and nothing catches."""


def killed_at(config, step):
    """The same config with a callback that ends the run before a step."""

    def check(nlp, info):
        if info["step"] == step:
            raise Killed

    registry.callbacks("test.killed_at.v1", func=lambda step: check)
    config = config.copy()
    config["training"]["before_update"] = {"@callbacks": "test.killed_at.v1", "step": step}
    return config


def run_killed(config, output, step, **settings):
    with pytest.raises(Killed):
        run(killed_at(config, step), output, **settings)
    # The callback is no part of the run.
    for path in find_checkpoints(output / CHECKPOINTS).values():
        content = json.loads((path / "state.json").read_text())
        content["identity"]["config"]["training"]["before_update"] = None
        (path / "state.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def unbroken(corpus, tiny_bert, tmp_path_factory):
    """The result of an unbroken run of each pipeline, made once."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("unbroken")
            components, tuning, optimizer = PIPELINES[name]
            run(config_of(corpus, tiny_bert, components, tuning, optimizer), made[name])
        return made[name]

    return make


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("step", [1, 9, 20])
def test_a_run_that_was_killed_ends_in_the_same_weights(name, step, corpus, tiny_bert, unbroken, tmp_path):
    components, tuning, optimizer = PIPELINES[name]
    config = config_of(corpus, tiny_bert, components, tuning, optimizer)
    run_killed(config, tmp_path, step)
    torch.manual_seed(99)
    np.random.seed(99)
    notes = run(config, tmp_path, resume=True)
    assert notes[0].startswith(f"Resumed after {step} steps")
    assert_same(saved(tmp_path), saved(unbroken(name)))
    assert_same(saved(tmp_path, "model-best"), saved(unbroken(name), "model-best"))


def test_checkpoints_by_steps_and_minutes_and_the_last_two_are_kept(corpus, tiny_bert, tmp_path):
    config = config_of(corpus, tiny_bert, {"ner": OURS["ner"]})
    run_killed(config, tmp_path / "steps", 8, checkpoint_steps=3)
    assert sorted(find_checkpoints(tmp_path / "steps" / CHECKPOINTS)) == [3, 6]
    run_killed(config, tmp_path / "minutes", 8, checkpoint_steps=None, checkpoint_minutes=0.0)
    assert sorted(find_checkpoints(tmp_path / "minutes" / CHECKPOINTS)) == [7, 8]
    run_killed(config, tmp_path / "long", 8, checkpoint_steps=None, checkpoint_minutes=60.0)
    assert not find_checkpoints(tmp_path / "long" / CHECKPOINTS)


def test_a_finished_run_leaves_no_checkpoint_and_is_not_run_again(corpus, tiny_bert, tmp_path):
    config = config_of(corpus, tiny_bert, {"ner": OURS["ner"]})
    run(config, tmp_path)
    assert not find_checkpoints(tmp_path / CHECKPOINTS)
    before = saved(tmp_path)
    (note,) = run(config, tmp_path, resume=True)
    assert "is finished: there is nothing to resume" in note
    assert_same(saved(tmp_path), before)
    other = config_of(corpus, tiny_bert, {"ner": OURS["ner"]}, dropout=0.3)
    (note,) = run(other, tmp_path, resume=True)
    assert "starts at the beginning" in note
    assert saved(tmp_path) != before


def test_checkpoints_are_deleted_when_the_end_of_the_run_is_on_disk(tmp_path, monkeypatch):
    """A power cut in between must not look like a run that never began: that deletes the pipelines."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    monkeypatch.setattr(checkpoint, "delete_checkpoints", lambda folder: synced.append("deleted"))
    Checkpoints(tmp_path, {}).finish()
    assert synced == [(tmp_path / "finished.json").stat().st_ino, tmp_path.stat().st_ino, "deleted"]


def test_a_kill_while_checkpoints_are_deleted_leaves_no_part_of_one(corpus, tiny_bert, unbroken, tmp_path, monkeypatch):
    delete = checkpoints.shutil.rmtree

    def delete_one_file(folder, *arguments, **settings):
        if "checkpoint-" in Path(folder).name:
            for path in sorted(Path(folder).glob("*"))[:1]:
                path.unlink()
                raise Killed
        delete(folder, *arguments, **settings)

    components, tuning, optimizer = PIPELINES["ner and textcat"]
    config = config_of(corpus, tiny_bert, components, tuning, optimizer)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.shutil, "rmtree", delete_one_file)
        with pytest.raises(Killed):  # while checkpoint-1 is deleted
            run(config, tmp_path, checkpoint_steps=1)
    assert sorted(find_checkpoints(tmp_path / CHECKPOINTS)) == [2, 3]
    assert run(config, tmp_path, resume=True)[0].startswith("Resumed after 3 steps")
    assert_same(saved(tmp_path), saved(unbroken("ner and textcat")))


def test_resume_without_a_checkpoint_starts_at_the_beginning(corpus, tiny_bert, unbroken, tmp_path):
    components, tuning, optimizer = PIPELINES["ner and textcat"]
    (note,) = run(config_of(corpus, tiny_bert, components, tuning, optimizer), tmp_path, resume=True)
    assert "starts at the beginning" in note
    assert_same(saved(tmp_path), saved(unbroken("ner and textcat")))


def test_without_resume_a_run_starts_anew(corpus, tiny_bert, unbroken, tmp_path):
    components, tuning, optimizer = PIPELINES["ner and textcat"]
    config = config_of(corpus, tiny_bert, components, tuning, optimizer)
    run_killed(config, tmp_path, 9)
    run(config, tmp_path)
    assert_same(saved(tmp_path), saved(unbroken("ner and textcat")))


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("training", "dropout", 0.3, r"config has changed .*training.dropout: 0.1 → 0.3"),
        ("training", "max_epochs", 4, r"training.max_epochs: 3 → 4"),
        ("system", "seed", 1, r"system.seed: 0 → 1"),
    ],
)
def test_another_config_is_refused_and_nothing_is_lost(section, name, value, message, corpus, tiny_bert, tmp_path):
    config = config_of(corpus, tiny_bert, {"ner": OURS["ner"]})
    run_killed(config, tmp_path, 5)
    changed = config.copy()
    changed[section][name] = value
    before = find_checkpoints(tmp_path / CHECKPOINTS)
    with pytest.raises(ConfigError, match=message):
        run(changed, tmp_path, resume=True)
    assert find_checkpoints(tmp_path / CHECKPOINTS) == before
    run(config, tmp_path, resume=True)


def test_the_logger_and_the_paths_may_change(corpus, tiny_bert, unbroken, tmp_path):
    components, tuning, optimizer = PIPELINES["ner and textcat"]
    config = config_of(corpus, tiny_bert, components, tuning, optimizer)
    run_killed(config, tmp_path / "out", 5)
    copied = (tmp_path / "other.spacy").write_bytes(corpus.read_bytes()) and tmp_path / "other.spacy"
    config = config_of(copied, tiny_bert, components, tuning, optimizer)
    config["training"]["logger"] = {"@loggers": "spacy.ConsoleLogger.v3", "progress_bar": None}
    run(config, tmp_path / "out", resume=True)
    assert_same(saved(tmp_path / "out"), saved(unbroken("ner and textcat")))


def test_other_texts_are_refused(corpus, tiny_bert, tmp_path):
    run_killed(config_of(corpus, tiny_bert, {"ner": OURS["ner"]}), tmp_path / "out", 5)
    fewer = make_texts(tmp_path / "fewer.spacy", 25)
    with pytest.raises(DataError, match="training texts have changed"):
        run(config_of(fewer, tiny_bert, {"ner": OURS["ner"]}), tmp_path / "out", resume=True)


@pytest.mark.parametrize(("part", "name"), [("versions", "torch"), ("machine", "threads")])
def test_other_versions_and_machines_are_named(part, name, corpus, tiny_bert, tmp_path):
    config = config_of(corpus, tiny_bert, {"ner": OURS["ner"]})
    run_killed(config, tmp_path, 5)
    for path in find_checkpoints(tmp_path / CHECKPOINTS).values():
        content = json.loads((path / "state.json").read_text())
        content["identity"][part][name] = "0.0"
        (path / "state.json").write_text(json.dumps(content))
    resumed, differences = run(config, tmp_path, resume=True)
    assert resumed.startswith("Resumed after 5 steps")
    assert f"{name}: 0.0 → " in differences


@pytest.mark.parametrize("damage", ["cut", "empty", "no state", "state of another kind"])
def test_a_damaged_checkpoint_is_an_error_that_names_it(damage, corpus, tiny_bert, unbroken, tmp_path):
    components, tuning, optimizer = PIPELINES["ner and textcat"]
    config = config_of(corpus, tiny_bert, components, tuning, optimizer)
    run_killed(config, tmp_path, 5)
    path = find_checkpoints(tmp_path / CHECKPOINTS)[5]
    tensors, state = path / "tensors.safetensors", path / "state.json"
    if damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    elif damage == "empty":
        tensors.write_bytes(b"")
    elif damage == "no state":
        state.unlink()
    else:
        state.write_text("[]")
    with pytest.raises(DataError, match=r"checkpoint-5 could not be read.*Delete this folder and resume"):
        run(config, tmp_path, resume=True)
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    assert run(config, tmp_path, resume=True)[0].startswith("Resumed after 4 steps")
    assert_same(saved(tmp_path), saved(unbroken("ner and textcat")))


def test_a_full_disk_leaves_the_checkpoint_before(corpus, tiny_bert, unbroken, tmp_path, monkeypatch):
    components, tuning, optimizer = PIPELINES["ner and textcat"]
    config = config_of(corpus, tiny_bert, components, tuning, optimizer)
    written = []

    def save_file(tensors, path):
        written.append(path)
        real(tensors, path)
        if len(written) == 4:
            raise OSError(28, "No space left on device")

    real = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", save_file)
    with pytest.raises(DataError, match=r"No space left on device.*start again with --resume"):
        run(config, tmp_path)
    assert sorted(find_checkpoints(tmp_path / CHECKPOINTS)) == [2, 3]
    assert not list((tmp_path / CHECKPOINTS).glob(".*"))
    run(config, tmp_path, resume=True)
    assert_same(saved(tmp_path), saved(unbroken("ner and textcat")))


@pytest.mark.parametrize("kind", ["spaCy's", "ours"])
def test_a_full_disk_leaves_the_pipeline_before(kind, corpus, tiny_bert, unbroken, tmp_path, monkeypatch):
    components, tuning, optimizer = PIPELINES["ner and textcat"]
    config = config_of(corpus, tiny_bert, components, tuning, optimizer)
    before, real = [], Language.to_disk

    def fill(nlp, folder, **settings):
        real(nlp, folder, **settings)
        if (tmp_path / "model-best").exists():
            before.append(saved(tmp_path, "model-best"))
            if kind == "spaCy's":
                raise OSError(28, "No space left on device")
            with saving("encoder", folder):
                raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patched:
        patched.setattr(Language, "to_disk", fill)
        with pytest.raises(ConfigError, match=r"model-\w+' can't be written.*No space left.*continue with --resume"):
            run(config, tmp_path)
    assert_same(saved(tmp_path, "model-best"), before[0])
    assert not list(tmp_path.glob(".*"))
    assert run(config, tmp_path, resume=True)[0].startswith("Resumed after")
    assert_same(saved(tmp_path), saved(unbroken("ner and textcat")))


def test_resume_needs_an_output_and_checkpoints(corpus, tiny_bert, tmp_path):
    config = config_of(corpus, tiny_bert, {"ner": OURS["ner"]})
    for output, settings in ((None, {}), (tmp_path, {"checkpoint_steps": None})):
        with pytest.raises(ConfigError, match="no output folder, or checkpoints switched off"):
            run(config, output, resume=True, **settings)


def test_a_signal_stops_the_run_after_its_step_with_a_checkpoint(corpus, tiny_bert, unbroken, tmp_path):
    components, tuning, optimizer = PIPELINES["ner and textcat"]
    config = config_of(corpus, tiny_bert, components, tuning, optimizer)

    def interrupt(nlp, info):
        if info["step"] == 6:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    registry.callbacks("test.interrupt.v1", func=lambda: interrupt)
    stopped = config.copy()
    stopped["training"]["before_update"] = {"@callbacks": "test.interrupt.v1"}
    notes = []
    with pytest.raises(Stopped):
        train(stopped, tmp_path, checkpoint_minutes=60.0, note=notes.append, stdout=io.StringIO(), stderr=io.StringIO())
    assert notes[0].startswith("Stopped after 7 steps; continue with --resume")
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ConfigError, match=r"training.before_update"):
        run(config, tmp_path, resume=True)


GROWING = {
    "words": {"@batchers": "spacy.batch_by_words.v1", "discard_oversize": False, "tolerance": 0.2, "get_length": None},
    "subwords": {"@batchers": "spacy-bertft.batch_by_subwords.v1", "size": 40, "min_texts": 2, "max_texts": 6},
}


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("step", [2, 7])
def test_batches_of_other_sizes_are_continued(name, step, corpus, tiny_bert, tmp_path):
    """Sizes that grow in the whole run, and random batches of similar length."""
    batcher = dict(GROWING[name])
    if name == "words":
        batcher["size"] = {"@schedules": "compounding.v1", "start": 10, "stop": 60, "compound": 1.3}
    else:
        batcher["tokenizer"] = str(tiny_bert)
    config = config_of(corpus, tiny_bert, {"ner": OURS["ner"]})
    config["training"]["batcher"] = batcher
    run(config, tmp_path / "whole")
    run_killed(config, tmp_path / "out", step)
    run(config, tmp_path / "out", resume=True)
    assert_same(saved(tmp_path / "out"), saved(tmp_path / "whole"))


def test_other_annotations_are_refused(corpus, tiny_bert, tmp_path):
    run_killed(config_of(corpus, tiny_bert, {"ner": OURS["ner"]}), tmp_path / "out", 5)
    docs = list(DocBin().from_disk(corpus).get_docs(spacy.blank("en").vocab))
    docs[0].set_ents([])
    DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / "corrected.spacy")
    with pytest.raises(DataError, match="training texts have changed"):
        run(config_of(tmp_path / "corrected.spacy", tiny_bert, {"ner": OURS["ner"]}), tmp_path / "out", resume=True)


def test_what_an_earlier_run_left_is_gone_after_a_start_without_checkpoints(corpus, tiny_bert, tmp_path):
    config = config_of(corpus, tiny_bert, {"ner": OURS["ner"]})
    run_killed(config, tmp_path, 5)
    (tmp_path / CHECKPOINTS / ".checkpoint-6.part").mkdir()
    run(config, tmp_path, checkpoint_steps=None)
    assert not list((tmp_path / CHECKPOINTS).iterdir())


# --- what the loop does


def scored(config, scores):
    """The same config with a scorer that gives these scores, one evaluation after another."""
    values = iter(scores)
    registry.scorers("test.scores.v1", func=lambda: lambda examples, **kwargs: {"ents_f": next(values)})
    config = config.copy()
    config["components"]["ner"]["scorer"] = {"@scorers": "test.scores.v1"}
    config["training"]["score_weights"] = {"ents_f": 1.0}
    return config


def test_of_equal_scores_the_earlier_is_kept_and_the_last_update_is_evaluated(corpus, tiny_bert, tmp_path):
    config = scored(config_of(corpus, tiny_bert, {"ner": OURS["ner"]}), [0.1, 0.5, 0.5, 0.4, 0.5, 0.2, 0.3])
    saves = []
    registry.callbacks("test.saves.v1", func=lambda: lambda nlp: saves.append(nlp) or nlp)
    config["training"]["before_to_disk"] = {"@callbacks": "test.saves.v1"}
    run(config, tmp_path)  # 7 batches an epoch: steps 0, 4, 8, 12, 16 and the last, 20
    assert len(saves) == 3  # two that were the best, and the last one
    meta = json.loads((tmp_path / "model-best/meta.json").read_text())
    assert meta["performance"]["ents_f"] == 0.5
    last = json.loads((tmp_path / "model-last/meta.json").read_text())
    assert last["performance"]["ents_f"] == 0.2
    short = config_of(corpus, tiny_bert, {"ner": OURS["ner"]})
    short["training"]["max_steps"] = 4
    # The rate does not follow max_steps here, so both runs are the same up to this step.
    for one in (config, short):
        one["training"]["optimizer"]["learn_rate"] = 1e-3
    run(scored(config, [0.1, 0.5, 0.5, 0.4, 0.5, 0.2]), tmp_path / "long")
    run(scored(short, [0.1, 0.5]), tmp_path / "short")
    assert_same(saved(tmp_path / "long", "model-best"), saved(tmp_path / "short"))


def test_patience_stops_a_run_that_gets_no_better(corpus, tiny_bert, tmp_path):
    scores = [0.1, 0.5, 0.4, 0.5, 0.4, 0.3]
    config = scored(config_of(corpus, tiny_bert, {"ner": OURS["ner"]}), scores)
    config["training"]["patience"] = 8
    seen = []
    registry.loggers("test.seen.v1", func=lambda: lambda nlp, out, err: (seen.append, lambda: None))
    config["training"]["logger"] = {"@loggers": "test.seen.v1"}
    run(config, tmp_path)
    assert [info["step"] for info in seen if info] == [0, 4, 8, 12]  # two evaluations without a better score
    assert len(seen) == 13


def test_patience_and_the_best_score_are_kept_by_a_resumed_run(corpus, tiny_bert, tmp_path):
    config = scored(config_of(corpus, tiny_bert, {"ner": OURS["ner"]}), [0.1, 0.5, 0.4])
    config["training"]["patience"] = 8
    seen = []
    registry.loggers("test.seen.v1", func=lambda: lambda nlp, out, err: (seen.append, lambda: None))
    config["training"]["logger"] = {"@loggers": "test.seen.v1"}
    run_killed(config, tmp_path, 9)
    best = saved(tmp_path, "model-best")
    assert run(scored(config, [0.5, 0.4, 0.3]), tmp_path, resume=True)[0].startswith("Resumed after 9 steps")
    assert [info["step"] for info in seen if info] == [0, 4, 8, 12]
    assert_same(saved(tmp_path, "model-best"), best)  # a tie with the step before the kill


def test_an_error_names_the_texts_of_its_batch(corpus, tiny_bert, tmp_path):
    def spoil(nlp, info):
        if info["step"] == 2:
            module_of(nlp, "ner").output.weight.data.fill_(float("nan"))

    registry.callbacks("test.spoil.v1", func=lambda: spoil)
    config = config_of(corpus, tiny_bert, {"ner": OURS["ner"]}, before_update={"@callbacks": "test.spoil.v1"})
    with pytest.raises(DataError, match=r"training has diverged.*It happened in the batch of '.*' and 1 more texts"):
        run(config, tmp_path)


def test_a_loss_of_spacys_that_is_not_finite_names_the_texts_too(corpus, tiny_bert, tmp_path):
    def spoil(nlp, info):
        if info["step"] == 2:
            (layer,) = (node for node in nlp.get_pipe("tagger").model.walk() if node.name == "softmax")
            layer.get_param("W")[:] = float("nan")

    registry.callbacks("test.spoil_tagger.v1", func=lambda: spoil)
    components, callback = PIPELINES["spaCy's tagger"][0], {"@callbacks": "test.spoil_tagger.v1"}
    config = config_of(corpus, tiny_bert, components, before_update=callback)
    with pytest.raises(DataError, match=r"NaN values in scores: training has diverged.*the batch of '.*' and 1 more"):
        run(config, tmp_path)


def test_too_little_memory_on_a_gpu_says_what_to_change(corpus, tiny_bert, tmp_path):
    def fill(nlp, info):
        def update(*args, **kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory")

        nlp.update = update

    registry.callbacks("test.fill.v1", func=lambda: fill)
    config = config_of(corpus, tiny_bert, {"ner": OURS["ner"]}, before_update={"@callbacks": "test.fill.v1"})
    with pytest.raises(
        ConfigError, match=r"GPU ran out of memory in a batch of 4 texts.*accumulate_gradient.*smaller batches"
    ):
        run(config, tmp_path)


def test_a_short_campaign_of_kills(tmp_path):
    """As in docs/runs.md, with few kills."""
    script = Path(__file__).parents[3] / "scripts/kill_runs.py"
    command = [sys.executable, "-W", "ignore", str(script), "--kills", "3", "--work", str(tmp_path / "kills")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all runs ended in the same weights" in done.stdout
