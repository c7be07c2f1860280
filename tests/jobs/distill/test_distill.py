"""`distill`: a config, a trained student and a comparison; what it makes of teachers, and what it refuses."""

from __future__ import annotations

import json
import shutil

import pytest
import spacy
from pipelines import HEADS, annotated_file, blank, blank_pair, rated, save_trained, trained, two_segments
from spacy.util import load_config
from tiny import make_encoder
from training_runs import assert_same, saved

from spacy_bertft.components.distill_settings import DistillSettings
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.files import PIPELINE
from spacy_bertft.jobs.distill.config import Data
from spacy_bertft.jobs.distill.distill import ENCODER, Student, distill
from spacy_bertft.jobs.distill.parts import parts_of
from spacy_bertft.jobs.export import compare
from spacy_bertft.jobs.training import train as training
from spacy_bertft.jobs.training.train import train

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

SHORT = {"training.max_epochs": 1, "training.eval_frequency": 3}


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr(compare, "SAMPLE_WORDS", 50)
    monkeypatch.setattr(compare, "ROUNDS", 1)


@pytest.fixture(scope="module")
def teacher(tiny_bert, tmp_path_factory):
    """The folder of a pipeline with entities and categories, and a file of its training texts beside it."""
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    trained(tiny_bert).to_disk(folder)
    annotated_file(folder.with_name("train.jsonl"))
    folder.with_name("more.txt").write_text("Clara lives in Rome\n\nBob was at home\n", encoding="utf-8")
    return folder


def of(teacher, output, student=None, **settings):
    data = teacher.with_name("train.jsonl")
    given = {"train": data, "dev": data, "overrides": SHORT, **settings}
    return distill([teacher], output, student or Student(layers=1), **given)


def test_from_a_teacher_to_a_smaller_student(teacher, tmp_path):
    output = tmp_path / "student"
    notes = []
    more = {
        "training.max_epochs": 120,
        "training.eval_frequency": 30,
        "training.optimizer.learn_rate.initial_rate": 3e-3,
    }
    report = of(teacher, output, overrides=more, unlabelled=[teacher.with_name("more.txt")], note=notes.append)
    nlp = spacy.load(output / "model-best")
    assert len(nlp.get_pipe("encoder").encoder.weights()) < len(
        spacy.load(teacher).get_pipe("encoder").encoder.weights()
    )
    assert report.student.parameters < report.teachers[0].parameters
    assert report.student.n_bytes < report.teachers[0].n_bytes
    assert report.student.scores["ents_f"] > 90
    assert report.kept("ents_f") == pytest.approx(report.student.scores["ents_f"] / report.teachers[0].scores["ents_f"])
    assert min(report.student.speed, report.teachers[0].speed) > 0
    assert f"wrote {output / PIPELINE}" in notes
    text = (output / PIPELINE).read_text(encoding="utf-8")
    assert text.startswith(f"# The student of {teacher}.\n#\n#   bertft train {output / PIPELINE} --output {output}\n")
    assert "# Share of the loss on the teachers' outputs" in text


def test_the_config_trains_the_same_student_again(teacher, tmp_path):
    output = tmp_path / "student"
    of(teacher, output)
    first = saved(output)
    train(load_config(output / PIPELINE), tmp_path / "again")
    assert_same(first, saved(tmp_path / "again"))


def test_a_run_that_was_stopped_is_continued(teacher, tmp_path, monkeypatch):
    """With a narrower student, and so with a map of hidden rows, in the same weights."""
    narrow = Student(name=str(make_encoder(tmp_path / "narrow", "bert-uncased", hidden_size=16)))
    whole, output = tmp_path / "whole", tmp_path / "stopped"
    settings = {"unlabelled": [teacher.with_name("more.txt")], "overrides": {**SHORT, "training.max_epochs": 4}}
    settings["method"] = DistillSettings(hidden=0.5)
    of(teacher, whole, narrow, **settings)
    asked = iter([False, False, True])
    monkeypatch.setattr(training, "_stopping", lambda: _Asked(asked))
    with pytest.raises(training.Stopped):
        of(teacher, output, narrow, **settings)
    monkeypatch.undo()
    monkeypatch.setattr(compare, "ROUNDS", 1)
    notes = []
    of(teacher, output, narrow, **settings, resume=True, note=notes.append)
    assert any(note.startswith("Resumed after 3 steps") for note in notes)
    assert_same(saved(whole), saved(output))


class _Asked:
    """In the place of the signals: answers whether the user wants to stop."""

    def __init__(self, answers):
        self.answers = answers

    def __enter__(self):
        return lambda: next(self.answers, False)

    def __exit__(self, *error):
        return None


def test_the_users_settings_are_in_the_config_and_comments_stay(teacher, tmp_path):
    of(teacher, tmp_path / "out", overrides={**SHORT, "components.ner.pooling": "mean"})
    text = (tmp_path / "out" / PIPELINE).read_text(encoding="utf-8")
    config = load_config(tmp_path / "out" / PIPELINE)
    assert config["components"]["ner"]["pooling"] == "mean"
    assert (config["training"]["max_epochs"], config["training"]["eval_frequency"]) == (1, 3)
    assert "# The fraction of the training that the warm-up takes." in text
    assert text.startswith("# The student of")


def test_heads_of_several_teachers_come_together(tiny_bert, teacher, tmp_path):
    data = teacher.with_name("train.jsonl")
    alone = {name: save_trained(blank(tiny_bert, {name: HEADS[name]}), data, tmp_path / name) for name in HEADS}
    report = distill(list(alone.values()), tmp_path / "both", Student(layers=1), train=data, dev=data, overrides=SHORT)
    config = load_config(tmp_path / "both" / PIPELINE)
    assert config["nlp"]["pipeline"] == ["encoder", "ner", "textcat"]
    assert len(report.teachers) == 2
    assert {"ents_f", "cats_score"} <= set(report.student.scores)


@pytest.mark.parametrize("head", ["bertft_pair", "bertft_qa", "bertft_regression"])
def test_other_heads(tiny_bert, tmp_path, head):
    nlp = rated(tiny_bert) if head == "bertft_regression" else two_segments(tiny_bert, head)
    name = nlp.pipe_names[1]
    if head != "bertft_regression":
        nlp = blank_pair(tiny_bert, {name: head}).from_bytes(nlp.to_bytes(exclude=["tokenizer"]), exclude=["tokenizer"])
    nlp.to_disk(tmp_path / "teacher")
    records = {
        "bertft_pair": [{"first": "Where is it?", "second": "It is here.", "label": "same"}] * 4,
        "bertft_regression": [{"text": "Works.", "value": 4.5}, {"text": "Bad.", "value": 1.0}] * 2,
    }.get(head)
    data = tmp_path / ("data.jsonl" if records else "data.json")
    if records:
        data.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    else:
        answer = {"text": "here", "answer_start": 6}
        asked = {"id": "1", "question": "Where is it?", "answers": [answer], "is_impossible": False}
        content = {
            "version": "2.0",
            "data": [{"title": "t", "paragraphs": [{"context": "It is here.", "qas": [asked]}]}],
        }
        data.write_text(json.dumps(content), encoding="utf-8")
    report = distill(
        [tmp_path / "teacher"], tmp_path / "out", Student(layers=1), dev=data, unlabelled=[data], overrides=SHORT
    )
    assert report.student.scores
    assert name in spacy.load(tmp_path / "out/model-best").pipe_names


def test_other_components_are_the_teachers_own(tiny_bert, teacher, tmp_path):
    nlp = spacy.load(teacher)
    nlp.add_pipe("entity_ruler", first=True).add_patterns([{"label": "DAY", "pattern": "Monday"}])
    nlp.to_disk(tmp_path / "teacher")
    annotated_file(tmp_path / "train.jsonl")
    of(tmp_path / "teacher", tmp_path / "out")
    doc = spacy.load(tmp_path / "out/model-best")("See you on Monday")
    assert ("Monday", "DAY") in [(ent.text, ent.label_) for ent in doc.ents]


def test_what_listens_to_the_encoder_is_left_out_with_a_note(tiny_bert):
    nlp = blank(tiny_bert, {"ner": "bertft_ner"})
    listener = {"@architectures": "spacy-bertft.Listener.v1"}
    nlp.add_pipe("tagger", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": listener}})
    notes = []
    parts = parts_of([("teacher", nlp)], notes.append)
    assert parts.nlp["pipeline"] == ["encoder", "ner"]
    assert notes == ["The student has no tagger: only heads of this package can be distilled. Train it afterwards"]


# --- what is refused


def test_a_teacher_without_heads(tmp_path, teacher):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.to_disk(tmp_path / "teacher")
    shutil.copy(teacher.with_name("train.jsonl"), tmp_path)
    with pytest.raises(ConfigError, match=r"has no head of this package \(its components: sentencizer\)"):
        of(tmp_path / "teacher", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("layers", "name"), [(None, None), (1, "bert-base-cased")])
def test_a_student_without_an_encoder_or_with_two(layers, name):
    with pytest.raises(ConfigError, match="Expected one of them"):
        Student(layers, name)


def test_more_layers_than_the_teacher_has(teacher, tmp_path):
    with pytest.raises(ConfigError, match="layers is 9, of an encoder with 2"):
        of(teacher, tmp_path / "out", Student(layers=9))


def test_an_output_that_is_taken(teacher, tmp_path):
    (tmp_path / PIPELINE).write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="--overwrite"):
        of(teacher, tmp_path)


def test_texts_that_are_not_there(teacher, tmp_path):
    with pytest.raises(DataError, match="were not found"):
        of(teacher, tmp_path / "out", dev=tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="neither annotated nor unlabelled"):
        of(teacher, tmp_path / "out", train=None)
    with pytest.raises(DataError, match="no such file"):
        of(teacher, tmp_path / "out", unlabelled=[tmp_path / "none.txt"])
    assert not (tmp_path / "out").exists()


def test_settings_that_nothing_reads(teacher, tmp_path):
    with pytest.raises(ConfigError, match=r"did you mean --training\.max_epochs"):
        of(teacher, tmp_path / "out", overrides={"training.max_epoch": 3})


def test_an_exported_teacher_has_no_layers_to_keep(teacher, tmp_path):
    from spacy_bertft.export import export

    export(teacher, tmp_path / "teacher")
    annotated_file(tmp_path / "train.jsonl")
    with pytest.raises(ConfigError, match="was exported for ONNX Runtime"):
        of(tmp_path / "teacher", tmp_path / "out")


def test_which_data_spacy_reads_itself(tmp_path):
    assert not Data(tmp_path / "a.spacy", tmp_path / "b.spacy").other_formats
    assert Data(tmp_path / "a.spacy", tmp_path / "b.jsonl").other_formats
    assert ENCODER == "encoder"
