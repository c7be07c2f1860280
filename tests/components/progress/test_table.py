"""The table of evaluations in a given width."""

from __future__ import annotations

import pytest

import spacy_bertft.tasks.regression  # noqa: F401  # declares the kinds of its scores
from spacy_bertft.components.progress.figures import Evaluation, StepFigures, Stretch
from spacy_bertft.components.progress.table import Table, columns_of, duration, loss

SCORES = {"ents_f": 0.876543, "cats_score": 1.0, "value_mae": 0.123456}


def evaluated(*, best=False, scores=None, gpu=None):
    stretch = Stretch({"ner": 0.123456, "tagger": 1234.5}, 1000, 2.0, 1.5)
    found = Evaluation(0.876543, SCORES if scores is None else scores, best, stretch)
    return StepFigures(1200, 3, 83.0, 0.1, 5e-5, stretch, 2048.0, gpu, found)


def table(weights, width, **settings):
    return Table(columns_of(["ner"], ["tagger"], weights, **settings), width)


def test_without_a_terminal_a_row_is_one_line_with_all_columns():
    weights = dict.fromkeys([*SCORES, *(f"score_{n}" for n in range(20))], 0.1)
    made = table(weights, None, gpu=True)
    row, names = made.row(evaluated(gpu=512.0)), made.header().splitlines()[0]
    assert "\n" not in row
    assert names.split() == [
        *["epoch", "step", "time", "learning", "gradient", "ner", "tagger", *weights, "score", "subwords", "memory"],
        "GPU",
    ]
    assert {"3", "1,200", "1:23", "5.00e-05", "1.5", "0.1235", "1,234.5", "500", "2,048", "512"} <= set(row.split())


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("n_scores", [0, 1, 3, 20])
def test_nothing_is_wider_than_the_terminal(width, n_scores):
    made = table({f"score_{n}": 0.1 for n in range(n_scores)} | {"ents_f": 1.0}, width)
    header, row = made.header().splitlines(), made.row(evaluated(best=True)).splitlines()
    assert max(map(len, [*header, *row])) <= width
    assert len(row) == len(made.lines)
    for name in ("epoch", "step", "ner", "tagger", "ents_f", "score"):
        assert name in made.header().split()
    assert "87.65*" in row[0] or "87.654*" in row[0]  # the score by which the best is chosen


def test_room_goes_to_columns_first_and_to_digits_then():
    narrow, middle, wide = (table({"ents_f": 1.0}, width) for width in (50, 80, 200))
    assert "87.65" in narrow.row(evaluated())
    assert "memory" not in narrow.header()
    assert "time" in middle.header()
    assert "87.654" in wide.row(evaluated())
    assert "memory" in wide.header()


def test_units_and_directions_are_those_of_the_scores():
    made = table({"value_mae": 0.0, "ents_f": 1.0, "gone": None}, 200)
    names, units, _ = made.header().splitlines()
    by_name = dict(zip(names.split()[2:], ["", *units.split()], strict=False))
    assert "gone" not in by_name
    assert "error" in units.split()
    assert units.split().count("points") == 2  # ents_f and the score
    assert "0.12346" in made.row(evaluated()).split()


def test_a_score_of_errors_is_not_in_points():
    made = table({"value_mae": 1.0}, 200)
    assert "weighted" in made.header()
    assert "0.87654" in made.row(evaluated())


def test_the_best_is_marked_and_what_is_missing_is_a_dash():
    made = table({"ents_f": 1.0}, 80)
    assert "*" in made.row(evaluated(best=True))
    assert "*" not in made.row(evaluated())
    assert "-" in made.row(evaluated(scores={})).split()


def test_durations_and_losses():
    assert [duration(seconds) for seconds in (0, 59.9, 60, 3599, 3600, 360000)] == [
        *["0:00", "0:59", "1:00", "59:59"],
        *["1:00:00", "100:00:00"],
    ]
    assert [loss(value) for value in (None, 0.00012, 99.0, 12345.67, 1e9)] == [
        *["-", "0.0001", "99.0000", "12,345.7"],
        "1.00e+09",
    ]
