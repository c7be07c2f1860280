"""`bertft tune` with real trainings: what it shows and leaves, pruning, going on, and sharing a search."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import spacy
from pipelines import blank, examples
from spacy.cli.train import train
from spacy.tokens import DocBin
from spacy.util import load_config
from typer.testing import CliRunner

from spacy_bertft.cli import app
from spacy_bertft.cli.tune import clock

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

NER = Path(__file__).parents[2] / "configs/ner.cfg"
RATE = "training.optimizer.learn_rate.initial_rate"


@pytest.fixture(scope="module")
def words(tmp_path_factory, tiny_bert):
    """The command without --output: a tiny encoder on six texts, at a good learning rate or at bad ones."""
    folder = tmp_path_factory.mktemp("given")
    DocBin(docs=[eg.reference for eg in examples(blank(tiny_bert))]).to_disk(folder / "data.spacy")
    (folder / "space.cfg").write_text(
        f"[{RATE}]\nchoices = [0.01, 1e-9, 2e-9, 3e-9]\n\n[training.dropout]\nlow = 0\nhigh = 0.2\n", encoding="utf-8"
    )
    settings = {
        "paths.train": folder / "data.spacy",
        "paths.dev": folder / "data.spacy",
        "components.encoder.model.name": tiny_bert,
        "components.encoder.model.device": "cpu",
        "training.max_steps": 20,
        "training.max_epochs": 0,
        "training.eval_frequency": 2,
        RATE: 0.01,
    }
    given = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
    return ["tune", str(NER), "--space", str(folder / "space.cfg"), "--prune-after", "1", "--trials", "3", *given]


def run(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="bertft")


def start(*args):
    command = [sys.executable, "-m", "spacy_bertft", *map(str, args)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    finally:
        signal.signal(signal.SIGINT, before)


def table(folder):
    """Of each trial: state, score and values."""
    with (folder / "trials.csv").open(encoding="utf-8", newline="") as file:
        return [(row["state"], row["score"], row[RATE], row["training.dropout"]) for row in csv.DictReader(file)]


def wait_for(path):
    for _ in range(1200):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def children(process):
    try:
        path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        return [int(word) for word in path.read_text(encoding="utf-8").split()]
    except OSError:
        return []


def ended(pid):
    for _ in range(1200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def searched(words, tmp_path_factory):
    """A search of three trials: its folder and what was shown."""
    folder = tmp_path_factory.mktemp("searched") / "search"
    result = run(*words, "--output", folder)
    assert result.exit_code == 0, result.output
    return folder, result.stdout


def test_help_names_the_options():
    assert "tune" in run("--help").output
    text = run("tune", "--help").output
    for option in ("--space", "--trials", "--output", "--seed", "--prune-after", "--no-model", "--paths.train"):
        assert option in text


def test_bad_runs_are_pruned_and_the_best_is_shown(searched):
    folder, shown = searched
    rows = table(folder)
    assert [state for state, *_ in rows] == ["done", "pruned", "pruned"]
    assert rows[0][2:] == ("0.01", "0.1")  # the config itself
    assert float(rows[0][1]) > max(float(row[1]) for row in rows[1:])
    lines = shown.splitlines()
    assert lines[0] == "Searching:"
    assert f"    [{RATE}]" in lines
    assert re.search(r"^ {4}0 {2}\d\.\d{4} {2}done .*initial_rate 0.01, dropout 0.1 {2}← best", shown, re.MULTILINE)
    header = next(line for line in lines if line.startswith("trial"))
    assert header.split() == ["trial", "state", "score", "time", "initial_rate", "dropout"]
    assert f"3 trials (1 done, 2 pruned). Best dev score: {float(rows[0][1]):.4f}, trial 0" in shown
    assert "optimistic" in shown
    assert f"✔ {folder / 'best.cfg'}, its pipeline: {folder / 'best-model'}" in shown


def test_disk_use_is_bounded(searched):
    folder, _ = searched
    weights = [path.relative_to(folder).parts[0] for path in folder.rglob("*.safetensors")]
    assert set(weights) == {"best-model"}


def test_the_best_config_trains_to_the_same_score(searched, tmp_path):
    folder, _ = searched
    train(folder / "best.cfg", tmp_path / "training")
    again, kept = (spacy.load(path) for path in (tmp_path / "training/model-best", folder / "best-model"))
    assert again.meta["performance"]["ents_f"] == kept.meta["performance"]["ents_f"] == float(table(folder)[0][1])
    assert again.config.to_str() == kept.config.to_str()


def test_the_same_command_shows_the_results_again(searched, words):
    folder, shown = searched
    before = (folder / "journal.log").read_bytes()
    result = run(*words, "--output", folder)
    assert result.exit_code == 0
    assert result.stdout[result.stdout.index("trial  state") :] == shown[shown.index("trial  state") :]
    assert (folder / "journal.log").read_bytes().startswith(before)


def test_another_config_is_refused(searched, words):
    folder, _ = searched
    result = run(*words, "--output", folder, "--training.max_steps", "30")
    assert result.exit_code == 1
    assert "training.max_steps (20 and 30)" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["none.cfg"], "none.cfg: found no such file"),
        ([NER, "--space", "none.cfg"], "none.cfg: found a space file that can't be read"),
        ([NER, "--training.dropout", "0.1", "--trials", "0"], "--trials"),
    ],
)
def test_mistakes_are_one_message(args, said, tmp_path):
    result = run("tune", *args, "--output", tmp_path / "out")
    assert result.exit_code != 0
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_data_that_are_not_there_stop_the_search_at_once(words, tmp_path):
    place = words.index("--space")
    default = [*words[:place], *words[place + 2 :]]
    result = run(*default, "--output", tmp_path, "--paths.train", "/no/such/data.spacy")
    assert result.exit_code == 1
    assert f"Searching the default space (to change it: copy {tmp_path / 'space.cfg'}" in result.stdout
    assert "low = 0.0025\n    high = 0.04" in result.stdout
    assert "The config itself can't be trained" in result.stderr
    assert "/no/such/data.spacy" in result.stderr


def test_a_search_killed_in_the_middle_goes_on_to_the_same_results(words, searched, tmp_path):
    process = start(*words, "--output", tmp_path)
    wait_for(tmp_path / "trials/0001/running.json")
    training = children(process)
    process.kill()
    process.communicate()
    assert all(ended(pid) for pid in training)  # the trial does not train on
    result = run(*words, "--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert "ℹ trial 1 was interrupted; its values are tried again" in result.stdout
    assert table(tmp_path) == table(searched[0])
    assert (tmp_path / "best.cfg").read_bytes() == (searched[0] / "best.cfg").read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="sends the signal of Ctrl-C")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_trial_and_says_how_to_go_on(words, tmp_path, number):
    process = start(*words, "--output", tmp_path)
    wait_for(tmp_path / "trials/0000/running.json")
    training = children(process)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Stopped: 0 of 3 trials are over. The same command goes on from here." in errors
    assert "Traceback" not in errors
    assert all(ended(pid) for pid in training)
    for _ in range(200):  # on a busy machine, the trial takes a while to end
        left = sorted(path.name for path in (tmp_path / "trials/0000").iterdir())
        if left == ["config.cfg", "log.txt"]:
            break
        time.sleep(0.1)
    assert left == ["config.cfg", "log.txt"]


def test_two_processes_share_a_search(words, tmp_path):
    processes = [start(*words, "--output", tmp_path, "--trials", "4") for _ in range(2)]
    shown = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], shown
    rows = table(tmp_path)
    assert len(rows) == 4
    assert len({row[2:] for row in rows}) == 4
    lines = [set(re.findall(r"^ {4}(\d) {2}\d\.\d{4}  ", out, re.MULTILINE)) for out, _ in shown]
    assert lines[0]
    assert lines[1]
    assert lines[0] | lines[1] == {"0", "1", "2", "3"}
    assert not lines[0] & lines[1]
    best = load_config(tmp_path / "best.cfg")["training"]["dropout"]
    assert str(best) == max(rows, key=lambda row: (row[0] == "done", float(row[1])))[3]
    assert spacy.load(tmp_path / "best-model").config["training"]["dropout"] == best


def test_durations():
    assert [clock(seconds) for seconds in (0.4, 65, 3909)] == ["0:00", "1:05", "1:05:09"]
