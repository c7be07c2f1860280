from __future__ import annotations

import json
import shutil

import pytest
import spacy
from encoders import encoder_of
from spacy.cli.train import train as spacy_train
from spacy.util import load_config, load_model_from_config

from spacy_bertft.convert import convert
from spacy_bertft.errors import ConfigError, DataError, EncoderError
from spacy_bertft.jobs.evaluate import evaluate
from spacy_bertft.jobs.recipes.init import init
from spacy_bertft.jobs.recipes.tasks import TASKS

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

PLACES, PEOPLE = ("Berlin", "Rome", "Oslo", "Paris"), ("Anna", "Bob", "Clara")


def records(n, *, of):
    """Records for a task, which are easy to learn."""
    for number in range(n):
        person, place = PEOPLE[number % 3], PLACES[number % 4]
        home = number % 2 == 0
        text = f"{person} lives in {place} at home" if home else f"{person} went to work in {place}"
        label = "home" if home else "work"
        begin = text.index(place)
        spans = [
            {"start": 0, "end": len(person), "label": "PER"},
            {"start": begin, "end": begin + len(place), "label": "LOC"},
        ]
        yield {
            "ner": {"text": text, "spans": spans},
            "textcat": {"text": text, "label": label},
            "intents": {"text": text, "label": "none" if number % 5 == 0 else label},
            "multilabel": {"text": text, "labels": [label, place] if number % 3 else [label]},
            "ner+textcat": {"text": text, "spans": spans, "label": label},
            "ner+multilabel": {"text": text, "spans": spans, "labels": [label, place] if number % 3 else [label]},
            "pair": {"first": text, "second": f"{place} it is", "label": label},
            "regression": {"text": text, "value": float(number % 4)},
        }[of]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def questions(n):
    contexts = [f"{person} lives in {place}. Nothing happened." for person in PEOPLE for place in PLACES][:n]
    paragraphs = [
        {
            "context": text,
            "qas": [{"id": text, "question": "Where?", "answers": [_answer(text)], "is_impossible": False}],
        }
        for text in contexts
    ]
    return {"version": "2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}


def _answer(text):
    place = text.split()[3].rstrip(".")
    return {"text": place, "answer_start": text.index(place)}


def data_for(task, folder):
    if task == "qa":
        paths = [folder / "train.json", folder / "dev.json"]
        for path, n in zip(paths, (12, 6), strict=True):
            path.write_text(json.dumps(questions(n)), encoding="utf-8")
        return paths
    if task == "spancat":
        paths = [write(folder / f"{split}.jsonl", records(n, of="ner")) for split, n in (("train", 24), ("dev", 8))]
        convert(paths, folder)
        found = [folder / f"{split}.spacy" for split in ("train", "dev")]
        for path in found:
            _to_spans(path)
        return found
    return [write(folder / f"{split}.jsonl", records(n, of=task)) for split, n in (("train", 24), ("dev", 8))]


def _to_spans(path):
    from spacy.tokens import DocBin

    docs = list(DocBin().from_disk(path).get_docs(spacy.blank("en").vocab))
    for doc in docs:
        doc.spans["places"] = list(doc.ents)
    DocBin(docs=docs).to_disk(path)


@pytest.mark.parametrize("task", [task for task in TASKS if task != "textcat+textcat"])
@pytest.mark.parametrize("aim", ["accuracy", "speed"])
def test_spacy_trains_what_it_writes(task, aim, tiny_bert, tmp_path):
    train, dev = data_for(task, tmp_path)
    plan = init(task, tmp_path / "a.cfg", train=train, dev=dev, encoder=str(tiny_bert), aim=aim)
    assert plan is not None
    config = load_config(tmp_path / "a.cfg")
    load_model_from_config(config, auto_fill=False, validate=True)  # complete
    spacy_train(tmp_path / "a.cfg", tmp_path / "out", overrides={"training.max_steps": 2})
    nlp = spacy.load(tmp_path / "out/model-last")
    scores = evaluate(tmp_path / "out/model-last", dev).overall
    for name, weight in nlp.config["training"]["score_weights"].items():
        assert not weight or name in scores, name


def test_facts_of_the_encoder(tiny_bert, tmp_path):
    train, dev = data_for("ner", tmp_path)
    facts = init("ner", tmp_path / "a.cfg", train=train, dev=dev, encoder=str(tiny_bert)).encoder
    encoder = encoder_of(tiny_bert)
    sizes = {name: tensor.numel() for name, tensor in encoder.at_rest().weights.items()}
    assert (facts.family, facts.limit) == ("bert", 64)
    assert facts.parameters == sum(sizes.values())
    assert facts.body == sum(size for name, size in sizes.items() if name.startswith("encoder.layer"))


def test_texts_in_other_keys(tiny_bert, tmp_path):
    rows = [{"body": record["text"], "topic": record["label"]} for record in records(24, of="textcat")]
    path = write(tmp_path / "t.jsonl", rows)
    init(
        "textcat", tmp_path / "a.cfg", train=path, dev=path, encoder=str(tiny_bert), text_key="body", label_key="topic"
    )
    corpora = load_config(tmp_path / "a.cfg")["corpora"]
    assert (corpora["dev"]["text_key"], corpora["train"]["label_key"]) == ("body", "topic")
    spacy_train(tmp_path / "a.cfg", tmp_path / "out", overrides={"training.max_steps": 1})


def test_the_export_of_a_tool_is_trained_on_as_it_is(tiny_bert, tmp_path):
    convert([write(tmp_path / "a.jsonl", records(12, of="ner"))], tmp_path / "exports", to="brat")
    convert([tmp_path / "exports" / "a"], tmp_path / "exports", to="label-studio")
    given = {"train": tmp_path / "exports" / "a", "dev": tmp_path / "exports" / "a.json"}
    init("spancat", tmp_path / "config.cfg", **given, encoder=str(tiny_bert), span_group="sc")
    block = load_config(tmp_path / "config.cfg")["corpora"]["train"]
    assert (block["@readers"], block["span_group"]) == ("spacy-bertft.Corpus.v1", "sc")
    two_steps = {"training.max_epochs": 0, "training.max_steps": 2}
    spacy_train(tmp_path / "config.cfg", tmp_path / "out", overrides=two_steps)
    assert set(spacy.load(tmp_path / "out" / "model-last").get_pipe("spancat").labels) == {"LOC", "PER"}


@pytest.mark.parametrize("task", ["ner", "textcat", "pair", "qa", "regression", "spancat"])
def test_without_development_texts_some_are_set_aside(task, tiny_bert, tmp_path):
    train, _ = data_for(task, tmp_path)
    output = tmp_path / "run/config.cfg"
    plan = init(task, output, train=train, encoder=str(tiny_bert))
    config = load_config(output)
    parts = [tmp_path / "run/corpus" / name for name in ("train.spacy", "dev.spacy")]
    assert [config["paths"][name] for name in ("train", "dev")] == [str(path) for path in parts]
    assert plan is not None
    assert plan.divided is not None
    counts = {"qa": [10, 2]}.get(task, [18, 6])  # each of the 24 texts is there twice, and stays together
    assert (list(plan.divided.parts.values()), [len(plan.train), len(plan.dev)]) == (counts, counts)
    spacy_train(output, tmp_path / "out", overrides={"training.max_steps": 1})
    with pytest.raises(ConfigError, match="found a file; expected the name of a new config"):
        init(task, output, train=train, encoder=str(tiny_bert))
    init(task, output, train=train, encoder=str(tiny_bert), force=True)


def test_intents_without_slots_and_with_them(tiny_bert, tmp_path):
    train, dev = data_for("intents", tmp_path)
    init("intents", tmp_path / "a.cfg", train=train, dev=dev, encoder=str(tiny_bert))
    config = load_config(tmp_path / "a.cfg")
    assert config["nlp"]["pipeline"] == ["encoder", "intent"]
    assert config["components"]["intent"]["unknown_label"] == "none"
    train, dev = data_for("ner+textcat", tmp_path)
    init("intents", tmp_path / "b.cfg", train=train, dev=dev, encoder=str(tiny_bert))
    config = load_config(tmp_path / "b.cfg")
    assert config["nlp"]["pipeline"] == ["encoder", "slots", "intent"]
    assert config["components"]["intent"]["unknown_label"] is None


def test_an_existing_file_is_kept_unless_forced(tmp_path):
    path = tmp_path / "a.cfg"
    init("ner", path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="found a file; expected the name of a new config"):
        init("qa", path)
    assert path.read_bytes() == before
    init("qa", path, force=True)
    assert path.read_bytes() != before
    with pytest.raises(ConfigError, match="found a folder"):
        init("qa", tmp_path, force=True)


def test_no_config_where_something_is_wrong(tiny_bert, tmp_path):
    train, dev = data_for("ner", tmp_path)
    output = tmp_path / "a.cfg"
    for message, error, changes in (
        ("expected one of ner, textcat", ConfigError, {"task": "nre"}),
        ("give --train too", ConfigError, {"train": None}),
        ("fits these texts: ner", DataError, {"task": "textcat", "dev": None}),
        ("were not found", DataError, {"dev": tmp_path / "nothing.spacy"}),
        ("is not a folder here", EncoderError, {"encoder": "no/such-encoder"}),
        ("expected none for 'textcat\\+textcat'", ConfigError, {"task": "textcat+textcat"}),
        ("spacy.blank\\('zz'\\) fails", ConfigError, {"lang": "zz"}),
        ("fits these texts: ner", DataError, {"task": "textcat"}),
    ):
        given = {"task": "ner", "train": train, "dev": dev, "encoder": str(tiny_bert), **changes}
        with pytest.raises(error, match=message):
            init(given.pop("task"), output, **given)
    assert not output.exists()
    assert not (tmp_path / "corpus").exists()


def test_the_encoder_s_folder_may_have_spaces(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / 'an "odd" encoder, ü')
    train, dev = data_for("ner", tmp_path)
    init("ner", tmp_path / "a.cfg", train=train, dev=dev, encoder=str(folder), aim="speed")
    spacy_train(tmp_path / "a.cfg", tmp_path / "out", overrides={"training.max_steps": 1})
