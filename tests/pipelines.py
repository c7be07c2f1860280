"""Small pipelines and examples that several tests use."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from spacy.language import Language
from spacy.training import Example
from torch import nn

from spacy_bertft import pair_doc
from spacy_bertft.jobs.evaluate import read_examples
from spacy_bertft.learning.shim import shim_of

# text, entities (first character, behind the last, label), category
ANNOTATED = [
    ("Anna lives in Berlin", [(0, 4, "PERSON"), (14, 20, "CITY")], "home"),
    ("Bob Stone went to work in Rome yesterday", [(0, 9, "PERSON"), (26, 30, "CITY")], "work"),
    ("Nothing happened", [], "home"),
    ("I met Clara in the office", [(6, 11, "PERSON")], "work"),
    ("Paris and Oslo are far from my home and garden", [(0, 5, "CITY"), (10, 14, "CITY")], "home"),
    ("A long meeting", [], "work"),
]
TEXTS = [text for text, _, _ in ANNOTATED]
HEADS = {"ner": "bertft_ner", "textcat": "bertft_textcat"}
# One head of each kind.
FACTORIES = {
    "ner": "bertft_ner",
    "textcat": "bertft_textcat",
    "multilabel": "bertft_textcat_multilabel",
    "pair": "bertft_pair",
    "qa": "bertft_qa",
    "rating": "bertft_regression",
}
CONTEXT = "Anna lives in Berlin near the old garden."


def blank(
    encoder: Path | str,
    heads: dict[str, str] | None = None,
    *,
    component: dict[str, Any] | None = None,
    **settings: Any,
) -> Language:
    """A pipeline of an encoder (settings of its model, and of the component) and heads: name -> factory."""
    nlp = spacy.blank("en")
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": str(encoder), "device": "cpu", **settings}
    nlp.add_pipe("bertft_encoder", name="encoder", config={"model": model, **(component or {})})
    for name, factory in (HEADS if heads is None else heads).items():
        nlp.add_pipe(factory, name=name)
    return nlp


def examples(nlp: Language, annotated: Iterable[Any] = ANNOTATED) -> list[Example]:
    """Gold examples with entities and exclusive categories."""
    return [
        Example.from_dict(
            nlp.make_doc(text),
            {"entities": entities, "cats": {"home": float(cat == "home"), "work": float(cat == "work")}},
        )
        for text, entities, cat in annotated
    ]


def blank_pair(encoder: Path | str, heads: dict[str, str], **config: Any) -> Language:
    """A pipeline for two texts in a Doc, of an encoder and heads: name -> factory. config: of each head."""
    nlp = spacy.blank("en", config={"nlp": {"tokenizer": {"@tokenizers": "spacy-bertft.PairTokenizer.v1"}}})
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": str(encoder), "device": "cpu"}
    nlp.add_pipe("bertft_encoder", name="encoder", config={"model": model})
    for name, factory in heads.items():
        nlp.add_pipe(factory, name=name, config=config)
    return nlp


def two_segments(encoder: Path | str, head: str) -> Language:
    """A pipeline for a question and its answer, or a pair. head: its factory."""
    nlp = blank(encoder, {"head": head})
    doc = pair_doc(nlp, "Where is it?", "It is here.")
    doc.cats = {"same": 1.0, "different": 0.0}
    doc.spans["answers"] = [doc[7:8]]
    nlp.initialize(lambda: [Example(pair_doc(nlp, "Where is it?", "It is here."), doc)])
    return nlp


def rated(encoder: Path | str) -> Language:
    """A pipeline that gives texts a number."""
    nlp = blank(encoder, {"rating": "bertft_regression"})
    gold = nlp.make_doc("Works.")
    gold._.value = 4.5
    nlp.initialize(lambda: [Example(nlp.make_doc("Works."), gold)])
    return nlp


def save_trained(nlp: Language, data: Path, folder: Path, steps: int = 20) -> Path:
    """Train a pipeline a little on an annotated file, and save it."""
    torch.manual_seed(0)
    optimizer = nlp.initialize(lambda: read_examples(nlp, data))
    optimizer.learn_rate = 3e-3
    for _ in range(steps):
        nlp.update(read_examples(nlp, data), sgd=optimizer)
    nlp.to_disk(folder)
    return folder


def annotated_file(path: Path, rows: Iterable[Any] = ANNOTATED) -> Path:
    """A .jsonl file of annotated texts."""
    records = ({"text": text, "spans": spans, "label": category} for text, spans, category in rows)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def initialized(encoder: Path | str, heads: dict[str, str] | None = None, **settings: Any) -> Language:
    """The same, ready to train, from one seed."""
    nlp = blank(encoder, heads, **settings)
    torch.manual_seed(0)
    nlp.initialize(lambda: examples(nlp))
    return nlp


def trained(encoder: Path | str, heads: dict[str, str] | None = None, steps: int = 60) -> Language:
    """The same, trained until it knows the examples."""
    names = tuple((HEADS if heads is None else heads).items())
    return blank(encoder, dict(names)).from_bytes(_trained_bytes(encoder, names, steps))


@cache
def _trained_bytes(encoder: Path | str, heads: tuple[tuple[str, str], ...], steps: int) -> bytes:
    nlp = initialized(encoder, dict(heads))
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 3e-3
    for _ in range(steps):
        nlp.update(examples(nlp), sgd=optimizer)
    return nlp.to_bytes()


def module_of(nlp: Language, name: str) -> nn.Module:
    """The torch module of a component."""
    module = shim_of(nlp.get_pipe(name).model).module
    assert module is not None
    return module


def output_of(pipe: Any, docs: list[Any]) -> Any:
    """A head's output for Docs, with its logits as a tensor, as in training."""
    output = pipe.predict(docs)
    return replace(output, logits=torch.from_numpy(output.logits))


def loss_of(pipe: Any, golds: list[Example], docs: list[Any] | None = None) -> torch.Tensor:
    """A head's loss on gold examples, summed over their targets, of its prediction for `docs` or for their Docs."""
    output = output_of(pipe, [eg.predicted for eg in golds] if docs is None else docs)
    loss: torch.Tensor = pipe.loss(output.logits, pipe.task.targets(output, golds))
    return loss


def without_dropout(nlp: Language) -> Language:
    """Switch off the encoder's own dropout; the heads' is an argument of nlp.update."""
    for module in module_of(nlp, "encoder").modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):  # of attention, in transformers 4
            module.dropout_prob = 0.0
    return nlp


def weights(nlp: Language, name: str) -> dict[str, torch.Tensor]:
    """A copy of a component's weights, settled."""
    pipe = nlp.get_pipe(name)
    module = pipe.encoder if name == "encoder" else module_of(nlp, name)
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def annotations(doc: Any) -> tuple[Any, ...]:
    """All that the heads set."""
    ents = [(ent.start_char, ent.end_char, ent.label_, round(ent._.score, 5)) for ent in doc.ents]
    return ents, {label: round(score, 5) for label, score in doc.cats.items()}


def about(expected: Any) -> Any:
    """Annotations to compare others with whose numbers differ a little: spawned workers don't know of float32.py."""
    if isinstance(expected, dict):
        return {key: about(value) for key, value in expected.items()}
    if isinstance(expected, list | tuple):
        return type(expected)(about(value) for value in expected)
    return pytest.approx(expected, abs=2e-3) if isinstance(expected, float) else expected
