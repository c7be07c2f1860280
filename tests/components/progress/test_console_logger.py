"""What a run shows, in a file and in a terminal, and where its CSV is."""

from __future__ import annotations

import csv
import io
import re

import pytest
import spacy
from pipelines import examples, initialized
from runs import CONFIGS, run_config, with_logger
from spacy.cli.train import train
from spacy.cli.train import train_cli as spacy_train
from thinc.api import Optimizer
from typer import Typer
from typer.testing import CliRunner

from spacy_bertft.components.progress.console_logger import create_console_logger
from spacy_bertft.learning.shim import shim_of

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(path, *options):
    """`spacy train`, in this process."""
    app = Typer()
    app.command("train", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(spacy_train)
    app.command("other")(lambda: None)
    result = CliRunner().invoke(app, ["train", str(path), *map(str, options)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def config(tiny_bert, tmp_path):
    return run_config(tmp_path, tiny_bert)


def test_spacy_train_shows_a_table_and_leaves_a_csv_beside_the_models(config, tmp_path):
    out = tmp_path / "out"
    text = run(config, "--output", out)
    assert "\r" not in text
    assert "Losses of ner, textcat: mean per target" in text
    table = re.findall(r"^ +(\d+) +(\d+) .*$", text, re.MULTILINE)
    assert table == [("0", "0"), ("0", "2"), ("1", "4")]
    assert "6 steps in 0:0" in text
    assert f"All steps: {out / 'training_log.csv'}" in text.replace("\n", "")
    found = rows(out / "training_log.csv")
    assert [row["step"] for row in found] == list("012345")
    assert [row["epoch"] for row in found] == list("000111")
    assert [bool(row["score"]) for row in found] == [True, False] * 3
    rates = [float(row["learn_rate"]) for row in found]
    assert rates[0] == 0
    assert max(rates) == 5e-5
    best = max(float(row["score"]) for row in found if row["score"])
    assert spacy.load(out / "model-best").meta["performance"]["cats_score"] <= 1
    assert [row for row in found if row["best"] == "1"][-1]["score"] == f"{best:.6g}"


def test_from_python_it_says_once_that_there_is_no_csv(config, tmp_path, capsys):
    train(config, tmp_path / "out")
    assert capsys.readouterr().out.count("No CSV of the steps") == 1
    assert not list((tmp_path / "out").glob("*.csv"))


def test_output_file_is_the_csv_for_those_who_call_it_from_python(config, tmp_path):
    path = tmp_path / "logs/run.csv"
    with_logger(config, {"@loggers": "spacy-bertft.ConsoleLogger.v1", "output_file": str(path)})
    train(config, tmp_path / "out")
    assert len(rows(path)) == 6


def looped(nlp, stdout, stderr, **settings):
    """Run spaCy's loop on a pipeline with our logger."""
    nlp.config["training"]["score_weights"] = {"ents_f": 1.0, "cats_score": 0.5, "ents_p": None}
    log, close = create_console_logger(**settings)(nlp, stdout, stderr)
    optimizer = Optimizer(1e-4, L2_is_weight_decay=True, use_averages=False)
    scores = iter([0.1, 0.3, 0.2])
    checkpoints = []
    for step in range(5):
        nlp.update(examples(nlp), sgd=optimizer)
        if step % 2:
            log(None)
            continue
        checkpoints.append((next(scores), step))
        info = {"step": step, "epoch": step, "losses": {}, "score": checkpoints[-1][0], "checkpoints": checkpoints}
        info |= {"other_scores": {"ents_f": checkpoints[-1][0]}}
        log(info)
    close()
    return info


def test_a_terminal_has_a_live_line_that_is_gone_at_the_end(tiny_bert, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    nlp = initialized(tiny_bert)
    nlp.config["training"].update(max_steps=4, eval_frequency=2)
    screen = Terminal()
    looped(nlp, screen, screen)
    text = screen.getvalue()
    lines = [line for line in re.split(r"[\r\n]", text) if "left" in line]
    assert lines
    assert all(len(line) <= 100 for line in lines)
    for part in (r" 40% \|", r"2/5, 0:\d\d left, evaluating, best 10\.00, rate 1\.0e-04, loss 0\.\d{4} 0\.\d{4}"):
        assert re.search(part, text)
    assert text.rstrip("\r\n").splitlines()[-1].startswith("Best score: 30.0000 at step 2; 5 steps in 0:0")
    assert text.count("30.000*") == 1
    assert "20.000 " in text


def test_without_a_terminal_nothing_moves(tiny_bert):
    nlp = initialized(tiny_bert)
    out, err = io.StringIO(), io.StringIO()
    looped(nlp, out, err)
    assert not err.getvalue()
    assert "\r" not in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_the_live_line_can_be_switched_off(tiny_bert):
    screen = Terminal()
    looped(initialized(tiny_bert), io.StringIO(), screen, progress_bar=False)
    assert not screen.getvalue()


def test_a_terminal_that_cannot_show_a_name_escapes_it(tiny_bert):
    nlp = initialized(tiny_bert, {"naïveté → head": "bertft_ner"})
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="cp1252")
    looped(nlp, stream, io.StringIO())
    assert b"\\u2192" in raw.getvalue()


def test_other_loggers_get_the_figures(tiny_bert):
    info = looped(initialized(tiny_bert), io.StringIO(), io.StringIO())
    found = {name.removeprefix("bertft.") for name in info if name.startswith("bertft.")}
    assert found >= {"learn_rate", "grad_norm", "subwords_per_second", "memory_mib", "loss_ner", "loss_textcat"}
    assert all(isinstance(info[f"bertft.{name}"], float) for name in found)


def test_a_constant_rate_that_is_far_too_high_is_said_before_the_first_step(tiny_bert, caplog, monkeypatch):
    monkeypatch.setattr("spacy_bertft.components.encoder_architecture.n_layer_parameters", lambda _: 85_000_000)

    def said(optimizer, **settings):
        caplog.clear()
        nlp = initialized(tiny_bert, component=settings)
        for _ in range(2):
            nlp.update(examples(nlp), sgd=optimizer)
        assert shim_of(nlp.get_pipe("ner").model).n_steps == 2
        return caplog.text.count("constant learning rate of 0.001")

    settings = {"L2_is_weight_decay": True, "use_averages": False}
    assert said(Optimizer(0.001, **settings)) == 1
    assert said(Optimizer(0.001, **settings), tuning={"@misc": "spacy-bertft.FrozenTuning.v1"}) == 0
    assert said(Optimizer(0.001, **settings), learn_rate_factor=0.05) == 0
    assert said(Optimizer(iter([0.001] * 9), **settings)) == 0
    assert said(Optimizer(5e-5, **settings)) == 0


def test_the_logger_of_all_configs_is_ours():
    texts = [path.read_text(encoding="utf-8") for path in CONFIGS.glob("*.cfg")]
    loggers = [re.findall(r'^@loggers = "(.*)"$', text, re.MULTILINE) for text in texts if "[components]" in text]
    assert len(loggers) >= 9
    assert all(found == ["spacy-bertft.ConsoleLogger.v1"] for found in loggers)
