"""Whole training runs that several tests start, also in processes of their own."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import spacy
from pipelines import ANNOTATED, blank
from spacy.tokens import DocBin, Span
from spacy.util import registry
from thinc.api import Config

from spacy_bertft.components.doc_values import set_value
from spacy_bertft.components.progress.figures import RunMeter
from spacy_bertft.jobs.training.train import train

LISTENER = {"@architectures": "spacy-bertft.Listener.v1"}
TAGGER = {"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": LISTENER}}
PARSER = {
    "@architectures": "spacy.TransitionBasedParser.v2",
    "state_type": "ner",
    "extra_state_tokens": False,
    "hidden_width": 16,
    "maxout_pieces": 2,
    "use_upper": True,
    "tok2vec": LISTENER,
}
OURS = {"ner": ("bertft_ner", {}), "textcat": ("bertft_textcat", {})}
# name -> components after the encoder, tuning, settings of the optimizer
PIPELINES = {
    "ner and textcat": (OURS, None, {}),
    "multilabel": ({"textcat": ("bertft_textcat_multilabel", {})}, None, {}),
    "regression": ({"value": ("bertft_regression", {})}, None, {}),
    "averages": (OURS, None, {"use_averages": True}),
    "top layer": (OURS, {"@misc": "spacy-bertft.TopLayersTuning.v1", "layers": 1}, {}),
    "gradual": (OURS, {"@misc": "spacy-bertft.GradualTuning.v1", "every": 1, "unit": "epochs"}, {}),
    "LoRA": (OURS, {"@misc": "spacy-bertft.LoraTuning.v1", "rank": 2}, {}),
    "frozen": (OURS, {"@misc": "spacy-bertft.FrozenTuning.v1"}, {}),
    "spaCy's tagger": ({"tagger": ("tagger", TAGGER)}, None, {}),
    "spaCy's tagger and ours, averages": ({"tagger": ("tagger", TAGGER), **OURS}, None, {"use_averages": True}),
    "spaCy's ner": ({"ner": ("ner", {"model": PARSER})}, None, {}),
}


def make_texts(path, n):
    nlp = spacy.blank("en")
    docs = []
    for number in range(n):
        text, entities, category = ANNOTATED[number % len(ANNOTATED)]
        doc = nlp(f"{text} {number}")
        doc.set_ents([doc.char_span(start, end, label=label) for start, end, label in entities])
        doc.cats = {"home": float(category == "home"), "work": float(category == "work")}
        doc.spans["sc"] = [Span(doc, 0, 1, "FIRST")]
        for token in doc:
            token.tag_ = "CAP" if token.text[0].isupper() else "LOW"
        set_value(doc, float(number % 5))
        docs.append(doc)
    DocBin(docs=docs, store_user_data=True).to_disk(path)
    return path


def config_of(corpus, encoder, components=OURS, tuning=None, optimizer=None, **training):
    nlp = blank(encoder, {}, component={"tuning": tuning} if tuning else {})
    for name, (factory, settings) in components.items():
        nlp.add_pipe(factory, name=name, config=settings)
    config = Config(nlp.config).copy()
    reader = {"@readers": "spacy.Corpus.v1", "path": str(corpus), "max_length": 0, "gold_preproc": False}
    for split in ("train", "dev"):
        config["corpora"][split] = {**reader, "limit": 0, "augmenter": None}
    rate = {"@schedules": "spacy-bertft.warmup_decay.v1", "initial_rate": 3e-3}
    config["training"].update(
        max_epochs=3,
        max_steps=0,
        eval_frequency=4,
        patience=0,
        batcher={"@batchers": "spacy.batch_by_sequence.v1", "size": 4, "get_length": None},
        optimizer={"@optimizers": "Adam.v1", "learn_rate": rate, **(optimizer or {})},
        logger={"@loggers": "spacy.ConsoleLogger.v1", "progress_bar": False},
        **training,
    )
    return spacy.util.load_config_from_str(config.to_str())


def run(config, output, **settings):
    notes = []
    settings = {"checkpoint_minutes": None, "checkpoint_steps": 1, **settings}
    train(config, output, note=notes.append, stdout=io.StringIO(), stderr=io.StringIO(), **settings)
    return notes


def saved(output, name="model-last"):
    """All that a pipeline is saved as, except its scores and the config, by file."""
    files = sorted(path for path in (output / name).rglob("*") if path.is_file())
    return {
        str(path.relative_to(output / name)): path.read_bytes()
        for path in files
        if path.name not in ("config.cfg", "meta.json")
    }


def assert_same(one, two):
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


@registry.loggers("test.figures.v1")
def figures_logger(folder):
    """Writes what our loggers show of each step: subwords and losses, a line of JSON each."""
    path = Path(folder, f"figures-{os.environ.get('WORLD_SIZE', '1')}.jsonl")

    def setup(nlp, stdout, stderr):
        meter = RunMeter(nlp)

        def log(info):
            figures = meter(info)
            line = {"epoch": figures.epoch, "subwords": figures.stretch.subwords, "losses": figures.stretch.losses}
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")

        return log, lambda: None

    return setup


def figures(folder, processes):
    """What `figures_logger` wrote in a run."""
    return [json.loads(line) for line in Path(folder, f"figures-{processes}.jsonl").read_text().splitlines()]
