"""The length of a run and the time left."""

from __future__ import annotations

import pytest

from spacy_bertft.components.progress.pace import Pace

PLANNED = {"learn_rate": {"@schedules": "spacy-bertft.warmup_decay.v1", "steps_per_epoch": 7}}


@pytest.mark.parametrize(
    ("training", "total"),
    [
        ({"max_steps": 20}, 21),  # steps 0 to 20
        ({"max_steps": 20, "max_epochs": 2, "optimizer": PLANNED}, 14),
        ({"max_steps": 10, "max_epochs": 2, "optimizer": PLANNED}, 11),
        ({"max_epochs": 2}, 16),  # of 40 texts, 5 a step so far
        ({"max_epochs": 0}, None),
        ({"max_epochs": -1}, None),
        ({"max_steps": 1}, 4),  # longer than planned
    ],
)
def test_the_limit_that_comes_first_is_the_length(training, total):
    assert Pace(training).total(done=4, texts=20, texts_per_epoch=40) == total


def test_without_a_count_of_texts_an_epoch_has_no_known_length():
    assert Pace({"max_epochs": 3}).total(done=4) is None


def test_time_left_counts_steps_and_evaluations():
    pace = Pace({"max_steps": 20, "eval_frequency": 5})
    assert pace.left(done=0, total=21) is None
    for step in range(6):
        pace.add(2.0, 10.0 if step % 5 == 0 else None)
    assert pace.left(done=6, total=21) == pytest.approx(15 * 2 + 3 * 10)  # steps 6 to 20; evaluated at 10, 15, 20
    assert pace.left(done=21, total=21) == 0
    assert [done for done in range(1, 12) if pace.evaluates_next(done=done)] == [5, 10]


def test_recent_steps_count_more():
    pace = Pace({"max_steps": 1000})
    for seconds in [1.0] * 100 + [2.0] * 100:
        pace.add(seconds, None)
    assert 1.9 < pace.left(done=200, total=201) < 2.0
