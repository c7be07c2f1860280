"""The journal of a search: what it suggests, which trials count, and whose it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from optuna.trial import TrialState

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.tune.configs import filled_config, with_values
from spacy_bertft.jobs.tune.space import Choices, Range
from spacy_bertft.jobs.tune.study import (
    claim,
    finished,
    give_back,
    give_back_dead,
    need_optuna,
    open_study,
    values_of,
)

NER = Path(__file__).parents[3] / "configs/ner.cfg"
SPACE = (
    Range("training.optimizer.learn_rate.initial_rate", 1e-5, 1e-3, whole=False, log=True),
    Range("training.max_epochs", 2, 8, whole=True),
    Choices("training.batcher.size", (8, 16, 32)),
)
OWN = {SPACE[0].name: 5e-5, SPACE[1].name: 4, SPACE[2].name: 16}


@pytest.fixture(scope="module")
def config():
    return filled_config(NER, {})


def open_(folder, config, space=SPACE, *, seed=0, unpruned=5):
    return open_study(folder, config, space, seed=seed, unpruned=unpruned)


def score(values):
    """Best at a rate of 2e-4, and with many epochs."""
    return 1 - abs(values[SPACE[0].name] - 2e-4) * 1e3 + values[SPACE[1].name] / 100


def run(study, n, *, trials=100):
    """Run trials; returns the values of each."""
    found = []
    for _ in range(n):
        trial = claim(study, SPACE, trials=trials)
        found.append(values_of(trial.params, SPACE))
        study.tell(trial, score(found[-1]))
    return found


def test_the_first_trial_is_the_config_itself(config, tmp_path):
    assert run(open_(tmp_path, config), 2)[0] == OWN


def test_unless_its_values_are_outside(config, tmp_path):
    space = (Range(SPACE[0].name, 1e-4, 1e-3, whole=False, log=True), *SPACE[1:])
    (found,) = run(open_(tmp_path, config, space), 1)
    assert found[SPACE[0].name] > 5e-5


def test_a_search_that_is_opened_again_goes_on_as_if_it_had_not_been_interrupted(config, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    whole = run(open_(tmp_path / "one", config), 12)
    parts = run(open_(tmp_path / "two", config), 3)
    study = open_(tmp_path / "two", config)
    interrupted = claim(study, SPACE, trials=100)
    give_back(study, interrupted.number)
    parts += run(open_(tmp_path / "two", config), 9)
    assert parts == whole
    assert len({tuple(values.values()) for values in whole}) == 12
    assert [trial.state for trial in study.trials].count(TrialState.FAIL) == 1
    assert len(finished(study)) == 12


def test_suggestions_depend_on_the_seed(config, tmp_path):
    found = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        found.append(run(open_(tmp_path / str(seed), config, seed=seed), 3))
    assert found[0][0] == found[1][0]
    assert found[0][1:] != found[1][1:]


def test_they_get_better_than_chance(config, tmp_path):
    found = [score(values) for values in run(open_(tmp_path, config), 40)]
    assert sum(found[30:]) / 10 > sum(found[1:6]) / 5


def test_no_more_trials_than_asked_for_are_claimed_even_at_the_same_time(config, tmp_path):
    one, two = open_(tmp_path, config), open_(tmp_path, config)
    first, second = claim(one, SPACE, trials=2), claim(two, SPACE, trials=2)
    assert values_of(first.params, SPACE) != values_of(second.params, SPACE)
    assert claim(one, SPACE, trials=2) is claim(two, SPACE, trials=2) is None
    # Two that look before either has asked: the one with the lower number goes first.
    numbers = [study.ask().number for study in (one, two)]
    assert numbers == [2, 3]
    one.tell(2, 0.5)
    two.tell(3, state=TrialState.FAIL)
    assert claim(one, SPACE, trials=3) is None
    assert claim(one, SPACE, trials=4) is not None


def test_one_begun_a_moment_too_late_is_taken_back(config, tmp_path, monkeypatch):
    one, two = open_(tmp_path, config), open_(tmp_path, config)
    ask = one.ask

    def late(*args):
        assert claim(two, SPACE, trials=1) is not None  # after `one` has counted, before it asks
        return ask(*args)

    monkeypatch.setattr(one, "ask", late)
    assert claim(one, SPACE, trials=1) is None
    states = [trial.state for trial in two.trials]
    assert sorted(states) == [TrialState.RUNNING, TrialState.FAIL]


def test_a_dead_trial_is_tried_again_with_its_values_by_one_process(config, tmp_path):
    one, two = open_(tmp_path, config), open_(tmp_path, config)
    run(one, 1)
    dead = claim(one, SPACE, trials=9)

    def folder_of(number):
        return tmp_path / str(number)

    assert give_back_dead(two, folder_of) == []  # it has just begun
    folder_of(dead.number).mkdir()
    (folder_of(dead.number) / "running.json").write_text('{"host": "elsewhere", "pid": 1}', encoding="utf-8")
    assert give_back_dead(two, folder_of) == []
    os.utime(folder_of(dead.number) / "running.json", (0, 0))
    assert give_back_dead(two, folder_of) == [dead.number]
    assert give_back_dead(one, folder_of) == []
    assert not give_back(one, dead.number)
    again = claim(two, SPACE, trials=9)
    assert again.params == dead.params
    assert again.number != dead.number


def test_a_torn_last_line_is_dropped(config, tmp_path):
    run(open_(tmp_path, config), 3)
    with (tmp_path / "journal.log").open("ab") as file:
        file.write(b'{"op_code": 4, "worker_')
    study = open_(tmp_path, config)
    assert len(finished(study)) == 3
    run(study, 1)
    assert len(finished(open_(tmp_path, config))) == 4


def test_a_journal_that_can_t_be_read_is_named(config, tmp_path):
    (tmp_path / "journal.log").write_text("something\nelse\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"journal\.log: found a journal that can't be read"):
        open_(tmp_path, config)


def test_another_space_or_config_is_refused_with_what_differs(config, tmp_path):
    open_(tmp_path, config)
    other = (*SPACE[:2], Choices(SPACE[2].name, (8, 16)))
    with pytest.raises(ConfigError, match=r"(?s)a search of another space.*\[8, 16, 32\].*\[8, 16\]"):
        open_(tmp_path, config, other)
    with pytest.raises(ConfigError, match=r"another config, which differs in training.dropout \(0.1 and 0.2\)"):
        open_(tmp_path, with_values(config, {"training.dropout": 0.2}))
    open_(tmp_path, config, seed=3)  # another seed may go on


def test_missing_packages_are_named_with_their_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"needs optuna.*spacy-bertft\[tune\]"):
        need_optuna()
