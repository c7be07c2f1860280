"""The search: what it keeps, records and survives. Trainings are stand-ins; tests/cli/test_tune.py runs real ones."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from optuna.trial import TrialState
from spacy.util import load_config

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.tune import search
from spacy_bertft.jobs.tune.curve import Curve, Evaluation
from spacy_bertft.jobs.tune.search import Options, Search
from spacy_bertft.jobs.tune.trial import Outcome, model_of

NER = Path(__file__).parents[3] / "configs/ner.cfg"
EPOCHS, LORA = "training.max_epochs", {"@misc": "spacy-bertft.LoraTuning.v1", "rank": 4}
SPACE = f"""
[{EPOCHS}]
low = 1
high = 1000

[components.encoder.tuning]
choices = [{{"@misc": "spacy-bertft.FullTuning.v1"}}, {json.dumps(LORA)}]
"""


class Told:
    """Collects what a search tells."""

    def __init__(self):
        self.notes, self.begun, self.ended = [], [], []

    def note(self, text):
        self.notes.append(text)

    def begins(self, number, values):
        self.begun.append((number, values))

    def evaluated(self, evaluation, best):
        pass

    def ends(self, rows, row):
        self.ended.append(row)


@pytest.fixture
def open_(tmp_path):
    def open_(trials=4, *, space=SPACE, folder="search", **options):
        (tmp_path / "space.cfg").write_text(space, encoding="utf-8")
        return Search.open(
            NER,
            tmp_path / folder,
            overrides={"paths.train": "train.spacy"},
            space=tmp_path / "space.cfg",
            options=Options(trials=trials, **options),
        )

    return open_


@pytest.fixture
def train(monkeypatch):
    """train(function): trainings are this function of the trial's number and config, and leave a pipeline.

    It returns a score, several as those of evaluations over the run, or a text: why the trial failed.
    """

    def train(function):
        def run_trial(folder, *, code, gpu, save, report):
            found = function(int(folder.name), load_config(folder / "config.cfg"))
            if isinstance(found, str):
                return Outcome("failed", None, found)
            scores = found if isinstance(found, list) else [found] * 4
            if save:
                model_of(folder).mkdir(parents=True)
                (model_of(folder) / "of").write_text(folder.name, encoding="utf-8")
            curve = Curve()
            for number, score in enumerate(scores, 1):
                if report(Evaluation(number, 0, score, number / len(scores)), curve):
                    return Outcome("pruned", curve.best)
            return Outcome("done", curve.best, n_evaluations=len(scores))

        monkeypatch.setattr(search, "run_trial", run_trial)

    return train


def run(opened):
    told = Told()
    return opened.run(told), told


def table(folder):
    with (folder / "trials.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_best_config_and_its_pipeline_are_kept_and_nothing_else(open_, train, tmp_path):
    scores = [0.5, 0.3, 0.7, 0.7]
    train(lambda number, config: scores[number])
    rows, told = run(open_())
    folder = tmp_path / "search"
    assert [row.score for row in rows] == scores
    assert told.ended == rows
    assert told.begun == [(row.number, row.values) for row in rows]
    assert (folder / "best-model/of").read_text(encoding="utf-8") == "0002"  # of equal ones, the earlier
    best = load_config(folder / "best.cfg")
    assert best["training"]["max_epochs"] == rows[2].values[EPOCHS]
    assert best["paths"]["train"] == "train.spacy"  # the overrides are in it
    assert "0.7000 at step 1" in (folder / "best.cfg").read_text(encoding="utf-8").splitlines()[0]
    found = sorted(path.name for path in folder.iterdir())
    files = [
        "best-model",
        "best.cfg",
        "history.svg",
        "journal.log",
        "settings.svg",
        "space.cfg",
        "trials",
        "trials.csv",
    ]
    assert found == files
    assert [sorted(path.name for path in one.iterdir()) for one in sorted((folder / "trials").iterdir())] == [
        ["config.cfg"]
    ] * 4


def test_a_block_that_was_chosen_is_complete_in_the_config(open_, train, tmp_path):
    train(lambda number, config: config["components"]["encoder"]["tuning"].get("rank", 0) / 100)
    rows, _ = run(open_(8))
    assert {json.dumps(row.values["components.encoder.tuning"]) for row in rows} > {json.dumps(LORA)}
    assert load_config(tmp_path / "search/best.cfg")["components"]["encoder"]["tuning"]["save"] == "merged"


def test_the_table_has_all_trials(open_, train, tmp_path):
    train(lambda number, config: "OutOfMemoryError: too large" if number == 2 else [0.1, 0.2 + number / 10, 0.1, 0.1])
    run(open_())
    found = table(tmp_path / "search")
    assert [(row["trial"], row["state"], row["score"], row["step"], row["reason"]) for row in found] == [
        ("0", "done", "0.2", "2", ""),
        ("1", "done", "0.30000000000000004", "2", ""),
        ("2", "failed", "", "", "OutOfMemoryError: too large"),
        ("3", "done", "0.5", "2", ""),
    ]
    assert found[0][EPOCHS] == "4"
    assert json.loads(found[0]["components.encoder.tuning"]) == {"@misc": "spacy-bertft.FullTuning.v1"}


def test_scores_may_be_negative(open_, train, tmp_path):
    """A weight of an error is."""
    train(lambda number, config: -3.0 + number)
    rows, _ = run(open_(3))
    assert [row.score for row in rows] == [-3.0, -2.0, -1.0]
    assert (tmp_path / "search/best-model/of").read_text(encoding="utf-8") == "0002"


def test_bad_runs_are_stopped_once_enough_have_run_to_their_end(open_, train):
    train(lambda number, config: [0.1 * part * (1.0 if number < 3 else 0.5) for part in range(11)])
    rows, _ = run(open_(5, prune_after=3))
    assert [row.state for row in rows] == ["done", "done", "done", "pruned", "pruned"]
    # At three tenths of the run, the fourth of 11 evaluations: earlier, the learning rate may still be rising.
    assert [row.step for row in rows[3:]] == [4, 4]


def test_runs_that_learn_slowly_are_not_stopped_for_being_long(open_, train):
    """A run of four times the length, with the same curve over it, is as good at each part of it."""

    def curve(number, config):
        n = 40 if number % 2 else 10
        return [part / n for part in range(1, n + 1)]

    train(curve)
    rows, _ = run(open_(6, prune_after=2))
    assert [row.state for row in rows] == ["done"] * 6


def test_no_more_trials_are_run_than_asked_for_and_more_can_be_asked_for(open_, train):
    train(lambda number, config: 0.5)
    assert len(run(open_(2))[0]) == 2
    rows, told = run(open_(2))
    assert (len(rows), told.begun) == (2, [])
    rows, told = run(open_(3))
    assert (len(rows), len(told.begun)) == (3, 1)


def test_a_config_that_can_t_be_trained_stops_the_search_until_it_is_mended(open_, train, tmp_path):
    train(lambda number, config: "ValueError: no such file")
    with pytest.raises(ConfigError, match=r"The config itself can't be trained: ValueError: no such file.*log\.txt"):
        run(open_(3))
    train(lambda number, config: 0.5)
    rows, told = run(open_(3))
    assert len(rows) == 3
    assert told.begun[0][1][EPOCHS] == 4  # the config itself, again


def test_settings_that_all_fail_stop_the_search(open_, train):
    train(lambda number, config: "RuntimeError: out of memory")
    with pytest.raises(
        ConfigError, match="All of the first 3 trials failed, the last with: RuntimeError: out of memory"
    ):
        run(open_(9, space=f"[{EPOCHS}]\nlow = 100\nhigh = 1000"))


def test_the_sampler_learns_from_failures(open_, train):
    """Most trials after the first few stay where they don't fail."""
    train(lambda number, config: "too long" if config["training"]["max_epochs"] > 300 else 0.5 + number / 1000)
    rows, _ = run(open_(30))
    assert sum(row.state == "failed" for row in rows[:8]) > sum(row.state == "failed" for row in rows[-8:])


def test_an_interrupted_trial_is_not_counted_and_its_values_are_tried_again(open_, train, tmp_path):
    def interrupted(number, config):
        if number == 1:
            (tmp_path / "search/trials/0001/output").mkdir()
            raise KeyboardInterrupt
        return 0.5

    train(interrupted)
    told = Told()
    with pytest.raises(KeyboardInterrupt):
        open_(3).run(told)
    assert not (tmp_path / "search/trials/0001/output").exists()
    train(lambda number, config: 0.5)
    rows, later = run(open_(3))
    assert len(rows) == 3
    assert later.begun[0][1] == told.begun[1][1]


def test_a_trial_that_another_process_took_over_is_not_recorded_twice(open_, train, tmp_path):
    opened = open_(2)

    def stolen(number, config):
        if number == 0:
            opened.study.tell(0, state=TrialState.FAIL)  # by a process that saw no sign of life
        return 0.5

    train(stolen)
    rows, told = run(opened)
    assert [row.number for row in rows] == [1, 2]
    assert told.notes == ["trial 0 was given to another process, since this one seemed dead"]


def test_runs_with_few_evaluations_are_noted(open_, train):
    train(lambda number, config: [0.5, 0.6])
    _, told = run(open_(1))
    assert "fewer than 4 evaluations: with a lower training.eval_frequency" in told.notes[0]


def test_pipelines_need_not_be_kept(open_, train, tmp_path):
    train(lambda number, config: 0.5)
    run(open_(2, save=False))
    assert not (tmp_path / "search/best-model").exists()
    assert (tmp_path / "search/best.cfg").exists()


def test_an_output_that_can_t_be_written_is_named(open_, tmp_path):
    (tmp_path / "search").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="could not be written"):
        open_()
