"""What spaCy's own functions and commands do with each of our factories, as with any trained component."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
import spacy
import torch
from spacy.cli import app
from spacy.cli.apply import apply
from spacy.cli.debug_config import debug_config
from spacy.cli.debug_data import debug_data
from spacy.cli.evaluate import evaluate
from spacy.cli.find_threshold import find_threshold
from spacy.cli.package import package
from spacy.tokens import DocBin, Span
from spacy.training import Example
from spacy.util import load_config, load_model_from_config
from tiny import make_encoder
from typer.testing import CliRunner

from spacy_bertft.errors import ConfigError

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

HEADS = ("bertft_ner", "bertft_textcat", "bertft_textcat_multilabel", "bertft_pair", "bertft_qa")
FACTORIES = (*HEADS, "bertft_encoder", "bertft_mlm", "bertft_trf_data")
# Two texts with a tab between them; entity and answer; category.
ANNOTATED = [
    ("Where does Anna live?\tAnna lives in Berlin [MASK]", "Berlin", "home"),
    ("Where did Bob go?\tBob Stone went to work in Rome yesterday", "Rome", "work"),
    ("What is far from home?\tParis is far from my home and garden", "Paris", "home"),
    ("Who met Clara?\tNothing happened", None, "work"),
]
TEXTS = [text for text, _, _ in ANNOTATED]


def blank():
    return spacy.blank("en", config={"nlp": {"tokenizer": {"@tokenizers": "spacy-bertft.PairTokenizer.v1"}}})


def gold(nlp):
    docs = []
    for text, name, category in ANNOTATED:
        doc = nlp.make_doc(text)
        words = [token.text for token in doc]
        start = words.index(name) if name else 0
        doc.set_ents([Span(doc, start, start + 1, "CITY")] if name else [], default="outside")
        doc.spans["answers"] = [Span(doc, start, start + 1, "ANSWER")] if name else []
        doc.cats = {label: float(label == category) for label in ("home", "work")}
        docs.append(doc)
    return docs


def said(doc):
    spans = {key: [(span.start, span.end) for span in doc.spans[key]] for key in doc.spans}
    ents = [(ent.start, ent.end, ent.label_) for ent in doc.ents]
    tensor = np.round(doc.tensor, 3).tolist()
    rows = doc._.trf_data.tensors[0].round(3).tolist() if doc.has_extension("trf_data") and doc._.trf_data else None
    return ents, spans, {label: round(score, 3) for label, score in doc.cats.items()}, tensor, rows


def said_of_all(nlp):
    return [said(doc) for doc in nlp.pipe(TEXTS)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder") / "masked", "bert-uncased", head="AutoModelForMaskedLM")


@pytest.fixture(scope="module", params=FACTORIES)
def factory(request):
    return request.param


@pytest.fixture(scope="module")
def saved(factory, models, tmp_path_factory):
    """A trained pipeline whose last component is "it", of the factory; beside it gold.spacy."""
    nlp = blank()
    encoder = {"model": {"@architectures": "spacy-bertft.Encoder.v1", "name": str(models), "device": "cpu"}}
    configs = {"bertft_encoder": {**encoder, "set_tensor": True}, "bertft_mlm": {"model": str(models)}}
    if factory in (*HEADS, "bertft_trf_data"):
        nlp.add_pipe("bertft_encoder", name="encoder", config=encoder)
    nlp.add_pipe(factory, name="it", config=configs.get(factory, {}))
    torch.manual_seed(0)
    docs = gold(nlp)
    optimizer = nlp.initialize(lambda: [Example(nlp.make_doc(doc.text), doc) for doc in docs])
    optimizer.learn_rate = 3e-3
    for _ in range(60 if factory in HEADS else 0):
        nlp.update([Example(nlp.make_doc(doc.text), doc) for doc in docs], sgd=optimizer)
    folder = tmp_path_factory.mktemp(factory) / "model"
    nlp.to_disk(folder)
    DocBin(docs=docs, store_user_data=True).to_disk(folder.with_name("gold.spacy"))
    return folder


def data(saved):
    return saved.with_name("gold.spacy")


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


only = partial(pytest.mark.parametrize, "factory", indirect=True)


# --- nlp


def test_it_can_be_renamed_and_saved(saved, tmp_path):
    nlp = spacy.load(saved)
    expected = said_of_all(nlp)
    nlp.rename_pipe("it", "other")
    assert said_of_all(nlp) == expected
    nlp.to_disk(tmp_path / "model")
    loaded = spacy.load(tmp_path / "model")
    assert loaded.pipe_names[-1] == loaded.get_pipe("other").name == "other"
    assert said_of_all(loaded) == expected


def test_it_can_be_left_out_or_switched_off_at_loading(saved):
    expected = said_of_all(spacy.load(saved))
    nothing = said_of_all(blank())
    assert expected != nothing
    nlp = spacy.load(saved, exclude=["it"])
    assert "it" not in nlp.component_names
    assert said_of_all(nlp) == nothing
    nlp = spacy.load(saved, disable=["it"])
    assert said_of_all(nlp) == nothing
    nlp.enable_pipe("it")
    assert said_of_all(nlp) == expected


@only(argvalues=HEADS)
def test_a_head_loaded_without_its_encoder_asks_for_one(saved):
    with pytest.raises(ConfigError, match=r"'it' needs a bertft_encoder component before it.*Expected"):
        spacy.load(saved, exclude=["encoder"])("A question\tA text")


def test_it_can_be_sourced_with_all_that_it_needs(saved, tmp_path):
    source = spacy.load(saved)
    nlp = blank()
    nlp.add_pipe("sentencizer")
    for name in source.pipe_names:
        nlp.add_pipe(name, source=source, name=f"my_{name}")
    assert said_of_all(nlp) == said_of_all(source)
    nlp.to_disk(tmp_path / "model")
    assert said_of_all(spacy.load(tmp_path / "model")) == said_of_all(source)


@only(argvalues=HEADS)
def test_a_head_sourced_alone_reads_the_encoder_of_its_source_but_is_not_saved_with_it(saved, tmp_path):
    source = spacy.load(saved)
    nlp = blank()
    nlp.add_pipe("it", source=source)
    assert said_of_all(nlp) == said_of_all(source)
    nlp.to_disk(tmp_path / "model")
    with pytest.raises(ConfigError, match="needs a bertft_encoder component"):
        spacy.load(tmp_path / "model")(TEXTS[0])


def test_a_pipeline_is_made_again_from_its_config(saved):
    nlp = spacy.load(saved)
    twin = load_model_from_config(nlp.config, auto_fill=True)
    assert twin.config.to_str() == nlp.config.to_str()
    assert said_of_all(twin.from_bytes(nlp.to_bytes())) == said_of_all(nlp)


def test_analysis_finds_what_it_assigns_and_no_problem(saved, factory):
    analysis = spacy.load(saved).analyze_pipes()
    assert analysis["summary"]["it"]["assigns"]
    assert analysis["problems"]["it"] == []


@only(argvalues=HEADS)
def test_a_head_has_no_listener_to_replace(saved):
    nlp = spacy.load(saved)
    expected = said_of_all(nlp)
    with pytest.raises(ValueError, match=r"model\.tok2vec"):
        nlp.replace_listeners("encoder", "it", ["model.tok2vec"])
    nlp.replace_listeners("encoder", "it", [])
    assert said_of_all(nlp) == expected


# --- commands


def test_assemble(saved, tmp_path):
    nlp = spacy.load(saved)
    config = load_config(saved / "config.cfg")
    config["components"] = {name: {"source": str(saved)} for name in nlp.pipe_names}
    config.to_disk(tmp_path / "sourced.cfg")
    run("assemble", tmp_path / "sourced.cfg", tmp_path / "model")
    assert said_of_all(spacy.load(tmp_path / "model")) == said_of_all(nlp)


def test_debug_config_and_data(saved, factory, capsys):
    paths = {f"paths.{split}": str(data(saved)) for split in ("train", "dev")}
    debug_config(saved / "config.cfg", overrides=paths)
    with suppress(SystemExit):  # it stops with 1 because texts of train and dev are the same
        debug_data(saved / "config.cfg", config_overrides=paths, silent=False)
    assert "Data file validation" in capsys.readouterr().out


@only(argvalues=[*HEADS, "bertft_encoder"])
def test_debug_model(saved):
    paths = [part for split in ("train", "dev") for part in (f"--paths.{split}", data(saved))]
    assert "model looks good" in run("debug", "model", saved / "config.cfg", "it", "-P3", *paths)


@only(argvalues=["bertft_textcat_multilabel", "bertft_qa"])
def test_find_threshold(saved, factory):
    score = {"bertft_qa": "answer_f"}.get(factory, "cats_macro_f")
    best, value, scores = find_threshold(str(saved), data(saved), "it", "threshold", score, n_trials=5)
    assert list(scores) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert scores[best] == value == max(scores.values()) > min(scores.values())


def test_benchmark_speed(saved):
    assert "words/s" in run("benchmark", "speed", saved, data(saved), "--batches", 30, "-b", 1, "-w", 0)


def test_benchmark_accuracy_and_evaluate_by_component(saved, factory, tmp_path):
    run("benchmark", "accuracy", saved, data(saved), "-o", tmp_path / "one.json")
    scores = json.loads((tmp_path / "one.json").read_text("utf-8"))
    by_component = evaluate(str(saved), data(saved), output=tmp_path / "each.json", per_component=True)
    wanted = {"bertft_ner": "ents_f", "bertft_qa": "answer_f", **dict.fromkeys(set(FACTORIES) - set(HEADS))}
    if key := wanted.get(factory, "cats_score"):
        assert by_component["it"][key] > 0.5
        assert key == "answer_f" or scores[key] == by_component["it"][key]
    else:
        assert not by_component.get("it")


@only(argvalues=[*HEADS, "bertft_mlm"])
@pytest.mark.parametrize("n_process", [1, 2])
def test_apply(saved, tmp_path, n_process):
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), "utf-8")
    apply(tmp_path / "texts.jsonl", tmp_path / "out.spacy", str(saved), "text", 2, n_process)
    nlp = spacy.load(saved)
    assert [said(doc) for doc in DocBin().from_disk(tmp_path / "out.spacy").get_docs(nlp.vocab)] == said_of_all(nlp)


def test_a_memory_zone_leaves_no_words_behind(saved):
    nlp = spacy.load(saved)
    expected = said_of_all(nlp)
    n_words = len(nlp.vocab.strings)
    for number in range(2):
        with nlp.memory_zone():
            nlp(f"Unheard{number} of in words{number}\tto be sure{number}")
            assert said_of_all(nlp) == expected
        assert len(nlp.vocab.strings) == n_words


def test_evaluate_with_pictures(saved, tmp_path):
    evaluate(str(saved), data(saved), displacy_path=tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # spaCy leaves files open
def test_package(saved, factory, tmp_path):
    package(saved, tmp_path, create_sdist=False, name="it", version="1.0.0")
    folder = tmp_path / "en_it-1.0.0"
    asked = json.loads((folder / "meta.json").read_text("utf-8"))["requirements"]
    assert [line.partition(">")[0] for line in asked] == ["spacy-bertft-core[train]"]
    assert said_of_all(spacy.load(folder / "en_it" / "en_it-1.0.0")) == said_of_all(spacy.load(saved))
    labels = {"bertft_ner": "CITY", "bertft_qa": "", **dict.fromkeys(set(FACTORIES) - set(HEADS), "")}.get(
        factory, "home"
    )
    assert labels in (folder / "README.md").read_text("utf-8")
