"""`bertft adapt`: what it shows, overrides, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError
from tiny import make_encoder
from typer.testing import CliRunner

from spacy_bertft.cli import app
from spacy_bertft.encoder.fill_mask import FillMask
from spacy_bertft.encoder.loading import load
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.jobs.checkpoints import find_checkpoints
from spacy_bertft.jobs.pretraining import training_loop

pytestmark = pytest.mark.touches_transformers

CONFIG = Path(__file__).parents[2] / "configs/adapt.cfg"
QUICK = {
    "corpus.held_out": 0.1,
    "training.steps": 4,
    "training.batch_size": 4,
    "training.window": 32,
    "training.learn_rate": 1e-3,
    "training.warmup_steps": 1,
    "training.evaluate_every": 2,
    "training.device": "cpu",
}


def run(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="bertft")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder with texts.txt and an encoder."""
    root = tmp_path_factory.mktemp("adapt")
    lines = [f"{name} lives in {city}" for name, city in (("anna", "berlin"), ("bob", "rome"))] * 20
    (root / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    make_encoder(root / "encoder", "bert-uncased", head="AutoModelForMaskedLM")
    return root


@pytest.fixture
def adapt(given, tmp_path):
    """Run the command with quick settings, changed and added to by more of them."""

    def command(*options, **changed):
        settings = QUICK | {
            "corpus.paths": json.dumps([str(given / "texts.txt")]),
            "encoder.name": given / "encoder",
        }
        settings |= {name.replace("__", "."): value for name, value in changed.items()}
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return run("adapt", CONFIG, "--output", tmp_path / "out", *options, *words)

    return command


def curve(folder):
    with (folder / "curve.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_help_names_the_options():
    assert "adapt" in run("--help").output
    text = run("adapt", "--help").output
    for option in ("--output", "--resume", "--overwrite", "--training.steps"):
        assert option in text


def test_it_shows_how_held_out_texts_are_guessed_before_and_after(adapt, tmp_path):
    result = adapt()
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    rows = curve(out)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["held-out", "texts", "before", "after"]
    for line, name, factor in zip(lines[1:4], ("held_out_loss", "perplexity", "accuracy"), (1, 1, 100), strict=True):
        assert [float(number) for number in line[-2:]] == [
            pytest.approx(factor * float(rows[place][name]), abs=6e-4) for place in (0, -1)
        ]
    assert [line[0] for line in lines[1:4]] == ["loss", "perplexity", "accuracy,"]
    assert result.stdout.splitlines()[-1].startswith(f"✔ {out}: 4 steps, {int(rows[-1]['subwords']):,} subwords, ")
    assert result.stdout.endswith(f"the curve is in {out / 'curve.csv'}\n")
    assert "ℹ reading " in result.stderr
    assert load(str(out), EncoderSettings(device="cpu")).width == 32
    assert FillMask.load(str(out), EncoderSettings(device="cpu")).fill(["anna lives in [MASK]"])[0]


def test_overrides_reach_the_run(adapt, tmp_path):
    result = adapt("--training.evaluate_every=1", training__steps=2)
    assert result.exit_code == 0, result.output
    assert "2 steps" in result.stdout
    result = adapt("--overwrite", "--training.weight_decay=0.1", training__steps=3, training__evaluate_every=1)
    assert result.exit_code == 0, result.output
    assert [row["step"] for row in curve(tmp_path / "out")] == ["0", "1", "2", "3"]


def test_from_scratch(adapt, tmp_path):
    result = adapt(encoder__name="null", encoder__size="tiny", encoder__vocabulary=100, encoder__positions=48)
    assert result.exit_code == 0, result.output
    assert "ℹ learning a vocabulary of 100 subwords" in result.stderr
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    assert (config["num_hidden_layers"], config["hidden_size"], config["max_position_embeddings"]) == (2, 128, 48)
    assert config["vocab_size"] <= 100


def test_an_output_that_is_taken_is_refused_unless_replaced(adapt, tmp_path):
    assert adapt().exit_code == 0
    before = (tmp_path / "out/model.safetensors").read_bytes()
    result = adapt(training__seed=1)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "found a model or an unfinished run there" in result.stderr
    assert "--overwrite" in result.stderr
    assert (tmp_path / "out/model.safetensors").read_bytes() == before
    assert adapt("--overwrite", training__seed=1).exit_code == 0
    assert (tmp_path / "out/model.safetensors").read_bytes() != before


@pytest.mark.parametrize("scratch", [False, True])
def test_resume_goes_on_from_the_checkpoint(adapt, tmp_path, monkeypatch, scratch):
    settings = {"training__save_every": 2}
    if scratch:
        settings |= {"encoder__name": "null", "encoder__size": "tiny", "encoder__vocabulary": 100}
    whole = adapt(**settings)
    assert whole.exit_code == 0, whole.output
    expected = (tmp_path / "out/model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "out")

    real = training_loop.save_checkpoint

    def stop(folder, state, *args):
        real(folder, state, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "save_checkpoint", stop)
        assert adapt(**settings).exit_code != 0
    assert list(find_checkpoints(tmp_path / "out")) == [2]
    result = adapt(**settings)
    assert result.exit_code == 1
    assert "--resume" in result.stderr
    result = adapt("--resume", training__seed=5, **settings)
    assert result.exit_code == 1
    assert "training.seed: 0, now 5" in result.stderr
    result = adapt("--resume", **settings)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[:4] == whole.stdout.splitlines()[:4]
    assert (tmp_path / "out/model.safetensors").read_bytes() == expected


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"training__step": 4}, "training.step"),
        ({"train__steps": 4}, "train -> steps"),
        ({"training__steps": "many"}, "training.steps = 'many'"),
        ({"corpus__paths": '["nowhere.txt"]'}, "nowhere.txt: found no such file"),
        ({"encoder__name": "nowhere/at-all"}, "'nowhere/at-all' could not be loaded"),
        ({"encoder__size": "giant", "encoder__name": "null"}, "encoder.size = 'giant'"),
        ({"training__window": 1000}, "window is 1000"),
        (
            {"objective__next_sentence": "true", "encoder__name": "null", "training__window": 4},
            "can't hold two segments",
        ),
    ],
)
def test_an_error_is_one_message_and_code_1(adapt, tmp_path, changed, said):
    result = adapt(**changed)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("ℹ ")]
    assert line.startswith("✘ ")
    assert said in line
    assert not (tmp_path / "out/config.json").exists()


def test_a_config_that_is_wrong_is_one_message(tmp_path):
    for content, said in (("[corpus\n", "can't be read"), ("[corpus]\npaths = []\n", "corpus.paths"), ("", "corpus")):
        (tmp_path / "wrong.cfg").write_text(content, encoding="utf-8")
        result = run("adapt", tmp_path / "wrong.cfg", "--output", tmp_path / "out")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"✘ {tmp_path / 'wrong.cfg'}: found ")
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
    result = run("adapt", tmp_path / "none.cfg", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "found no such file" in result.stderr


@pytest.mark.parametrize(
    "words", [["--steps", "4"], ["steps"], ["--training.steps"], ["--training.steps", "--a.b", "1"]]
)
def test_options_typed_wrongly_are_code_2(tmp_path, words):
    result = run("adapt", CONFIG, "--output", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert words[0] in result.stderr
    assert "Traceback" not in result.output
    assert run("adapt", CONFIG).exit_code == 2
    assert run("adapt").exit_code == 2


def test_other_processes_of_torchrun_are_silent(adapt, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    result = adapt()
    assert result.exit_code == 0, result.output
    assert (result.stdout, result.stderr) == ("", "")


def full(*args, **kwargs):
    raise OSError(28, "No space left on device")


def full_disk(*args, **kwargs):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("function", "raising", "said"),
    [
        (
            "spacy_bertft.encoder.masked_lm.saved_files",
            full,
            "/encoder' could not be read or stored: [Errno 28] No space",
        ),
        ("spacy_bertft.encoder.masked_lm.MaskedModel.save", full, "/out could not be written: [Errno 28] No space"),
        ("spacy_bertft.encoder.masked_lm.MaskedModel.save", full_disk, "/out could not be written: Error while serial"),
    ],
    ids=["read", "written", "weights"],
)
def test_a_full_disk_is_one_message(adapt, monkeypatch, function, raising, said):
    monkeypatch.setattr(function, raising)
    result = adapt(training__steps=1)
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("✘ The ")
    assert said in last
    assert "a hub name" not in last


def test_a_file_is_no_encoder(adapt, given):
    result = adapt(encoder__name=given / "texts.txt")
    assert result.exit_code == 1
    assert "texts.txt: found a file; expected the folder of an encoder" in result.stderr
