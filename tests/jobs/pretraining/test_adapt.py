"""Whole runs: what they write, going on after a kill, several processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pretraining_runs import StoppedError, curve, same, weights, write_corpus
from tiny import make_encoder
from transformers import AutoModelForMaskedLM

from spacy_bertft.encoder.loading import load
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.checkpoints import find_checkpoints
from spacy_bertft.jobs.pretraining import resume
from spacy_bertft.jobs.pretraining.adapt import adapt
from spacy_bertft.jobs.pretraining.config import TrainingSettings, check_settings, read_settings
from spacy_bertft.jobs.pretraining.training_loop import Run, learn_rate

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder") / "one", "bert-uncased", head="AutoModelForPreTraining")


def settings(corpus, encoder, *, objective=None, **training):
    training = {"steps": 12, "batch_size": 8, "window": 32, "learn_rate": 1e-3, "warmup_steps": 2, "device": "cpu",
                "evaluate_every": 6, "save_every": 4, **training}  # fmt: skip
    return check_settings(
        {
            "corpus": {"paths": [str(corpus)], "held_out": 0.05},
            "encoder": {"name": None, "size": "tiny", "vocabulary": 120, "positions": 64}
            if encoder is None
            else {"name": str(encoder)},
            "objective": objective or {},
            "training": training,
        },
        "test",
    )


def test_training_lowers_the_loss_and_the_result_is_an_encoder(corpus, encoder, tmp_path):
    result = adapt(settings(corpus, encoder, steps=60), tmp_path / "out")
    assert result.after.held_out_loss < result.before.held_out_loss - 0.5
    assert result.after.perplexity < result.before.perplexity
    assert result.after.accuracy > result.before.accuracy
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out") is not None
    assert "local" not in (tmp_path / "out/tokenizer_config.json").read_text(encoding="utf-8")  # as it was loaded
    plain = load(str(tmp_path / "out"), EncoderSettings(device="cpu"))
    assert plain.width == 32
    rows = curve(tmp_path / "out")
    assert [int(row["step"]) for row in rows] == [0, *range(6, 61, 6)]
    assert float(rows[-1]["held_out_loss"]) == pytest.approx(result.after.held_out_loss)
    assert not find_checkpoints(tmp_path / "out")


def test_a_run_from_scratch_makes_vocabulary_and_model(corpus, tmp_path):
    result = adapt(settings(corpus, None, steps=3), tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    assert (config["hidden_size"], config["num_hidden_layers"], config["model_type"]) == (128, 2, "bert")
    encoder = load(str(tmp_path / "out"), EncoderSettings(device="cpu"))
    assert encoder.tokenizer.token_to_id("berlin") is not None
    assert encoder.window == 64
    assert result.state.step == 3


def test_next_sentences_are_learned_with_masked_words(corpus, encoder, tmp_path):
    result = adapt(settings(corpus, encoder, objective={"next_sentence": True}, steps=6), tmp_path / "out")
    assert result.state.curve[-1]["next_loss"] > 0
    assert result.after.held_out_loss > np.log(result.after.perplexity)


@pytest.mark.parametrize("objective", [{}, {"next_sentence": True}, {"whole_words": True, "draw": "uniform"}])
def test_a_run_that_goes_on_ends_in_the_same_weights(corpus, encoder, tmp_path, objective):
    whole = settings(corpus, encoder, objective=objective)
    adapt(whole, tmp_path / "whole")
    # The learn rate depends on the number of steps, so the first part is the same run, stopped.
    stopped = _stop_after(8, whole, tmp_path / "parts")
    assert sorted(stopped) == [8]
    adapt(whole, tmp_path / "parts", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    curves = [curve(tmp_path / name) for name in ("whole", "parts")]
    for one, other in zip(*curves, strict=True):
        assert {**one, "seconds": ""} == {**other, "seconds": ""}


def _stop_after(step, run_settings, output):
    def stop(done):
        if done.step == step + 1:
            raise StoppedError

    with pytest.raises(StoppedError):
        adapt(run_settings, output, progress=stop)
    return find_checkpoints(output)


def test_a_run_without_a_checkpoint_begins_anew(corpus, encoder, tmp_path):
    adapt(settings(corpus, encoder), tmp_path / "one")
    adapt(settings(corpus, encoder), tmp_path / "two", resume=True)
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))


def test_other_settings_are_no_way_to_go_on(corpus, encoder, tmp_path):
    _stop_after(8, settings(corpus, encoder), tmp_path)
    with pytest.raises(ConfigError, match=r"other settings \(training\.learn_rate: 0\.001, now 0\.002\)"):
        adapt(settings(corpus, encoder, learn_rate=2e-3), tmp_path, resume=True)


def test_another_tokenizer_in_the_same_folder_is_no_way_to_go_on(corpus, tmp_path):
    made = make_encoder(tmp_path / "encoder", "bert-uncased", head="AutoModelForPreTraining")
    _stop_after(8, settings(corpus, made), tmp_path / "out")
    tokenizer = json.loads((made / "tokenizer.json").read_text(encoding="utf-8"))
    numbers = tokenizer["model"]["vocab"]
    one, two = sorted(numbers)[-2:]
    numbers[one], numbers[two] = numbers[two], numbers[one]
    (made / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"other settings \(tokenizer: '"):
        adapt(settings(corpus, made), tmp_path / "out", resume=True)


@pytest.mark.parametrize("kept", [0.3, 0.0])
def test_a_damaged_checkpoint_is_a_clear_error(corpus, encoder, tmp_path, kept):
    (path,) = _stop_after(8, settings(corpus, encoder), tmp_path).values()
    content = (path / "tensors.safetensors").read_bytes()
    (path / "tensors.safetensors").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"checkpoint-8 could not be read.*--overwrite"):
        adapt(settings(corpus, encoder), tmp_path, resume=True)


def test_a_disk_that_is_full_leaves_the_checkpoint_before(corpus, encoder, tmp_path, monkeypatch):
    real, calls = resume.save_file, []

    def full(tensors, path):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(resume, "save_file", full)
    with pytest.raises(DataError, match=r"checkpoint-8 could not be written.*No space left.*--resume"):
        adapt(settings(corpus, encoder), tmp_path / "out")
    assert sorted(find_checkpoints(tmp_path / "out")) == [4]
    monkeypatch.undo()
    adapt(settings(corpus, encoder), tmp_path / "out", resume=True)
    adapt(settings(corpus, encoder), tmp_path / "whole")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "out"))


@pytest.mark.slow
def test_a_run_killed_while_it_saves_goes_on(corpus, encoder, tmp_path):
    """Killed by SIGKILL in the middle of writing its second checkpoint."""
    code = f"""
import sys, time
sys.path[:0] = {[str(ROOT / "tests"), str(ROOT / "tests/jobs/pretraining")]!r}
from pathlib import Path
import float32
import torch
torch.set_num_threads(1)
from spacy_bertft.jobs.pretraining import resume
from test_adapt import adapt, settings
real = resume.save_file
calls = []
def slow(tensors, path):
    calls.append(path)
    if len(calls) == 2:
        Path(path).write_bytes(b"half")
        print("saving", flush=True)
        time.sleep(60)
    real(tensors, path)
resume.save_file = slow
adapt(settings({str(corpus)!r}, {str(encoder)!r}), Path({str(tmp_path / "out")!r}))
"""
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert sorted(find_checkpoints(tmp_path / "out")) == [4]
    adapt(settings(corpus, encoder), tmp_path / "out", resume=True)
    adapt(settings(corpus, encoder), tmp_path / "whole")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "out"))


def _free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("objective", [{}, {"next_sentence": True}])
def test_two_processes_take_the_steps_of_one(corpus, encoder, tmp_path, objective):
    still = tmp_path / "still"
    still.mkdir()
    for path in encoder.iterdir():
        (still / path.name).write_bytes(path.read_bytes())
    config = json.loads((still / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # which differ between processes
    (still / "config.json").write_text(json.dumps(config), encoding="utf-8")
    run_settings = settings(corpus, still, objective=objective, batch_subwords=64)
    one = adapt(run_settings, tmp_path / "one")
    code = f"""
import sys
sys.path[:0] = {[str(ROOT / "tests"), str(ROOT / "tests/jobs/pretraining")]!r}
from pathlib import Path
import float32
import torch
torch.set_num_threads(1)
from test_adapt import adapt, settings
adapt(settings({str(corpus)!r}, {str(still)!r}, objective={objective!r}, batch_subwords=64), Path(sys.argv[1]))
"""
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "two")],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    theirs = weights(tmp_path / "two")
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-5)
    rows = curve(tmp_path / "two")
    assert float(rows[-1]["loss"]) == pytest.approx(one.state.curve[-1]["loss"], rel=1e-4)


@pytest.mark.parametrize("budget", [16, 100, 10_000])
def test_parts_of_a_step_change_nothing(corpus, encoder, tmp_path, budget):
    run_settings = settings(corpus, encoder, batch_subwords=budget, steps=1)
    first = adapt(run_settings, tmp_path / "out")
    whole = adapt(settings(corpus, encoder, steps=1), tmp_path / "whole")
    assert first.state.curve[0]["held_out_loss"] == pytest.approx(whole.state.curve[0]["held_out_loss"], rel=1e-5)


def test_an_output_that_is_taken_is_refused_unless_replaced(corpus, encoder, tmp_path):
    adapt(settings(corpus, encoder, steps=1), tmp_path)
    with pytest.raises(ConfigError, match=r"found a model or an unfinished run there.*--resume.*--overwrite"):
        adapt(settings(corpus, encoder, steps=1), tmp_path)
    adapt(settings(corpus, encoder, steps=1), tmp_path, overwrite=True)


def test_a_finished_run_is_not_gone_on_with(corpus, encoder, tmp_path):
    adapt(settings(corpus, encoder, steps=1), tmp_path)
    with pytest.raises(ConfigError, match=r"found a finished model and no checkpoint.*--overwrite"):
        adapt(settings(corpus, encoder, steps=1), tmp_path, resume=True)


def test_a_head_that_starts_at_random_is_noted(corpus, tiny_bert, tmp_path):
    notes = []
    adapt(settings(corpus, tiny_bert, steps=1), tmp_path, note=notes.append)
    assert any("weights, which start at random: cls.predictions" in line for line in notes)


def test_a_corpus_too_small_is_a_clear_error(encoder, tmp_path):
    (tmp_path / "one.txt").write_text("one text\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"The corpus gives 1 windows.*Add texts"):
        adapt(settings(tmp_path / "one.txt", encoder), tmp_path / "out")


def test_a_loss_that_is_no_number_stops_the_run(corpus, encoder, tmp_path):
    with pytest.raises(DataError, match=r"training has diverged.*Lower learn_rate"):
        adapt(settings(corpus, encoder, learn_rate=1e30, warmup_steps=0, grad_clip=0.0), tmp_path)


def test_the_rate_warms_up_and_falls_to_nothing():
    training = TrainingSettings(steps=10, warmup_steps=4, learn_rate=1.0)
    rates = [learn_rate(step, training) for step in range(1, 11)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == pytest.approx([6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7])
    assert learn_rate(1, TrainingSettings(steps=4, warmup_steps=0, learn_rate=1.0)) == pytest.approx(4 / 5)


def test_the_config_in_configs_is_valid_and_says_the_defaults():
    found = read_settings(ROOT / "configs/adapt.cfg")
    assert found.training == TrainingSettings()
    assert found == check_settings({"corpus": {"paths": ["corpus.txt"]}}, "test")


def test_the_recipe_of_the_embedded_encoder_is_valid():
    found = read_settings(ROOT / "configs/pretrain.cfg")
    assert found.encoder.name is None
    assert found.training.dropout == 0


@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize("dropout", [None, 0.0, 0.5])
def test_dropout_is_that_of_the_run_and_the_saved_config_keeps_its_own(corpus, encoder, tmp_path, scratch, dropout):
    run = Run(settings(corpus, None if scratch else encoder, dropout=dropout), tmp_path / "out")
    run.model.train()
    (batch,) = run._batches(run.train, np.arange(8), np.random.default_rng(0))
    one, two = (float(run.model(batch).masked.detach()) for _ in range(2))
    assert (one == two) == (dropout == 0)
    wanted = 0.1 if dropout is None else dropout
    assert {module.p for module in run.model.modules() if isinstance(module, torch.nn.Dropout)} == {wanted}
    run.model.save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved/config.json").read_text(encoding="utf-8"))
    assert config["hidden_dropout_prob"] == config["attention_probs_dropout_prob"] == 0.1


def test_files_can_be_excluded(corpus, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_bytes(corpus.read_bytes())
    (folder / "b_test.txt").write_text("zzyzx " * 50, encoding="utf-8")
    plain = settings(folder, None, steps=1).model_dump()
    adapt(check_settings(plain | {"corpus": plain["corpus"] | {"exclude": "*_test.txt"}}, "test"), tmp_path / "out")
    tokenizer = load(str(tmp_path / "out"), EncoderSettings(device="cpu")).tokenizer
    assert tokenizer.token_to_id("berlin") is not None
    assert tokenizer.token_to_id("z") is None


def test_wrong_settings_are_named():
    with pytest.raises(
        ConfigError, match=r"training\.step = 5 .*encoder\.size = 'giant'|encoder\.size.*training\.step"
    ):
        check_settings({"corpus": {"paths": ["a"]}, "encoder": {"size": "giant"}, "training": {"step": 5}}, "adapt.cfg")
    with pytest.raises(ConfigError, match=r"corpus\.paths"):
        check_settings({"corpus": {"paths": []}}, "adapt.cfg")


def test_overrides_reach_the_settings():
    found = read_settings(ROOT / "configs/adapt.cfg", {"training.steps": 7, "corpus.paths": ["a.txt", "b.txt"]})
    assert found.training.steps == 7
    one = read_settings(ROOT / "configs/adapt.cfg", {"corpus.paths": "a.txt"})
    assert [path.name for path in one.corpus.paths] == ["a.txt"]
    assert [path.name for path in found.corpus.paths] == ["a.txt", "b.txt"]


def test_something_else_in_place_of_a_config(tmp_path):
    (tmp_path / "a.cfg").write_text("word " * 100_000, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a\.cfg: found a config that can't be read \(.*word") as caught:
        read_settings(tmp_path / "a.cfg")
    assert len(str(caught.value)) < 1000
    with pytest.raises(ConfigError, match="found something that is not a regular file; expected a config"):
        read_settings(tmp_path)
    with pytest.raises(ConfigError, match=f"found training.seed = {10**20}"):
        read_settings(ROOT / "configs/adapt.cfg", {"training.seed": 10**20})
