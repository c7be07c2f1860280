"""training_log.csv: its columns, whole rows, and what it does where it can't be written."""

from __future__ import annotations

import csv

import pytest

from spacy_bertft.components.progress.figures import Evaluation, StepFigures, Stretch
from spacy_bertft.components.progress.log_file import LogFile, output_folder
from spacy_bertft.errors import ConfigError

FIRST = ["step", "epoch", "seconds", "learn_rate", "grad_norm", "subwords_per_second", "memory_mib", "best", "score"]


def figures(step, *, scores=None, best=False, losses=None):
    stretch = Stretch(losses or {"ner": 0.5}, 100, 2.0, 1.25)
    found = Evaluation(0.5, scores, best, Stretch({"ner": 0.4, "tagger": 7.0}, 1, 1.0, 1.0)) if scores else None
    return StepFigures(step, 1, 12.345, 0.0, 5e-5, stretch, 1024.0, None, found)


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_has_the_agreed_columns_and_a_row_for_each_step(tmp_path):
    path = tmp_path / "new/training_log.csv"
    log = LogFile(path, ["ner", "tagger"])
    log.add(figures(0, scores={"ents_f": 0.25, "token_acc": 1.0}, best=True))
    log.add(figures(1))
    log.add(figures(2, scores={"ents_f": 0.125, "token_acc": 1.0}))
    log.close()
    found = rows(path)
    assert list(found[0]) == [*FIRST, "loss_ner", "loss_tagger", "ents_f", "token_acc"]
    assert [row["best"] for row in found] == ["1", "0", "0"]
    assert [row["ents_f"] for row in found] == ["0.25", "", "0.125"]
    assert [row["loss_ner"] for row in found] == ["0.5"] * 3  # of the step
    assert [row["loss_tagger"] for row in found] == ["7", "", "7"]  # known where there was an evaluation
    assert found[1] | {} == {
        **dict(zip(FIRST, ["1", "1", "12.35", "5e-05", "1.25", "50", "1024.0", "0", ""], strict=True)),
        **{"loss_ner": "0.5", "loss_tagger": "", "ents_f": "", "token_acc": ""},
    }


def test_a_row_is_on_disk_when_it_has_been_added(tmp_path):
    path = tmp_path / "log.csv"
    log = LogFile(path, ["ner"])
    for step in range(3):
        log.add(figures(step, scores={"ents_f": 0.5} if step == 0 else None))
        text = path.read_bytes()
        assert text.endswith(b"\n")
        assert b"\r" not in text
        assert len(rows(path)) == step + 1
    log.close()


def test_a_score_that_comes_later_gets_a_column(tmp_path):
    path = tmp_path / "log.csv"
    log = LogFile(path, ["ner"])
    log.add(figures(0, scores={"a": 0.5}))
    log.add(figures(1))
    log.add(figures(2, scores={"a": 0.5, "b,c": 0.75}))
    log.add(figures(3))
    log.close()
    assert [row["b,c"] for row in rows(path)] == ["", "", "0.75", ""]
    assert [row["step"] for row in rows(path)] == ["0", "1", "2", "3"]
    assert [file.name for file in tmp_path.iterdir()] == ["log.csv"]


def test_the_file_of_an_earlier_run_is_replaced(tmp_path):
    path = tmp_path / "log.csv"
    for steps in (3, 1):
        log = LogFile(path, [])
        for step in range(steps):
            log.add(figures(step))
        log.close()
    assert len(rows(path)) == 1


def test_a_place_that_cannot_be_written_to_is_said(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"log\.csv' could not be written: .* set output_file"):
        LogFile(tmp_path / "file/log.csv", [])


def test_a_full_disk_ends_the_log_and_not_the_run(tmp_path, monkeypatch, caplog):
    log = LogFile(tmp_path / "log.csv", ["ner"])
    log.add(figures(0))

    class Full:
        def write(self, text):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    log._file.close()
    monkeypatch.setattr(log, "_file", Full())
    for step in (1, 2):
        log.add(figures(step))
    assert caplog.text.count("ends before step 1: No space left on device") == 1
    assert len(rows(tmp_path / "log.csv")) == 1


def test_there_is_no_output_folder_outside_of_a_command():
    assert output_folder() is None
