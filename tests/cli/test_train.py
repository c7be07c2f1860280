"""`bertft train`: the options of `spacy train`, its results, and one message where something is wrong."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys

import pytest
import spacy
import torch
from pipelines import ANNOTATED
from runs import run_config
from spacy.cli._util import app as spacy_app
from spacy.util import load_config
from typer.main import get_command
from typer.testing import CliRunner

from spacy_bertft.cli import app
from spacy_bertft.convert import convert
from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.training import prepare as job

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # as in the process of the tests


@pytest.fixture
def config(tiny_bert, tmp_path):
    return run_config(tmp_path, tiny_bert)


def bertft(*words, **settings):
    return CliRunner().invoke(app, ["train", *map(str, words)], prog_name="bertft", **settings)


def refused(*words, **settings):
    """The one message of a command that fails, without what `spacy train` says before."""
    result = bertft(*words, **settings)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.output.count("✘") == 1
    return " ".join(result.output.split("✘")[1].split())


def test_its_options_are_those_of_spacy_train():
    def options(command_line):
        command = get_command(command_line).commands["train"]
        return {one.name: set(one.opts) for one in command.params if one.name != "help"}

    ours, spacys = options(app), options(spacy_app)
    assert "output_path" in spacys
    assert {name: names for name, names in ours.items() if name in spacys} == spacys


def test_it_trains_the_pipeline_that_spacy_train_trains(config, tmp_path):
    result = bertft(config, "--output", tmp_path / "ours", "--training.dropout", "0.2", "--training.max_epochs=1")
    assert result.exit_code == 0, result.output
    spacy_train = [
        sys.executable,
        "-m",
        "spacy",
        "train",
        config,
        "-o",
        tmp_path / "spacys",
        "--training.dropout",
        "0.2",
    ]
    subprocess.run([*spacy_train, "--training.max_epochs", "1"], env=ONE_THREAD, check=True, capture_output=True)
    names = ("encoder/encoder/model.safetensors", "ner/model.safetensors", "config.cfg", "meta.json")
    for name in names[:3]:
        assert (tmp_path / "ours/model-last" / name).read_bytes() == (
            tmp_path / "spacys/model-last" / name
        ).read_bytes()
    ours, spacys = (
        (tmp_path / who / "training_log.csv").read_text(encoding="utf-8").splitlines() for who in ("ours", "spacys")
    )
    assert ours[0] == spacys[0]
    assert len(ours) == len(spacys) == 4
    assert spacy.load(tmp_path / "ours/model-best").pipe_names == ["encoder", "ner", "textcat"]


def test_it_is_in_spacy_s_command_line_too(tmp_path):
    run = [sys.executable, "-m", "spacy", "bertft", "train", str(tmp_path / "no.cfg")]
    found = subprocess.run(run, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "found no file" in found.stderr


def test_a_config_may_come_from_stdin(config, tmp_path):
    text = config.read_text(encoding="utf-8")
    result = bertft("-", "-o", tmp_path / "out", "--training.max_epochs", "1", input=text)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out/model-last").is_dir()


def test_misspelt_settings_are_refused_before_anything_is_written(config, tmp_path):
    said = refused(config, "--output", tmp_path / "out", "--training.eval_freq", "3")
    assert said.endswith("--training.eval_freq: did you mean --training.eval_frequency?")
    text = config.read_text(encoding="utf-8").replace("eval_frequency", "eval_freq")
    config.write_text(text, encoding="utf-8")
    assert "training.eval_freq: did you mean" in refused(config, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--paths.dev", "null"], "The development data have no path"),
        (["--paths.train", "no.spacy"], "The training data 'no.spacy' were not found"),
        (["--code", "no.py"], "no.py: found no such file"),
        (["--components.encoder.model.name", "no/encoder"], "The encoder 'no/encoder' is not a folder here"),
        (["--components.encoder.name", "x"], "did you mean --components.encoder.model.name?"),
    ],
)
def test_what_is_missing_gets_one_message(config, words, said):
    assert said in refused(config, *words)


def test_an_error_of_ours_during_training_gets_one_message_too(config, tmp_path):
    schedule = "training.optimizer.learn_rate."
    said = refused(config, "-o", tmp_path / "out", f"--{schedule}initial_rate", "1e30", f"--{schedule}warmup", "0")
    assert "lower learning rate" in said


def test_options_that_are_no_settings_are_refused(config):
    result = bertft(config, "--ouput", "x")
    assert result.exit_code == 2
    assert "found --ouput" in result.output


def test_code_registers_functions(config, tmp_path):
    code = tmp_path / "code.py"
    lines = [
        "import spacy",
        "@spacy.registry.callbacks('mine.v1')",
        "def make():",
        "    return lambda nlp: print('ran')",
    ]
    code.write_text("\n".join(lines), encoding="utf-8")
    text = config.read_text(encoding="utf-8").replace("before_init = null\n", "")
    config.write_text(f'{text}\n[initialize.before_init]\n@callbacks = "mine.v1"\n', encoding="utf-8")
    result = bertft(config, "--code", code, "--training.max_epochs", "1")
    assert result.exit_code == 0, result.output
    assert "\nran\n" in result.output


def test_warnings_are_shown_and_training_goes_on(config):
    result = bertft(config, "--training.score_weights.ents_g", "0.5", "--training.max_epochs", "1")
    assert result.exit_code == 0
    assert "did you mean ents_" in " ".join(result.output.split())


def test_a_gpu_needs_no_cupy(monkeypatch):
    assert job.choose_gpu(-1)[0] == -1
    monkeypatch.setattr(job, "gpu_is_available", lambda: True)
    required = []
    monkeypatch.setattr(job, "require_gpu", required.append)
    assert job.choose_gpu(1) == (1, "Using GPU: 1")
    assert required == [1]
    monkeypatch.setattr(job, "gpu_is_available", lambda: False)
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    gpu, said = job.choose_gpu(1)
    assert (gpu, chosen) == (-1, [1])
    assert "Using GPU 1 by PyTorch" in said
    with pytest.raises(ConfigError, match="--gpu-id 2: found 2 GPUs, counted from 0"):
        job.choose_gpu(2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--gpu-id 0: found no GPU that PyTorch can use"):
        job.choose_gpu(0)


def test_a_run_that_was_stopped_is_resumed(config, tmp_path):
    whole = bertft(config, "--output", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    code = tmp_path / "dies.py"
    code.write_text(
        "import os, spacy\n"
        "@spacy.registry.callbacks('dies.v1')\n"
        "def make():\n"
        "    return lambda nlp, info: os._exit(9) if info['step'] == 4 and os.environ.get('DIES') else None\n",
        encoding="utf-8",
    )
    text = config.read_text(encoding="utf-8").replace("before_update = null\n", "")
    config.write_text(f'{text}\n[training.before_update]\n@callbacks = "dies.v1"\n', encoding="utf-8")
    command = [sys.executable, "-m", "spacy_bertft", "train", config, "--code", code, "-o", tmp_path / "out"]
    command += ["--checkpoint-steps", "3", "--resume"]
    first = subprocess.run(command, env={**ONE_THREAD, "DIES": "1"}, capture_output=True, text=True, check=False)
    assert first.returncode == 9, first.stderr
    second = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, check=True)
    assert "Resumed after 3 steps" in second.stdout
    weights = "model-last/encoder/encoder/model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    logs = [
        list(csv.DictReader((tmp_path / name / "training_log.csv").read_text(encoding="utf-8").splitlines()))
        for name in ("out", "whole")
    ]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]
    for name in ("epoch", "learn_rate", "loss_ner", "best", "score"):
        assert [row[name] for row in logs[0]] == [row[name] for row in logs[1]], name


def test_several_processes(config, tmp_path):
    words = [config, "-o", tmp_path / "out", "--processes", 2, "--training.max_epochs", 1]
    command = [sys.executable, "-m", "spacy_bertft", "train", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Best score") == 1
    assert spacy.load(tmp_path / "out/model-best").pipe_names == ["encoder", "ner", "textcat"]
    command += ["--components.encoder.model.name", "no/encoder"]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "The encoder 'no/encoder' is not a folder here" in failed.stderr
    assert "continue with --resume" in failed.stdout
    assert "Traceback" not in failed.stderr


def test_processes_that_torchrun_starts(config, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    train = ["train", config, "-o", tmp_path / "out", "--training.max_epochs", "1"]
    how = {"env": ONE_THREAD, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([*torchrun, "spacy_bertft", *train], **how)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Best score") == 1
    assert spacy.load(tmp_path / "out/model-best").pipe_names == ["encoder", "ner", "textcat"]
    plain = subprocess.run([*torchrun, "spacy", *train], **how)
    assert plain.returncode
    assert "Found 2 processes" in plain.stderr
    assert "torchrun … -m spacy_bertft train CONFIG" in plain.stderr


@pytest.fixture
def export(tmp_path):
    """An export of Label Studio."""
    path = tmp_path / "export.json"
    convert([jsonl(tmp_path / "texts.jsonl", ANNOTATED * 3)], path, to="label-studio")
    return path


def jsonl(path, annotated):
    lines = (
        {"text": f"{text} {number}", "spans": [list(span) for span in spans], "label": label}
        for number, (text, spans, label) in enumerate(annotated)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def from_texts(export, encoder, *words, task="ner+textcat"):
    return ("--task", task, "--train", export, "--encoder", encoder, *words)


def test_one_command_makes_a_pipeline_of_an_export(export, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = bertft(*from_texts(export, tiny_bert, "--training.max_steps", 4))
    assert result.exit_code == 0, result.output
    assert re.search(r"export\.json +Label Studio +18 +", result.output)
    assert "training/corpus/dev.spacy: 4 texts" in result.output
    assert "spacy.load('training/model-best')" in result.output
    assert spacy.load("training/model-best").pipe_names == ["encoder", "ner", "textcat"]
    assert load_config("training/config.cfg")["paths"]["dev"] == "training/corpus/dev.spacy"
    found = " ".join(refused(*from_texts(export, tiny_bert)).split())
    assert found.startswith("training/config.cfg: found the config of an earlier run; ")
    assert "(bertft train training/config.cfg --output training)" in found
    again = bertft(*from_texts(export, tiny_bert, "--resume", "--training.max_steps", 4))
    assert again.exit_code == 0, again.output
    assert "The run in training is finished" in again.output
    assert bertft("training/config.cfg", "-o", "training", "--training.max_epochs", 1).exit_code == 0


def test_its_files_may_have_other_keys_and_development_texts_of_their_own(tiny_bert, tmp_path):
    paths = [tmp_path / "train.csv", tmp_path / "dev.csv"]
    for path in paths:
        path.write_text("body,topic\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(8)), encoding="utf-8")
    words = ["--dev", paths[1], "--text-key", "body", "--label-key", "topic", "-o", tmp_path / "out"]
    result = bertft(*from_texts(paths[0], tiny_bert, *words, "--training.max_epochs=1", task="textcat"))
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out/corpus").exists()
    assert spacy.load(tmp_path / "out/model-best").get_pipe("textcat").labels == ("a", "b")


@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_splits_of_a_data_set_are_training_and_development_texts(form, tiny_bert, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    tags = datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER"]))
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": tags})
    rows = {"tokens": [["Ada", "met", name] for name in ("Bob", "Eve", "Lee")], "ner_tags": [[1, 0, 1]] * 3}
    one = datasets.Dataset.from_dict(rows, features=features)
    folder = tmp_path / "names"
    if form == "saved":
        datasets.DatasetDict(train=one, validation=one).save_to_disk(folder)
    else:
        folder.mkdir()
        for split in ("train", "validation"):
            one.to_parquet(folder / f"{split}.parquet")
    words = ["--dev", f"{folder}:validation", "-o", tmp_path / "out", "--training.max_epochs=2"]
    result = bertft(*from_texts(f"{folder}:train", tiny_bert, *words, task="ner"))
    assert result.exit_code == 0, result.output
    assert load_config(tmp_path / "out/config.cfg")["paths"]["dev"] == f"{folder}:validation"
    assert spacy.load(tmp_path / "out/model-best").get_pipe("ner").labels == ("PER",)
    with_split = refused(*from_texts(folder, tiny_bert, "-o", tmp_path / "other", task="ner"))
    assert f"name one of them, such as {folder}:train" in with_split


def test_several_processes_train_from_texts_too(export, tiny_bert, tmp_path):
    words = from_texts(export, tiny_bert, "-o", tmp_path / "out", "--processes", 2, "--training.max_epochs", 1)
    command = [sys.executable, "-m", "spacy_bertft", "train", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Best score") == 1
    assert (tmp_path / "out/model-best").is_dir()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "found neither a config nor --task; expected a config, or a task and annotated texts"),
        (["--task", "ner"], "found --task without --train"),
        (["CONFIG", "--task", "ner", "--train", "a.json"], "found --task ner and the config"),
        (["CONFIG", "--train", "a.json"], "found --train without --task; .* --paths.train"),
        (["CONFIG", "--text-key", "body"], "found --text-key without --task"),
        (["--train", "a.json"], "found --train without --task"),
    ],
)
def test_it_needs_a_config_or_a_task_with_texts(config, words, said):
    result = bertft(*(config if word == "CONFIG" else word for word in words))
    assert result.exit_code == 2
    assert re.search(said, " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "nre"}, "task: found 'nre'; expected one of ner"),
        ({"task": "qa"}, "choose the task that fits these texts: ner"),
        ({"encoder": "no/encoder"}, "The encoder 'no/encoder' is not a folder here"),
        ({"export": "no.json"}, "The data 'no.json' were not found"),
    ],
)
def test_what_is_wrong_with_texts_is_one_message_and_leaves_nothing(export, tiny_bert, tmp_path, changes, said):
    given = {"export": export, "encoder": tiny_bert, **changes}
    words = from_texts(given.pop("export"), given.pop("encoder"), "-o", tmp_path / "out", **given)
    assert said in refused(*words)
    assert not (tmp_path / "out").exists()
