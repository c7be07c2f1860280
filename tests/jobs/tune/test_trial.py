"""One trial: a process that trains as `spacy train` does and reports its scores."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
import spacy
from spacy.util import load_config

from spacy_bertft.jobs.tune.trial import CONFIG, LOG, is_alive, model_of, run_trial
from spacy_bertft.jobs.tune.worker import Job

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

CODE = """
from spacy import registry

@registry.callbacks("mine.v1")
def mine():
    return lambda nlp, info: print(f"mine, step {info['step']}", flush=True)
"""


@pytest.fixture
def run(given, tmp_path):
    def run(
        report=lambda evaluation, curve: list(curve.add(evaluation)) and False, *, save=True, code=None, **overrides
    ):
        shutil.rmtree(tmp_path / "trial", ignore_errors=True)
        (tmp_path / "trial").mkdir()
        overrides = {name.replace("__", "."): value for name, value in overrides.items()}
        load_config(given.config, overrides=overrides, interpolate=False).to_disk(tmp_path / "trial" / CONFIG)
        return run_trial(tmp_path / "trial", code=code, gpu=-1, save=save, report=report)

    return run


def test_it_trains_to_the_end_and_leaves_the_pipeline_of_its_best_evaluation(run, tmp_path, given):
    seen, alive = [], []

    def report(evaluation, curve):
        list(curve.add(evaluation))
        seen.append(evaluation)
        alive.append(is_alive(tmp_path / "trial", started=0))
        return False

    outcome = run(report)
    assert (outcome.state, outcome.reason, outcome.n_evaluations) == ("done", "", 11)
    assert [evaluation.step for evaluation in seen] == list(range(0, 21, 2))
    assert [evaluation.position for evaluation in seen] == [*((step + 1) / 20 for step in range(0, 19, 2)), 1.0]
    assert outcome.best == next(one for one in seen if one.score == max(other.score for other in seen))
    assert all(alive)
    assert not is_alive(tmp_path / "trial", started=0)
    nlp = spacy.load(model_of(tmp_path / "trial"))
    assert nlp.meta["performance"]["ents_f"] == outcome.best.score
    # The config saved with it names the logger that the user chose.
    own = load_config(given.config)["training"]["logger"]
    assert nlp.config["training"]["logger"] == own
    assert "ents_f" in (tmp_path / "trial" / LOG).read_text(encoding="utf-8")


def test_it_is_stopped_when_the_search_says_so(run, tmp_path):
    seen = []

    def report(evaluation, curve):
        list(curve.add(evaluation))
        seen.append(evaluation)
        return len(seen) == 2

    (tmp_path / "code.py").write_text(CODE, encoding="utf-8")
    outcome = run(
        report,
        save=False,
        code=tmp_path / "code.py",
        training__max_steps=100_000,
        training__before_update={"@callbacks": "mine.v1"},
    )
    assert (outcome.state, outcome.best) == ("pruned", seen[0])
    assert "mine, step 0\n" in (tmp_path / "trial" / LOG).read_text(encoding="utf-8")
    assert not model_of(tmp_path / "trial").parent.exists()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"components__encoder__model__name": "/no/such/encoder"}, "/no/such/encoder"),
        ({"training__optimizer__learn_rate__initial_rate": 1e30}, "DataError"),  # weights that are no numbers
    ],
)
def test_a_failure_has_its_reason(run, tmp_path, overrides, said):
    outcome = run(**overrides)
    assert outcome.state == "failed"
    assert said in outcome.reason
    assert "\n" not in outcome.reason
    assert "Traceback" in (tmp_path / "trial" / LOG).read_text(encoding="utf-8")


def test_epochs_are_counted_without_touching_the_training(run):
    """A schedule that doesn't count batches itself: reporting does, and the scores stay those of the plain config."""
    rate = {"@schedules": "constant.v1", "rate": 0.01}
    seen = {}
    for epochs, steps in ((10, 0), (0, 19)):
        found = seen[epochs] = []

        def report(evaluation, curve, found=found):
            list(curve.add(evaluation))
            found.append(evaluation)
            return False

        run(
            report,
            save=False,
            training__max_epochs=epochs,
            training__max_steps=steps,
            training__batcher__size=3,
            training__optimizer__learn_rate=rate,
        )
    # 6 texts in batches of 3, for 10 epochs or for 20 steps: the same training.
    assert [(one.step, one.score) for one in seen[10]] == [(one.step, one.score) for one in seen[0]]
    assert [one.position for one in seen[10]] == [(step + 1) / 20 for step in range(0, 20, 2)]


def test_a_process_killed_from_outside_is_a_failure(run):
    def report(evaluation, curve):
        # The newest child of this process.
        children = f"/proc/{os.getpid()}/task/{os.getpid()}/children"
        with open(children, encoding="utf-8") as file:
            os.kill(int(file.read().split()[-1]), 9)
        return False

    if not os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children"):
        pytest.skip("finds the process in /proc")
    outcome = run(report, save=False, training__max_steps=100_000)
    assert (outcome.state, outcome.reason) == ("failed", "its process was killed by SIGKILL (out of memory?)")


def test_it_ends_when_the_search_is_gone(given, tmp_path):
    """The pipe to its standard input breaks, as when the search is killed."""
    load_config(given.config, overrides={"training.max_steps": 100_000}).to_disk(tmp_path / CONFIG)
    job = Job(str(tmp_path / CONFIG), None, None, -1)
    command = [sys.executable, "-m", "spacy_bertft.jobs.tune.worker", json.dumps(asdict(job))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert json.loads(process.stdout.readline())["step"] == 0
        process.stdin.close()
        assert process.wait(timeout=60) == 1


def test_signs_of_life(tmp_path):
    mark = tmp_path / "running.json"
    assert is_alive(tmp_path, started=time.time() - 5)  # it has just begun, and the mark is not written yet
    assert not is_alive(tmp_path, started=time.time() - 500)
    mark.write_text(json.dumps({"host": "elsewhere", "pid": 1}), encoding="utf-8")
    assert is_alive(tmp_path, started=0)
    os.utime(mark, (time.time() - 500,) * 2)
    assert not is_alive(tmp_path, started=0)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mark.write_text(json.dumps({"host": socket.gethostname(), "pid": gone.pid}), encoding="utf-8")
    assert is_alive(tmp_path, started=0) is (os.name != "posix")
