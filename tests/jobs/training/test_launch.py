"""Several processes that train together: the steps of one with the whole batch; a dead one ends them all."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from encoders import rewrite
from safetensors.torch import load_file
from spacy.util import load_config
from tiny import make_encoder
from training_runs import PIPELINES, assert_same, config_of, figures, make_texts, run, saved

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.training.launch import launch

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

TESTS = Path(__file__).parents[2]
CHILD = f"""
import os, sys, time
sys.path[:0] = [{str(TESTS)!r}]
import float32
import torch
torch.set_num_threads(1)
from pathlib import Path
from spacy.util import load_config, registry
from training_runs import run

@registry.callbacks("test.dies.v1")
def dies(rank, step):
    def die(nlp, info):
        if int(os.environ["RANK"]) == rank and info["step"] == step:
            os._exit(7)
    return die

print(*run(load_config(sys.argv[1]), Path(sys.argv[2]), resume=sys.argv[3] == "resume"))
"""

# What is registered first runs last.
THREADS = """
import atexit, os, sys
from pathlib import Path

@atexit.register
def write_names():
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    Path(sys.argv[1]).with_name(os.environ["RANK"]).write_text("".join(names))
"""


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """An encoder without dropout, which differs from process to process."""
    folder = make_encoder(tmp_path_factory.mktemp("still") / "encoder", "bert-uncased")
    rewrite(folder / "config.json", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_texts(tmp_path_factory.mktemp("corpus") / "texts.spacy", 26)


def config_for(name, corpus, encoder, tmp_path, **training):
    components, tuning, optimizer = PIPELINES[name]
    config = config_of(corpus, encoder, components, tuning, optimizer, **training)
    config["training"]["dropout"] = 0.0
    config["components"]["encoder"]["model"]["precision"] = "float32"
    # Adam divides by the size of gradients: where one is nearly 0, rounding would become a step of full size.
    config["training"]["optimizer"].update(eps=1e-4)
    config.to_disk(tmp_path / "run.cfg")
    return config


def launched(tmp_path, output, count, how="start", child=CHILD):
    arguments = ["-W", "ignore", "-c", child, str(tmp_path / "run.cfg"), str(output), how]
    return launch(arguments, count)


def weights(output):
    found = {}
    for path in sorted((output / "model-last").rglob("*.safetensors")):
        tensors = load_file(path).items()
        found.update({f"{path.relative_to(output)}/{name}": tensor for name, tensor in tensors})
    return found


def assert_near(one, two):
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(
            two[name], tensor, rtol=1e-3, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("name", ["ner and textcat", "LoRA", "spaCy's tagger and ours, averages"])
def test_two_processes_take_the_steps_of_one_and_log_them(name, corpus, still, tmp_path):
    config = config_for(name, corpus, still, tmp_path)
    config["training"]["logger"] = {"@loggers": "test.figures.v1", "folder": str(tmp_path)}
    config.to_disk(tmp_path / "run.cfg")
    run(config, tmp_path / "one")
    assert launched(tmp_path, tmp_path / "two", 2) == 0
    assert_near(weights(tmp_path / "one"), weights(tmp_path / "two"))
    assert (tmp_path / "two/model-best/config.cfg").is_file()
    assert len(figures(tmp_path, 1)) == 21
    for one, two in zip(figures(tmp_path, 1), figures(tmp_path, 2), strict=True):
        losses = two.pop("losses")
        assert losses == pytest.approx(one.pop("losses"), rel=1e-3)
        assert losses.keys() >= {"ner", "textcat"}
        assert two == one  # the epoch, and the subwords of all processes


def test_more_processes_than_texts_in_a_batch(corpus, still, tmp_path):
    config = config_for("ner and textcat", corpus, still, tmp_path)  # the last batch of an epoch has two texts
    run(config, tmp_path / "one")
    assert launched(tmp_path, tmp_path / "three", 3) == 0
    assert_near(weights(tmp_path / "one"), weights(tmp_path / "three"))


def test_two_processes_with_the_same_seed_end_in_the_same_weights(corpus, tiny_bert, tmp_path):
    config = config_for("LoRA", corpus, tiny_bert, tmp_path)  # this encoder has dropout
    config["training"]["dropout"] = 0.2
    config.to_disk(tmp_path / "run.cfg")
    for name in ("one", "two"):
        assert launched(tmp_path, tmp_path / name, 2) == 0
    assert_same(saved(tmp_path / "one"), saved(tmp_path / "two"))


def test_a_process_without_texts_at_the_start_has_the_learning_rate_of_the_others(corpus, still, tmp_path):
    config = config_for("frozen", corpus, still, tmp_path)
    growing = {"@schedules": "compounding.v1", "start": 1, "stop": 4, "compound": 1.2}
    config["training"]["batcher"] = {"@batchers": "spacy.batch_by_sequence.v1", "size": growing, "get_length": None}
    config.to_disk(tmp_path / "run.cfg")
    run(config, tmp_path / "one")
    assert launched(tmp_path, tmp_path / "two", 2) == 0
    assert_near(weights(tmp_path / "one"), weights(tmp_path / "two"))


@pytest.mark.skipif(sys.platform != "linux", reason="names of threads are read from /proc")
def test_no_thread_of_the_group_is_left_when_a_process_ends(corpus, still, tmp_path):
    config_for("LoRA", corpus, still, tmp_path)
    assert launched(tmp_path, tmp_path / "two", 2, child=THREADS + CHILD) == 0
    threads = [(tmp_path / str(rank)).read_text().split() for rank in range(2)]
    assert [[name for name in names if "gloo" in name or "store" in name] for names in threads] == [[], []]
    assert all(threads)


def test_a_dead_process_ends_the_run_which_another_number_continues(corpus, still, tmp_path, capfd):
    config = config_for("ner and textcat", corpus, still, tmp_path)
    run(config, tmp_path / "one")
    config["training"]["before_update"] = {"@callbacks": "test.dies.v1", "rank": 1, "step": 9}
    config.to_disk(tmp_path / "run.cfg")
    started = time.monotonic()
    assert launched(tmp_path, tmp_path / "two", 2) == 7
    assert time.monotonic() - started < 60
    config["training"]["before_update"]["step"] = 9  # dies again: only rank 1 does
    assert launched(tmp_path, tmp_path / "two", 1, "resume") == 0
    said = capfd.readouterr().out
    assert "Resumed after 9 steps" in said
    assert "processes: 2 → 1" in said
    assert_near(weights(tmp_path / "one"), weights(tmp_path / "two"))


def test_processes_that_know_nothing_of_each_other_are_refused(corpus, still, tmp_path, monkeypatch):
    from spacy.cli.train import train as spacy_train

    config_for("ner and textcat", corpus, still, tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"Found 2 processes.*torchrun … -m spacy_bertft train"):
        spacy_train(tmp_path / "run.cfg", tmp_path / "out")
    assert load_config(tmp_path / "run.cfg")


def test_a_number_of_processes_is_at_least_one():
    with pytest.raises(ConfigError, match="processes: found 0; expected 1 or more"):
        launch(["-c", "pass"], 0)


def test_the_cores_are_shared_out(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    code = "import os, sys; open(f'{sys.argv[1]}/{os.environ[\"RANK\"]}', 'w').write(os.environ['OMP_NUM_THREADS'])"
    assert launch(["-c", code, str(tmp_path)], 3) == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0": "2", "1": "2", "2": "2"}


def test_ctrl_c_ends_all(tmp_path):
    code = "import os, sys, time; open(f'{sys.argv[1]}/{os.getpid()}', 'w').close(); time.sleep(300)"
    pid = os.fork()
    if pid == 0:
        os.setpgrp()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
        try:
            launch(["-c", code, str(tmp_path)], 2)
        except KeyboardInterrupt:
            os._exit(1)
        os._exit(0)
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
    os.killpg(pid, signal.SIGINT)
    os.waitpid(pid, 0)
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name), 0)
