"""Charts as SVG."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from spacy_bertft.jobs.report import charts
from spacy_bertft.jobs.report.heads import Calibration, Decisions, Threshold
from spacy_bertft.jobs.report.training_log import TrainingLog

DECISIONS = Decisions(np.linspace(0.3, 1, 3000), np.arange(3000) % 3 > 0)
STEPS = np.arange(1.0, 5001.0)
LOG = TrainingLog(
    Path("training_log.csv"),
    {
        "step": STEPS,
        "learn_rate": 1e-4 / STEPS,
        "best": (STEPS == 4000).astype(float),
        "loss_ner": 1 / STEPS,
        "ents_f": np.where(STEPS % 500 == 0, 1 - 1 / STEPS, np.nan),
    },
)
DRAWN = {
    "reliability": lambda name: charts.reliability_chart(Calibration(DECISIONS, DECISIONS, "one", "other"), name),
    "threshold": lambda name: charts.precision_recall_chart(Threshold(DECISIONS, 4000, 0.5), name),
    "lengths": lambda name: charts.lengths_chart(np.array([1, 5, 600]), "subwords", 510, name),
    "frequency": lambda name: charts.frequency_chart(["A", "B"], np.array([0, 9000]), np.array([0.1, 0.9]), name),
    "numbers": lambda name: charts.numbers_chart(np.random.default_rng(0).normal(size=(9000, 2)), name),
    "loss": lambda name: charts.loss_chart(LOG, name),
    "scores": lambda name: charts.scores_chart(LOG, ["ents_f"], name),
    "rate": lambda name: charts.rate_chart(LOG, name),
}


@pytest.mark.parametrize("kind", DRAWN)
def test_a_chart_is_svg_with_the_page_s_colours_and_its_own_ids(kind):
    svg = DRAWN[kind](f"my-{kind}")
    ElementTree.fromstring(svg)
    assert not re.findall(r"#[0-9a-fA-F]{6}\b", svg)
    assert "var(--ink)" in svg or "var(--muted)" in svg
    ids = re.findall(r'id="([^"]*)"', svg)
    assert ids
    assert all(one.startswith(f"my-{kind}-") for one in ids)
    assert set(re.findall(r'href="#([^"]*)"', svg)) <= set(ids)
    assert set(re.findall(r"url\(#([^)]*)\)", svg)) <= set(ids)
    assert "<text" in svg  # text that can be found and read aloud, not outlines
    assert len(svg) < 250_000


def test_the_same_data_give_the_same_chart():
    assert DRAWN["reliability"]("a") == DRAWN["reliability"]("a")


def test_the_threshold_and_the_best_one_are_marked():
    svg = DRAWN["threshold"]("a")
    assert "as the pipeline runs: threshold 0.50" in svg
    assert "best F-score: threshold 0.30" in svg


def test_the_window_is_drawn_where_texts_come_near_it():
    assert "window: 510 subwords" in DRAWN["lengths"]("a")
    assert "window" not in charts.lengths_chart(np.array([1, 5, 60]), "subwords", 510, "a")


def test_a_run_of_one_step_is_drawn():
    log = TrainingLog(Path("x"), {name: values[:1] for name, values in LOG.columns.items()})
    for draw in (charts.loss_chart, charts.rate_chart):
        assert "<svg" in draw(log, "a")
