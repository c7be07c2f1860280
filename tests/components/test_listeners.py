"""spaCy's own components on an encoder: what they learn through it, what they teach it, and how they are saved."""

from __future__ import annotations

import copy
import gc
import multiprocessing
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
from pipelines import module_of, without_dropout
from safetensors.torch import load_file
from spacy.cli import app
from spacy.cli.train import train
from spacy.kb import InMemoryLookupKB
from spacy.pipeline._parser_internals.nonproj import is_nonproj_tree
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.util import fix_random_seed
from tiny import make_encoder
from typer.testing import CliRunner

from spacy_bertft.components import feature_store
from spacy_bertft.components.doc_texts import texts_of
from spacy_bertft.encoder.pooling import token_vectors
from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.shim import shim_of

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
# Each tag's part of speech and morphology.
TAGS = {
    "NNP": ("PROPN", "Number=Sing"),
    "NN": ("NOUN", "Number=Sing"),
    "NNS": ("NOUN", "Number=Plur"),
    "VBZ": ("VERB", "Number=Sing|Tense=Pres"),
    "VBP": ("VERB", "Number=Plur|Tense=Pres"),
    "VBD": ("VERB", "Tense=Past"),
    "PRP": ("PRON", ""),
    "DT": ("DET", ""),
    "JJ": ("ADJ", ""),
    "IN": ("ADP", ""),
    "RB": ("ADV", ""),
    "CC": ("CCONJ", ""),
    ".": ("PUNCT", ""),
}
# Each token as word/lemma/tag/head/dependency. Each entity as first token, one behind the last, label.
TREEBANK = [
    (
        "Anna/Anna/NNP/1/nsubj lives/live/VBZ/1/ROOT in/in/IN/1/prep Berlin/Berlin/NNP/2/pobj ./././1/punct",
        [(0, 1, "PERSON"), (3, 4, "CITY")],
    ),
    (
        "Bob/Bob/NNP/1/compound Stone/Stone/NNP/2/nsubj went/go/VBD/2/ROOT to/to/IN/2/prep Rome/Rome/NNP/3/pobj "
        "yesterday/yesterday/RB/2/advmod ./././2/punct",
        [(0, 2, "PERSON"), (4, 5, "CITY")],
    ),
    (
        "The/the/DT/2/det old/old/JJ/2/amod garden/garden/NN/3/nsubj sleeps/sleep/VBZ/3/ROOT ./././3/punct",
        [],
    ),
    (
        "She/she/PRP/1/nsubj sold/sell/VBD/1/ROOT shells/shell/NNS/1/dobj in/in/IN/1/prep Oslo/Oslo/NNP/3/pobj "
        "./././1/punct",
        [(4, 5, "CITY")],
    ),
    (
        "Clara/Clara/NNP/1/nsubj met/meet/VBD/1/ROOT Bob/Bob/NNP/3/compound Stone/Stone/NNP/1/dobj in/in/IN/1/prep "
        "the/the/DT/6/det office/office/NN/4/pobj ./././1/punct",
        [(0, 1, "PERSON"), (2, 4, "PERSON")],
    ),
    (
        "Dogs/dog/NNS/1/nsubj bark/bark/VBP/1/ROOT ./././1/punct "
        "Anna/Anna/NNP/4/nsubj laughs/laugh/VBZ/4/ROOT ./././4/punct",
        [(3, 4, "PERSON")],
    ),
    (
        "The/the/DT/1/det University/University/NNP/4/nsubj of/of/IN/1/prep Oslo/Oslo/NNP/2/pobj "
        "opened/open/VBD/4/ROOT ./././4/punct",
        [(3, 4, "CITY")],
    ),
    (
        "Trains/train/NNS/1/nsubj left/leave/VBD/1/ROOT the/the/DT/3/det station/station/NN/1/dobj ./././1/punct",
        [],
    ),
    (
        "They/they/PRP/1/nsubj read/read/VBP/1/ROOT old/old/JJ/3/amod books/book/NNS/1/dobj in/in/IN/1/prep "
        "Rome/Rome/NNP/4/pobj ./././1/punct",
        [(5, 6, "CITY")],
    ),
    (
        "Paris/Paris/NNP/3/nsubj and/and/CC/0/cc Oslo/Oslo/NNP/0/conj grow/grow/VBP/3/ROOT ./././3/punct "
        "Nobody/nobody/NN/6/nsubj knows/know/VBZ/6/ROOT ./././6/punct",
        [(0, 1, "CITY"), (2, 3, "CITY")],
    ),
]
# Beside the entities: (text, first token, one behind the last, label).
NESTED = [(6, 1, 4, "ORG"), (4, 2, 3, "FIRST"), (1, 0, 1, "FIRST")]
WIDTH = 32
LISTENER = {"@architectures": "spacy-bertft.Listener.v1"}
REDUCE = {
    "@architectures": "spacy.TextCatReduce.v1",
    "exclusive_classes": True,
    "use_reduce_first": True,
    "use_reduce_last": False,
    "use_reduce_max": True,
    "use_reduce_mean": True,
}
# name -> factory, settings beside the listener
READERS = {
    "senter": ("senter", {}),
    "tagger": ("tagger", {}),
    "morphologizer": ("morphologizer", {}),
    "parser": ("parser", {}),
    "lemmatizer": ("trainable_lemmatizer", {"min_tree_freq": 1}),
    "spancat": ("spancat", {"suggester": {"@misc": "spacy.ngram_suggester.v1", "sizes": [1, 2, 3]}}),
    "finder": ("span_finder", {"spans_key": "found"}),
    "reduce": ("textcat", {"model": REDUCE}),
    "ensemble": ("textcat_multilabel", {"model": {"@architectures": "spacy.TextCatEnsemble.v2"}}),
    "names": ("ner", {}),
    "linker": ("entity_linker", {"entity_vector_length": WIDTH}),
}
OURS = {"ner": "bertft_ner", "textcat": "bertft_textcat"}
FEW = ("tagger", "parser", "ner")


def gold(vocab):
    docs = []
    for number, (lines, entities) in enumerate(TREEBANK):
        words, lemmas, tags, heads, deps = zip(*(token.split("/") for token in lines.split()), strict=True)
        doc = Doc(
            vocab,
            words=words,
            lemmas=lemmas,
            tags=tags,
            pos=[TAGS[tag][0] for tag in tags],
            morphs=[TAGS[tag][1] for tag in tags],
            heads=[int(head) for head in heads],
            deps=deps,
        )
        doc.ents = [
            Span(doc, start, end, label, kb_id=f"{doc[start:end].text} {number % 2}") for start, end, label in entities
        ]
        nested = [Span(doc, start, end, label) for place, start, end, label in NESTED if place == number]
        doc.spans["sc"] = doc.spans["found"] = [*doc.ents, *nested]
        in_city = any(label == "CITY" for _, _, label in entities)
        doc.cats = {"city": float(in_city), "country": float(not in_city)}
        docs.append(doc)
    return docs


def examples(nlp):
    return [
        Example(
            Doc(nlp.vocab, words=[token.text for token in doc], spaces=[bool(token.whitespace_) for token in doc]), doc
        )
        for doc in gold(nlp.vocab)
    ]


def knowledge(vocab):
    """Each entity's name stands for two: one of the texts with even numbers, one of the others."""
    kb = InMemoryLookupKB(vocab, entity_vector_length=WIDTH)
    for name in sorted({ent.text for doc in gold(vocab) for ent in doc.ents}):
        ids = [f"{name} {parity}" for parity in (0, 1)]
        for entity, vector in zip(ids, np.eye(2, WIDTH).tolist(), strict=True):
            kb.add_entity(entity=entity, freq=1, entity_vector=vector)
        kb.add_alias(alias=name, entities=ids, probabilities=[0.5, 0.5])
    return kb


def add_encoder(nlp, folder, name="encoder", **settings):
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": str(folder), "device": "cpu"}
    return nlp.add_pipe("bertft_encoder", name=name, config={"model": model, **settings})


def add_reader(nlp, name, listener=LISTENER, **where):
    if name in OURS:
        return nlp.add_pipe(OURS[name], name=name, **where)
    factory, settings = READERS[name]
    model = {**settings.get("model", {}), "tok2vec": listener}
    pipe = nlp.add_pipe(factory, name=name, config={**settings, "model": model}, **where)
    if factory == "entity_linker":
        pipe.set_kb(knowledge)
    return pipe


def blank(folder, names, listener=LISTENER):
    nlp = spacy.blank("en")
    add_encoder(nlp, folder)
    for name in names:
        add_reader(nlp, name, listener)
    return nlp


def initialize(nlp):
    fix_random_seed(0)
    nlp.initialize(lambda: examples(nlp) * 30)  # the parser takes labels that are rarer for one
    return nlp


def learn(nlp, steps, rate=3e-3, **options):
    """The losses of each step."""
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = rate
    return [dict(nlp.update(examples(nlp), sgd=optimizer, **options)) for _ in range(steps)]


def said(doc):
    """All that the components set."""
    tokens = [(t.tag_, t.pos_, str(t.morph), t.head.i, t.dep_, t.lemma_, t.is_sent_start) for t in doc]
    ents = [(ent.start, ent.end, ent.label_, ent.kb_id_) for ent in doc.ents]
    spans = {key: sorted((span.start, span.end, span.label_) for span in doc.spans[key]) for key in doc.spans}
    return tokens, ents, spans, {label: round(score, 4) for label, score in doc.cats.items()}


TEXTS = [doc.text for doc in gold(spacy.blank("en").vocab)]


def said_of_all(nlp, **options):
    return [said(doc) for doc in nlp.pipe(TEXTS, **options)]


@cache
def _trained_bytes(folder, names):
    nlp = initialize(blank(folder, names))
    learn(nlp, 60)
    return nlp.to_bytes()


def trained(folder, names=FEW):
    return blank(folder, names).from_bytes(_trained_bytes(folder, tuple(names)))


def encoder_weights(nlp, name="encoder"):
    return {key: value.clone() for key, value in nlp.get_pipe(name).encoder.state_dict().items()}


def changed(before, after):
    return any(not value.equal(after[key]) for key, value in before.items())


def listener_of(nlp, name):
    """The layer that reads the encoder, in the place of a tok2vec."""
    layers = nlp.get_pipe(name).model.walk()
    return next(layer for layer in layers if layer.name in ("bertft-listener", "bertft-tok2vec"))


def held(doc):
    return feature_store.find(doc, "encoder") is not None


def test_the_examples_of_these_tests_are_what_they_seem():
    for doc in gold(spacy.blank("en").vocab):
        assert sum(len(sent) for sent in doc.sents) == len(doc)
        assert not any(is_nonproj_tree([token.head.i - sent.start for token in sent]) for sent in doc.sents)
        assert all(token.tag_ and token.pos_ and token.lemma_ and token.dep_ for token in doc)


# --- all of spaCy's components, with heads of ours

ORDERS = {
    "before": (*OURS, *READERS),
    "between": ("names", "parser", "ner", "spancat", "tagger", "ensemble", "textcat", "senter", "reduce", "linker"),
    "behind": (*[name for name in reversed(READERS) if name != "linker"], *OURS, "linker"),
}


@pytest.mark.slow
@pytest.mark.parametrize("names", ORDERS.values(), ids=list(ORDERS))
def test_every_component_learns_beside_heads_in_any_order(tiny_bert, names):
    nlp = initialize(blank(tiny_bert, names))
    before = encoder_weights(nlp)
    assert nlp.get_pipe("encoder").listening_components == list(names)
    first, *_, last = learn(nlp, 80)
    assert first.keys() == last.keys() == {"encoder", *names}
    for name in names:
        assert last[name] < 0.75 * first[name], name
    assert changed(before, encoder_weights(nlp))
    scores = nlp.evaluate(examples(nlp))
    for score in ("tag_acc", "dep_uas", "sents_f", "ents_f", "spans_sc_f", "nel_micro_f"):
        assert scores[score] > 0.7, score


@pytest.mark.slow
def test_what_every_component_says_survives_disk_and_bytes(tiny_bert, tmp_path):
    names = tuple(READERS)
    nlp = trained(tiny_bert, names)
    expected = said_of_all(nlp)
    nlp.to_disk(tmp_path / "model")
    assert said_of_all(spacy.load(tmp_path / "model")) == expected
    assert said_of_all(blank(tiny_bert, names).from_bytes(nlp.to_bytes())) == expected
    assert nlp.evaluate(examples(nlp))["dep_las"] == 1.0


@pytest.mark.slow
def test_a_loaded_pipeline_trains_on(tiny_bert, tmp_path):
    trained(tiny_bert).to_disk(tmp_path / "model")
    nlp = spacy.load(tmp_path / "model")
    before = encoder_weights(nlp)
    nlp.update(examples(nlp), sgd=nlp.resume_training())
    assert changed(before, encoder_weights(nlp))


# --- gradients


def gradients(nlp, *learning, egs=None, **options):
    """Gradients at the encoder when only these components learn."""
    others = [name for name in nlp.component_names if name not in ("encoder", *learning)]
    encoder = module_of(nlp, "encoder")
    encoder.zero_grad(set_to_none=True)
    fix_random_seed(0)  # the parser has a dropout of its own
    nlp.update(examples(nlp) if egs is None else egs, sgd=False, exclude=others, **options)
    nlp.get_pipe("encoder").settle()
    return {key: grad.clone() for key, grad in dense_gradients(encoder).items()}


def dense_gradients(module):
    """Those of embedding tables may hold only some rows until the step."""
    found = {key: p.grad for key, p in module.named_parameters() if p.grad is not None}
    return {key: grad.to_dense() if grad.is_sparse else grad for key, grad in found.items()}


def assert_close(found, expected, tolerance=1e-4):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, rtol=1e-4, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}"
        )


def some_steps(folder, names=FEW, listener=LISTENER):
    """A pipeline that has begun to learn: spaCy's output layers start at zero, and so do their gradients."""
    nlp = without_dropout(initialize(blank(folder, names, listener)))
    learn(nlp, 5)
    return nlp


@pytest.mark.parametrize("names", [FEW, FEW[::-1]], ids=["listeners-first", "head-first"])
def test_the_gradient_at_the_encoder_is_the_sum_of_all_readers(tiny_bert, names):
    nlp = some_steps(tiny_bert, names)
    each = [gradients(nlp, name) for name in names]
    assert all(max(float(grad.abs().max()) for grad in found.values()) > 0.1 for found in each)
    expected = {key: sum(found[key] for found in each) for key in each[0]}
    assert_close(gradients(nlp, *names), expected)
    assert_close(gradients(nlp, *names, annotates=["encoder"]), expected)


@pytest.mark.parametrize(
    "names", [["linker", "tagger", "ner"], ["tagger", "linker", "ner"], ["ner", "linker"]], ids=str
)
def test_a_linker_that_learns_on_copies_of_the_texts_is_one_of_the_readers(tiny_bert, names):
    nlp = some_steps(tiny_bert, names)
    each = [gradients(nlp, name) for name in names]
    assert all(max(float(grad.abs().max()) for grad in found.values()) > 0.01 for found in each)
    assert_close(gradients(nlp, *names), {key: sum(found[key] for found in each) for key in each[0]})


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_the_encoder_can_learn_at_a_rate_of_its_own(tiny_bert, factor):
    """The first step of Adam is as long as the rate, whatever the gradient."""
    steps = []
    for one in (1.0, factor):
        nlp = spacy.blank("en")
        add_encoder(nlp, tiny_bert, learn_rate_factor=one)
        add_reader(nlp, "ner")
        initialize(nlp)
        loaded = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
        before = encoder_weights(loaded)
        optimizer = loaded.create_optimizer()
        optimizer.learn_rate, optimizer.L2 = 1e-3, 0.0
        loaded.update(examples(loaded), sgd=optimizer)
        after = encoder_weights(loaded)
        steps.append(max(float((after[key] - value).abs().max()) for key, value in before.items()))
    assert steps[1] == pytest.approx(factor * steps[0], rel=0.01)


def test_a_taggers_gradient_is_that_of_plain_pytorch(tiny_bert):
    nlp = some_steps(tiny_bert, ["tagger"])
    found = gradients(nlp, "tagger")
    tagger, encoder = nlp.get_pipe("tagger"), nlp.get_pipe("encoder")
    egs = examples(nlp)
    features, _ = encoder.model.begin_update(texts_of([eg.predicted for eg in egs]))
    output = tagger.model.get_ref("softmax")
    weights, bias = (torch.from_numpy(output.get_param(name).copy()) for name in ("W", "b"))
    logits = token_vectors(features, "mean") @ weights.T + bias
    tags = torch.tensor([tagger.labels.index(token.tag_) for eg in egs for token in eg.reference])
    module_of(nlp, "encoder").zero_grad(set_to_none=True)
    torch.nn.functional.cross_entropy(logits, tags, reduction="sum").backward()
    assert_close(found, dense_gradients(module_of(nlp, "encoder")))


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_grad_factor_scales_what_a_listener_teaches(tiny_bert, factor):
    nlp = some_steps(tiny_bert)
    one = gradients(nlp, "tagger")
    head = gradients(nlp, "ner")
    listener_of(nlp, "tagger").grad_factor = factor
    assert_close(gradients(nlp, "tagger"), {key: factor * grad for key, grad in one.items()})
    assert_close(gradients(nlp, "tagger", "ner"), {key: factor * grad + head[key] for key, grad in one.items()})


def test_grad_factor_comes_from_the_config(tiny_bert):
    nlp = some_steps(tiny_bert, ["tagger"], {**LISTENER, "grad_factor": 0.0})
    assert not any(grad.any() for grad in gradients(nlp, "tagger").values())


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(tiny_bert):
    nlp = some_steps(tiny_bert, ["tagger", "ner"])
    egs = examples(nlp)
    whole = gradients(nlp, "tagger", "ner")
    parts = [gradients(nlp, "tagger", "ner", egs=part) for part in (egs[:4], egs[4:5], egs[5:])]
    assert_close({key: sum(part[key] for part in parts) for key in whole}, whole)


def test_texts_without_tokens_change_no_gradient(tiny_bert):
    nlp = some_steps(tiny_bert)
    empty = Example(nlp.make_doc(""), nlp.make_doc(""))
    expected = gradients(nlp, *FEW)
    egs = examples(nlp)
    assert_close(gradients(nlp, *FEW, egs=[empty, *egs[:3], empty, *egs[3:]]), expected)
    assert not any(grad.any() for grad in gradients(nlp, "tagger", "parser", egs=[empty]).values())
    assert nlp.update([], sgd=False) == {}


# --- frozen and disabled encoders


def test_listeners_learn_on_a_frozen_encoder(tiny_bert):
    nlp = initialize(blank(tiny_bert, FEW))
    before = encoder_weights(nlp)
    first, *_, last = learn(nlp, 30, exclude=["encoder"])
    assert all(last[name] < first[name] for name in FEW)
    with nlp.select_pipes(disable="encoder"):
        one, *_, other = learn(nlp, 10)
    assert all(other[name] < one[name] for name in FEW)
    learn(nlp, 3, exclude=["encoder"], annotates=["encoder"])
    assert not changed(before, encoder_weights(nlp))


def test_a_pretrained_encoder_that_nobody_initialised_can_be_listened_to(tiny_bert):
    names = [name for name in READERS if name != "linker"]
    nlp = blank(tiny_bert, names)
    with nlp.select_pipes(disable="encoder"):
        initialize(nlp)
    first, *_, last = learn(nlp, 5, exclude=["encoder"])
    assert all(last[name] < first[name] for name in names)


def test_a_frozen_listener_teaches_nothing(tiny_bert):
    nlp = some_steps(tiny_bert)
    before = nlp.get_pipe("tagger").model.to_bytes()
    assert_close(gradients(nlp, "ner"), gradients(nlp, "ner", annotates=["tagger"]))
    learn(nlp, 2, exclude=["tagger"], annotates=["tagger"])
    assert nlp.get_pipe("tagger").model.to_bytes() == before


def test_listeners_work_while_the_encoder_is_disabled(tiny_bert):
    nlp = trained(tiny_bert)
    expected = said_of_all(nlp)
    with nlp.select_pipes(disable="encoder"):
        assert said_of_all(nlp) == expected


# --- predicting


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_of_any_size_give_the_same_annotations(tiny_bert, batch_size):
    nlp = trained(tiny_bert)
    assert said_of_all(nlp, batch_size=batch_size) == [said(nlp(text)) for text in TEXTS]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_give_the_same_annotations(tiny_bert, method, monkeypatch):
    nlp = trained(tiny_bert)
    expected = said_of_all(nlp)
    monkeypatch.setattr("spacy.language.mp", multiprocessing.get_context(method))
    assert said_of_all(nlp, n_process=2, batch_size=2) == expected


def test_texts_without_tokens_go_through(tiny_bert):
    nlp = trained(tiny_bert)
    expected = said(nlp(TEXTS[1]))
    docs = list(nlp.pipe(["", TEXTS[1], "", " ", TEXTS[1]], batch_size=3))
    assert [len(doc) for doc in docs] == [0, len(docs[1]), 0, 1, len(docs[1])]
    assert said(docs[1]) == said(docs[4]) == expected
    assert list(nlp.pipe([])) == []
    assert len(nlp("")) == 0
    (nothing,) = listener_of(nlp, "tagger").predict([nlp.make_doc("")])
    assert nothing.shape == (0, WIDTH)


def test_features_go_when_the_last_reader_has_read_them(tiny_bert):
    nlp = trained(tiny_bert)
    assert not any(held(doc) for doc in nlp.pipe(TEXTS))
    doc = nlp.make_doc(TEXTS[0])
    for name in ("encoder", "tagger", "parser"):
        nlp.get_pipe(name)(doc)
        assert held(doc)
    nlp.get_pipe("ner")(doc)
    assert not held(doc)
    with nlp.select_pipes(disable="parser"):
        assert not held(nlp(TEXTS[0]))


@pytest.mark.slow
def test_a_linker_that_reads_copies_of_the_texts_is_not_waited_for(tiny_bert):
    nlp = trained(tiny_bert, ["senter", "names", "tagger", "linker"])
    assert not any(held(doc) for doc in nlp.pipe(TEXTS))


def test_features_of_training_are_let_go(tiny_bert):
    gc.collect()
    nlp = trained(tiny_bert)
    nlp.update(examples(nlp), sgd=False)
    nlp.get_pipe("encoder").settle()
    assert len(feature_store._published) == 0


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_tokens_vector_is_its_first_subword_or_the_mean_of_all(tiny_bert, pooling):
    nlp = initialize(blank(tiny_bert, ["tagger"], {**LISTENER, "pooling": pooling}))
    docs = [nlp.make_doc("Bob Stone went  to university yesterday"), nlp.make_doc(TEXTS[0])]
    features = nlp.get_pipe("encoder").features(docs)
    counts = features.token_subword_counts.tolist()
    assert max(counts) > 2
    assert min(counts) == 0  # of the white space
    rows = iter(features.rows[features.token_subwords].tolist())
    expected = []
    for count in counts:
        vectors = [features.hidden[next(rows)].numpy() for _ in range(count)]
        used = vectors[:1] if pooling == "first" else vectors
        expected.append(sum(used) / len(used) if used else np.zeros(WIDTH))
    found = listener_of(nlp, "tagger").predict(docs)
    assert [len(part) for part in found] == [len(doc) for doc in docs]
    np.testing.assert_allclose(np.concatenate(found), np.stack(expected), atol=1e-6)


# --- which encoder


def test_a_linker_of_another_width_needs_to_know_the_encoders(tiny_bert):
    def knowledge_of_pairs(vocab):
        kb = InMemoryLookupKB(vocab, entity_vector_length=2)
        kb.add_entity("Q", 1, [1.0, 0.0])
        kb.add_alias("Anna", ["Q"], [1.0])
        return kb

    def linked(width):
        nlp = spacy.blank("en")
        add_encoder(nlp, tiny_bert)
        settings = {"entity_vector_length": 2, "model": {"tok2vec": {**LISTENER, "width": width}}}
        nlp.add_pipe("entity_linker", config=settings).set_kb(knowledge_of_pairs)
        return initialize(nlp)

    assert linked(WIDTH).get_pipe("entity_linker").model.get_dim("nO") == 2
    with pytest.raises(ConfigError, match=rf"has width = 7, but its encoder's is {WIDTH}. Expected .* Set width"):
        linked(7)


@pytest.mark.parametrize("upstream", ["*", "big"])
def test_a_listener_without_its_encoder_is_an_error(tiny_bert, upstream):
    listener = {**LISTENER, "upstream": upstream}
    nlp = spacy.blank("en")
    if upstream == "big":
        add_encoder(nlp, tiny_bert)
    add_reader(nlp, "tagger", listener)
    wanted = {"*": "a bertft_encoder component", "big": "an encoder named 'big'"}[upstream]
    with pytest.raises(ConfigError, match=rf"{wanted} before its component.*Expected .*Add the encoder"):
        initialize(nlp)


def test_a_listener_before_its_encoder_is_an_error(tiny_bert):
    nlp = spacy.blank("en")
    add_encoder(nlp, tiny_bert)
    add_reader(nlp, "tagger", before="encoder")
    with pytest.raises(ConfigError, match="before its component in the pipeline, and found none"):
        initialize(nlp)


def test_two_encoders_of_different_widths_each_with_its_readers(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr("tiny.WIDTH", 16)
    narrow = make_encoder(tmp_path / "narrow", "bert-cased")
    nlp = spacy.blank("en")
    add_encoder(nlp, tiny_bert)
    add_encoder(nlp, narrow, "second")
    add_reader(nlp, "tagger", {**LISTENER, "upstream": "encoder"})
    add_reader(nlp, "parser", {**LISTENER, "upstream": "second"})
    add_reader(nlp, "morphologizer")
    nlp.add_pipe("bertft_ner", name="ner", config={"encoder": "encoder"})
    initialize(nlp)
    assert nlp.get_pipe("encoder").listening_components == ["tagger", "ner"]
    assert nlp.get_pipe("second").listening_components == ["parser", "morphologizer"]
    assert [listener_of(nlp, name).get_dim("nO") for name in ("tagger", "parser")] == [WIDTH, 16]
    learn(nlp, 3)
    for learning, moved in (("tagger", "encoder"), ("parser", "second"), ("morphologizer", "second")):
        before = {name: encoder_weights(nlp, name) for name in ("encoder", "second")}
        learn(nlp, 2, exclude=[name for name in ("tagger", "parser", "morphologizer", "ner") if name != learning])
        assert [name for name in before if changed(before[name], encoder_weights(nlp, name))] == [moved]
    expected = said_of_all(nlp)
    nlp.to_disk(tmp_path / "model")
    assert said_of_all(spacy.load(tmp_path / "model")) == expected
    assert not any(feature_store.find(doc, None) for doc in nlp.pipe(TEXTS))


def test_listeners_are_sourced_with_their_encoder(tiny_bert, tmp_path):
    source = trained(tiny_bert)
    expected = said_of_all(source)
    nlp = spacy.blank("en", vocab=source.vocab)
    nlp.add_pipe("encoder", source=source, name="bert")
    for name in FEW:
        nlp.add_pipe(name, source=source, name=f"my_{name}")
    assert nlp.get_pipe("bert").listening_components == [f"my_{name}" for name in FEW]
    assert said_of_all(nlp) == expected
    nlp.to_disk(tmp_path / "model")
    assert said_of_all(spacy.load(tmp_path / "model")) == expected


# --- an encoder of its own


def replaced(folder):
    nlp = trained(folder)
    nlp.replace_listeners("encoder", "tagger", ["model.tok2vec"])
    return nlp


def own_encoder(nlp):
    return shim_of(listener_of(nlp, "tagger").layers[0]).module


def test_a_replaced_listener_says_the_same(tiny_bert, tmp_path):
    expected = said_of_all(trained(tiny_bert))
    nlp = replaced(tiny_bert)
    assert said_of_all(nlp) == expected
    assert nlp.get_pipe("encoder").listening_components == ["parser", "ner"]
    settings = nlp.config["components"]["tagger"]["model"]["tok2vec"]
    assert settings["@architectures"] == "spacy-bertft.Tok2Vec.v1"
    assert settings["encoder"] == nlp.config["components"]["encoder"]["model"]
    nlp.to_disk(tmp_path / "model")
    assert said_of_all(spacy.load(tmp_path / "model")) == expected
    twin = spacy.util.load_model_from_config(nlp.config, auto_fill=True)
    assert said_of_all(twin.from_bytes(nlp.to_bytes())) == expected


def test_a_replaced_listener_has_weights_of_its_own(tiny_bert):
    nlp = replaced(tiny_bert)
    tags = [[token.tag_ for token in doc] for doc in nlp.pipe(TEXTS)]
    shared = encoder_weights(nlp)
    own = {key: value.clone() for key, value in own_encoder(nlp).state_dict().items()}
    assert not changed(shared, own)
    learn(nlp, 3, exclude=["tagger"])
    assert changed(shared, encoder_weights(nlp))
    assert not changed(own, own_encoder(nlp).state_dict())
    assert [[token.tag_ for token in doc] for doc in nlp.pipe(TEXTS)] == tags
    shared = encoder_weights(nlp)
    learn(nlp, 3, exclude=["encoder", "parser", "ner"])
    assert not changed(shared, encoder_weights(nlp))
    assert changed(own, own_encoder(nlp).state_dict())


def test_a_replaced_listener_learns_as_before(tiny_bert, tmp_path):
    nlp = some_steps(tiny_bert, ["tagger"])
    expected = gradients(nlp, "tagger")
    nlp.replace_listeners("encoder", "tagger", ["model.tok2vec"])
    nlp.update(examples(nlp), sgd=False)
    assert_close(dense_gradients(own_encoder(nlp)), expected)
    own_encoder(nlp).zero_grad(set_to_none=True)
    first, *_, last = learn(nlp, 20)
    assert last["tagger"] < first["tagger"]
    nlp.to_disk(tmp_path / "model")
    nlp = spacy.load(tmp_path / "model")
    before = {key: value.clone() for key, value in own_encoder(nlp).state_dict().items()}
    learn(nlp, 1)
    assert changed(before, own_encoder(nlp).state_dict())


def test_a_replaced_listener_steps_as_the_shared_encoder_does(tiny_bert):
    listener = {**LISTENER, "pooling": "first", "grad_factor": 0.5}
    nlp, twin = (without_dropout(initialize(blank(tiny_bert, ["tagger"], listener))) for _ in range(2))
    twin.replace_listeners("encoder", "tagger", ["model.tok2vec"])
    for each in (nlp, twin):
        optimizer = each.create_optimizer()
        optimizer.eps, optimizer.grad_clip = 1e-4, 0.0
        for size in (10, 2, 10, 3):
            each.update(examples(each)[:size], sgd=optimizer)
    assert_close(own_encoder(twin).state_dict(), encoder_weights(nlp), tolerance=1e-5)
    settings = twin.config["components"]["tagger"]["model"]["tok2vec"]
    assert (settings["pooling"], settings["grad_factor"]) == ("first", 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_replaced_listener_works_in_worker_processes(tiny_bert, method, monkeypatch):
    nlp = replaced(tiny_bert)
    expected = said_of_all(nlp)
    monkeypatch.setattr("spacy.language.mp", multiprocessing.get_context(method))
    assert said_of_all(nlp, n_process=2, batch_size=2) == expected


def test_a_config_can_replace_listeners_of_what_it_sources(tiny_bert, tmp_path):
    source = trained(tiny_bert)
    source.to_disk(tmp_path / "model")
    sourced = {"source": str(tmp_path / "model")}
    components = {"encoder": sourced, "parser": sourced, "tagger": {**sourced, "replace_listeners": ["model.tok2vec"]}}
    config = {"nlp": {"lang": "en", "pipeline": list(components)}, "components": components}
    nlp = spacy.util.load_model_from_config(spacy.Config(config), auto_fill=True)
    assert nlp.get_pipe("encoder").listening_components == ["parser"]
    with source.select_pipes(disable="ner"):
        assert said_of_all(nlp) == said_of_all(source)


def test_a_component_can_have_an_encoder_of_its_own_from_the_start(tiny_bert, tmp_path):
    encoder = {"@architectures": "spacy-bertft.Encoder.v1", "name": str(tiny_bert), "device": "cpu"}
    nlp = spacy.blank("en")
    add_reader(nlp, "tagger", {"@architectures": "spacy-bertft.Tok2Vec.v1", "pooling": "first", "encoder": encoder})
    initialize(nlp)
    learn(nlp, 70)
    assert nlp.evaluate(examples(nlp))["tag_acc"] == 1.0
    expected = said_of_all(nlp)
    nlp.to_disk(tmp_path / "model")
    assert said_of_all(spacy.load(tmp_path / "model")) == expected


# --- spacy train, and other commands


def train_spancat(folder, output, **overrides):
    corpus = output.with_suffix(".spacy")
    DocBin(docs=gold(spacy.blank("en").vocab)).to_disk(corpus)
    settings = {
        "paths.train": str(corpus),
        "paths.dev": str(corpus),
        "components.encoder.model.name": str(folder),
        "components.encoder.model.device": "cpu",
        "components.encoder.learn_rate_factor": 1.0,  # the tiny encoder has learned nothing yet
        "training.batcher.size": 5,
        "training.optimizer.learn_rate.warmup": 0.025,
        "training.optimizer.learn_rate.initial_rate": 3e-3,
        "training.dropout": 0.0,
        "components.spancat.threshold": 0.3,  # one of the spans is of a kind that is rare in so few texts
        "training.max_steps": 400,
        "training.max_epochs": 0,
    }
    train(ROOT / "configs" / "spancat.cfg", output, overrides={**settings, **overrides})
    return spacy.load(output / "model-last")


@pytest.mark.slow
def test_the_spancat_config_trains_nested_spans(tiny_bert, tmp_path):
    nlp = train_spancat(tiny_bert, tmp_path / "out")
    weights = encoder_weights(nlp)
    assert not all(
        weights[f"model.{key}"].equal(value) for key, value in load_file(tiny_bert / "model.safetensors").items()
    )
    assert nlp.evaluate(examples(nlp))["spans_sc_f"] > 0.9
    doc = nlp(TEXTS[6])
    found = {(span.text, span.label_) for span in doc.spans["sc"]}
    assert {("University of Oslo", "ORG"), ("Oslo", "CITY")} <= found
    assert len(doc.spans["sc"].attrs["scores"]) == len(doc.spans["sc"])


def test_the_spancat_config_trains_on_a_frozen_encoder(tiny_bert, tmp_path):
    overrides = {"training.frozen_components": ["encoder"], "training.max_steps": 20}
    nlp = train_spancat(tiny_bert, tmp_path / "out", **overrides)
    found, expected = encoder_weights(nlp), load_file(tiny_bert / "model.safetensors")
    assert all(found[f"model.{key}"].equal(value) for key, value in expected.items())


def test_spacy_debug_model_looks_at_a_component_that_listens(tiny_bert, tmp_path):
    trained(tiny_bert).to_disk(tmp_path / "model")
    DocBin(docs=gold(spacy.blank("en").vocab)).to_disk(tmp_path / "gold.spacy")
    arguments = ["debug", "model", tmp_path / "model" / "config.cfg", "tagger", "-P3"]
    arguments += ["--paths.train", tmp_path / "gold.spacy", "--paths.dev", tmp_path / "gold.spacy"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "model looks good" in result.output


# --- rehearsal


def test_components_that_listen_rehearse_with_one_copy_of_the_encoder(tiny_bert):
    nlp = trained(tiny_bert, ("tagger", "parser", "textcat"))
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 1e-3
    copies = [copy_of(nlp, name) for name in ("tagger", "parser")]
    frozen = nlp.get_pipe("textcat")._rehearsal_model.frozen
    assert [copy.frozen for copy in copies] == [frozen, frozen]
    before = listener_of(nlp, "tagger").predict(new_docs(nlp))
    nlp.update(examples(nlp), sgd=optimizer)
    assert frozen.copied
    for found, expected in zip(copies[0](new_docs(nlp), is_train=True)[0], before, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.allclose(listener_of(nlp, "tagger").predict(new_docs(nlp))[0], before[0], atol=1e-5)
    encoder = encoder_weights(nlp)
    losses = nlp.rehearse([Example(doc, doc.copy()) for doc in new_docs(nlp)], sgd=optimizer)
    assert losses["tagger"] > 0 < losses["textcat"]
    assert changed(encoder, encoder_weights(nlp))


def new_docs(nlp):
    return list(map(nlp.make_doc, TEXTS))


def copy_of(nlp, name):
    return next(layer for layer in nlp.get_pipe(name)._rehearsal_model.walk() if layer.name == "bertft-listener")


def test_a_copy_of_a_pipeline_listens_to_its_own_encoder(tiny_bert):
    nlp = trained(tiny_bert)
    twin = copy.deepcopy(dict(nlp.components))
    listener = next(layer for layer in twin["tagger"].model.walk() if layer.name == "bertft-listener")
    assert listener.frozen is None
    assert listener.encoder_pipe is twin["encoder"]
    assert twin["encoder"] is not nlp.get_pipe("encoder")
