"""Evaluations, and the rows of curve.csv."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch

from spacy_bertft.encoder.masked_lm import Batch, Losses
from spacy_bertft.jobs.pretraining.curve import Evaluation, curve_row, evaluate, evaluation_in, write_curve
from spacy_bertft.jobs.pretraining.resume import RunState
from spacy_bertft.types import Packed

pytestmark = pytest.mark.touches_transformers


class Model:
    """Has a loss of 2 for each chosen subword, guesses one of a batch, and has a loss of 0.5 for each window."""

    def __init__(self):
        self.training = True

    def eval(self):
        self.training = False

    def __call__(self, batch):
        assert not self.training
        assert not torch.is_grad_enabled()
        return Losses(torch.tensor(2.0 * len(batch.targets)), torch.tensor(0.5 * len(batch.packed.lengths)), 1)


def batch_of(chosen, n_targets):
    none = np.zeros(0, dtype=np.int64)
    return Batch(Packed(none, none, np.ones_like(chosen)), none, np.zeros(n_targets, dtype=np.int64), None)


def test_all_windows_are_guessed_once_and_alike_each_time():
    seen = []

    def make(chosen, generator):
        seen.append((chosen.tolist(), float(generator.random())))
        return [batch_of(chosen[:1], 3), batch_of(chosen[1:], 5)]

    found = evaluate(Model(), 130, make)
    assert [number for chosen, _ in seen for number in chosen] == list(range(130))
    assert max(len(chosen) for chosen, _ in seen) <= 64
    assert len({drawn for _, drawn in seen}) == len(seen) == 3
    assert found.held_out_loss == pytest.approx(2.0 + 0.5)
    assert found.perplexity == pytest.approx(math.exp(2.0))
    assert found.accuracy == pytest.approx(6 / 24)
    first = list(seen)
    evaluate(Model(), 130, make)
    assert seen == first * 2


def test_a_row_has_the_means_since_the_last():
    evaluation = Evaluation(3.0, 20.0, 0.25)
    state = RunState({}, step=4, subwords=100, seconds=1.26, losses=(6.0, 1.0, 4.0, 2))
    row = curve_row(state, 0.01, evaluation)
    assert row == {
        "step": 4, "subwords": 100, "seconds": 1.3, "learn_rate": 0.01, "loss": 3.0, "next_loss": 0.5,
        "teacher_loss": 2.0, "held_out_loss": 3.0, "perplexity": 20.0, "accuracy": 0.25,
    }  # fmt: skip
    assert evaluation_in(row) == evaluation
    before = curve_row(RunState({}), 0.0, evaluation)
    assert (before["step"], before["loss"], before["next_loss"]) == (0, None, None)


def test_the_file_holds_all_rows(tmp_path):
    rows = [curve_row(RunState({}, step=step), 0.1, Evaluation(1.0, 2.0, 0.5)) for step in range(3)]
    for n in (1, 3):
        write_curve(tmp_path, rows[:n])
        with (tmp_path / "curve.csv").open(encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
        assert [row["step"] for row in found] == [str(step) for step in range(n)]
        assert list(found[0]) == list(rows[0])
    assert [path.name for path in tmp_path.iterdir()] == ["curve.csv"]
