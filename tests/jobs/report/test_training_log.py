"""Reading the curves that a training left."""

from __future__ import annotations

import numpy as np
import pytest

from spacy_bertft.jobs.report.training_log import read_log

HEADER = "step,epoch,seconds,learn_rate,grad_norm,subwords_per_second,memory_mib,best,score,loss_ner,ents_f"
ROWS = [
    "1,0.1,0.5,1e-5,1.0,900,800,0,,2.5,",
    "2,0.2,1.0,2e-5,0.9,900,800,1,0.4,2.0,0.4",
    "3,0.3,1.5,1e-5,,900,800,0,,nan,",
    "4,0.4,2.5,0,0.7,900,800,1,0.6,1.0,0.6",
]


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        (tmp_path / "training_log.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / "model-best"

    return write


def test_columns_and_what_follows_from_them(write):
    log = read_log(write(HEADER, *ROWS))
    assert log.steps.tolist() == [1, 2, 3, 4]
    assert log.losses["ner"].tolist() == pytest.approx([2.5, 2.0, np.nan, 1.0], nan_ok=True)
    assert list(log.scores) == ["ents_f"]
    assert log.scores["ents_f"].tolist() == pytest.approx([np.nan, 0.4, np.nan, 0.6], nan_ok=True)
    assert log.best_step == 4.0
    assert log.seconds == 2.5


def test_a_run_that_was_stopped(write):
    log = read_log(write(HEADER, ROWS[0], "2,0.2,1.0", ",,"))
    assert log.steps.tolist() == [1, 2]
    assert log.best_step is None
    assert list(log.scores) == ["score"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["no,columns", "1,2"], "found no column 'step'"),
        ([HEADER], "found no rows"),
        ([HEADER, "one" + ROWS[0][1:]], "could not convert string to float: 'one'"),
        ([""], "found no column 'step'"),
    ],
)
def test_what_cannot_be_read_is_said(write, lines, said):
    found = read_log(write(*lines))
    assert isinstance(found, str)
    assert said in found


def test_no_log(tmp_path):
    assert "there is no training_log.csv beside the pipeline" in read_log(tmp_path / "model-best")


def test_the_log_of_a_pipeline_named_from_inside_its_folder(write, tmp_path, monkeypatch):
    from pathlib import Path

    write(HEADER, *ROWS).mkdir()
    monkeypatch.chdir(tmp_path / "model-best")
    assert not isinstance(read_log(Path(".")), str)
