"""Plots, and short names of settings and values."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from matplotlib.figure import Figure

from spacy_bertft.jobs.tune.plots import HISTORY, SETTINGS, short_names, short_value, write_plots
from spacy_bertft.jobs.tune.results import Row
from spacy_bertft.jobs.tune.space import Choices, Range

BLOCKS = ({"@misc": "spacy-bertft.FullTuning.v1"}, {"@misc": "spacy-bertft.LoraTuning.v1", "rank": 16})
SPACE = (
    Range("training.rate", 1e-5, 1e-3, whole=False, log=True),
    Range("training.max_epochs", 1, 8, whole=True),
    Choices("a.model.name", ("one", "two")),
    Choices("b.model.name", (None, "two")),
    Choices("a.tuning", BLOCKS),
)


def row(number, state, score, **changed):
    values = {
        "training.rate": 1e-4 * (number + 1),
        "training.max_epochs": number + 1,
        "a.model.name": "two",
        "b.model.name": None,
        "a.tuning": BLOCKS[number % 2],
    }
    return Row(number, state, score, 10, 1, 5.0, values | changed, "")


ROWS = [row(0, "done", 0.5), row(1, "pruned", 0.2), row(2, "failed", None), row(3, "done", 0.7), row(4, "failed", 0.1)]


def test_names_are_as_short_as_they_are_clear():
    assert short_names(SPACE) == {
        "training.rate": "rate",
        "training.max_epochs": "max_epochs",
        "a.model.name": "a.model.name",
        "b.model.name": "b.model.name",
        "a.tuning": "tuning",
    }


def test_values_are_short():
    found = [short_value(value) for value in (0.000123456, 3, None, True, "bert", *BLOCKS, {"a": 1})]
    assert found == ["0.0001235", "3", "null", "true", "bert", "FullTuning", "LoraTuning rank=16", "a=1"]


def test_two_plots_are_written_and_are_the_same_each_time(tmp_path):
    contents = []
    for _ in range(2):
        write_plots(tmp_path, ROWS, SPACE)
        contents.append([(tmp_path / name).read_bytes() for name in (HISTORY, SETTINGS)])
        for content in contents[-1]:
            assert ET.fromstring(content).tag.endswith("svg")
    assert contents[0] == contents[1]


def test_each_trial_with_a_score_is_a_point_and_the_best_has_a_ring(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **named: figures.append(figure))
    write_plots(tmp_path, ROWS, SPACE)
    history, settings = figures
    for axes in (*history.axes, *settings.axes):
        places = [tuple(place) for marks in axes.collections for place in marks.get_offsets()]
        assert sorted(score for _, score in places) == [0.1, 0.2, 0.5, 0.7, 0.7]
        assert max(places.count(place) for place in places) == 2  # the best, and its ring
    (best,) = history.axes[0].lines
    assert best.get_xydata().tolist() == [[0, 0.5], [3, 0.7]]
    assert [axes.get_xlabel() for axes in settings.axes] == list(short_names(SPACE).values())


def test_without_scores_there_is_nothing_to_plot(tmp_path):
    write_plots(tmp_path, [row(0, "failed", None)], SPACE)
    assert not list(tmp_path.iterdir())
