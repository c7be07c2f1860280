"""Batches of texts of similar length: none is lost, sizes and lengths are as promised."""

from __future__ import annotations

import random
from itertools import combinations, count, islice

import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st
from pipelines import ANNOTATED, blank, examples
from spacy.cli.train import train
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from spacy.util import load_config, registry
from spacy.vocab import Vocab

from spacy_bertft.components.batchers import create_batch_by_subwords
from spacy_bertft.components.pairs import pair_doc
from spacy_bertft.encoder.loading import load_splitter
from spacy_bertft.errors import ConfigError, EncoderError

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]
VOCAB = Vocab()
modest = settings(deadline=None, max_examples=100)


def text(length):
    """An example of a text of `length` subwords: the tiny encoder's tokenizer knows this letter."""
    doc = Doc(VOCAB, words=["a"] * length)
    return Example(doc, doc)


def lengths_of(batch):
    return [len(eg.predicted) for eg in batch]


@pytest.fixture(scope="module")
def batcher(tiny_bert):
    """`batcher(**settings)`, which loads the tokenizer once for all."""
    splitter = load_splitter(str(tiny_bert))

    def make(**settings):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("spacy_bertft.encoder.loading.load_splitter", lambda name: splitter)
            made = create_batch_by_subwords("name", **settings)
            list(made([text(1)]))
        return made

    return make


sizes = st.tuples(st.integers(1, 60), st.integers(1, 6), st.integers(0, 8), st.integers(0, 20)).map(
    lambda it: {"size": it[0], "min_texts": it[1], "max_texts": it[1] + it[2], "buffer": sum(it[1:])}
)
streams = st.lists(st.integers(0, 40), max_size=60)


@modest
@given(streams, sizes)
def test_each_text_is_in_one_batch(batcher, lengths, limits):
    egs = list(map(text, lengths))
    found = [eg for batch in batcher(**limits)(iter(egs)) for eg in batch]
    assert sorted(map(id, found)) == sorted(map(id, egs))


@modest
@given(streams, sizes)
def test_batches_have_as_many_texts_as_allowed(batcher, lengths, limits):
    least, most = limits["min_texts"], limits["max_texts"]
    found = [len(batch) for batch in batcher(**limits)(map(text, lengths))]
    assert all(1 <= number <= most for number in found)
    few = [number for number in found if number < least]
    if len(lengths) < least:
        assert found == ([len(lengths)] if lengths else [])
    elif most >= 2 * least - 1:
        assert not few
    else:  # some numbers of texts can't be divided otherwise
        assert len(few) <= len(lengths) / limits["buffer"] + 1


@modest
@given(streams, sizes)
def test_batches_are_no_larger_than_they_have_to_be(batcher, lengths, limits):
    limits["buffer"] = 100
    batches = [lengths_of(batch) for batch in batcher(**limits)(map(text, lengths))]
    large = [batch for batch in batches if sum(batch) > limits["size"] and len(batch) > limits["min_texts"]]
    assert len(large) <= 2  # the last ones share what is left


@modest
@given(streams, sizes)
def test_batches_hardly_overlap_in_length(batcher, lengths, limits):
    limits["buffer"] = 100
    batches = [lengths_of(batch) for batch in batcher(**limits)(map(text, lengths))]
    for one, other in combinations(batches, 2):
        shorter, longer = sorted((one, other), key=lambda batch: (max(batch), min(batch)))
        apart = (max(shorter) + 1) * 0.9 <= (min(longer) + 1) * 1.1
        assert apart or (max(longer) + 1) * 0.9 <= (min(shorter) + 1) * 1.1


def test_long_texts_come_in_small_batches_and_short_ones_in_large(batcher):
    egs = [text(length) for length in [100] * 40 + [5] * 80]
    batches = list(map(lengths_of, batcher(size=1000, min_texts=4, max_texts=40)(egs)))
    assert sorted(map(len, batches)) == [10, 10, 10, 10, 40, 40]
    assert all(len(set(batch)) == 1 for batch in batches)


def test_what_fewer_than_min_texts_would_be_is_shared(batcher):
    make = batcher(size=10**6, min_texts=4, max_texts=9)
    assert [len(batch) for batch in make([text(3)] * 9)] == [9]
    assert sorted(len(batch) for batch in make([text(3)] * 11)) == [5, 6]
    # The last buffer would have a single text.
    small = batcher(size=30, min_texts=4, max_texts=9, buffer=20)
    assert sorted(len(batch) for batch in small([text(10)] * 21)) == [4, 4, 4, 4, 5]


def test_the_seed_decides_and_epochs_differ(batcher):
    egs = [text(length) for length in range(1, 200)]
    make = batcher(size=200, min_texts=2, max_texts=32)
    runs = []
    for seed in (1, 1, 2):
        random.seed(seed)
        runs.append([[lengths_of(batch) for batch in make(egs)] for _ in range(2)])
    assert runs[0] == runs[1] != runs[2]
    first, second = runs[0]
    assert first != second
    assert {tuple(sorted(batch)) for batch in first} != {tuple(sorted(batch)) for batch in second}
    longest = [max(batch) for batch in first]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_a_stream_without_end_is_read_a_buffer_at_a_time(batcher):
    read = []

    def stream():
        for number in count():
            read.append(number)
            yield text(number % 7)

    batches = batcher(size=50, min_texts=2, max_texts=5, buffer=20)(stream())
    assert len(list(islice(batches, 3))) == 3
    assert len(read) == 22
    assert sum(map(len, islice(batches, 100))) > 200


def test_texts_are_counted_in_the_subwords_of_the_encoder(tiny_bert, monkeypatch):
    egs = examples(spacy.blank("en"), [("a a a a", [], "home"), ("unfathomableness", [], "home")])
    splitter = load_splitter(str(tiny_bert))
    few, many = (int(splitter.tokenize([eg.text]).counts[0]) for eg in egs)
    assert few < many
    make = create_batch_by_subwords(str(tiny_bert), size=2 * few, min_texts=1, max_texts=2)
    assert sorted(map(len, make([egs[0]] * 4 + [egs[1]] * 2))) == [1, 1, 2, 2]


def test_two_segments_are_counted_as_the_encoder_reads_them(tiny_bert):
    nlp = spacy.blank("en")
    docs = [pair_doc(nlp, "a a", "a a a"), pair_doc(nlp, "a", "a")]
    make = create_batch_by_subwords(str(tiny_bert), size=7, min_texts=1, max_texts=9)
    assert [len(batch) for batch in make([Example(doc, doc) for doc in docs])] == [2]


@pytest.mark.parametrize(
    ("changes", "found", "expected"),
    [
        ({"size": 0}, "size = 0", "at least 1"),
        ({"min_texts": 0}, "min_texts = 0", "at least 1"),
        ({"max_texts": 7}, "max_texts = 7", "at least min_texts = 8"),
        ({"buffer": 31}, "buffer = 31", "at least max_texts = 32"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, found, expected):
    block = {"@batchers": "spacy-bertft.batch_by_subwords.v1", "tokenizer": "any", **changes}
    with pytest.raises(ConfigError, match=rf"has {found}\. Expected {expected}\. Correct it in \[training\.batcher\]"):
        registry.resolve({"batcher": block})


def test_a_tokenizer_that_is_not_there_is_an_error_at_the_first_batch(tmp_path):
    make = create_batch_by_subwords(str(tmp_path / "none"))
    with pytest.raises(EncoderError, match="is not a folder here"):
        list(make([text(1)]))


@pytest.mark.slow
@pytest.mark.parametrize("max_epochs", [2, -1])
def test_spacy_train_uses_it(tiny_bert, tmp_path, max_epochs):
    nlp = blank(tiny_bert)
    DocBin(docs=[eg.reference for eg in examples(nlp, ANNOTATED * 4)]).to_disk(tmp_path / "train.spacy")
    config = nlp.config.copy()
    corpus = str(tmp_path / "train.spacy")
    config["paths"] = {"train": corpus, "dev": corpus, "encoder": str(tiny_bert), "vectors": None, "init_tok2vec": None}
    config["components"]["encoder"]["model"]["name"] = "${paths.encoder}"
    config["training"]["batcher"] = {
        "@batchers": "spacy-bertft.batch_by_subwords.v1",
        "tokenizer": "${paths.encoder}",
        "size": 100,
        "min_texts": 4,
        "max_texts": 8,
        "buffer": 16,
    }
    config["training"]["optimizer"] = {"@optimizers": "Adam.v1", "learn_rate": 1e-3, "use_averages": False}
    config["training"].update({"max_epochs": max_epochs, "max_steps": 8, "eval_frequency": 4})
    if max_epochs < 0:  # spaCy takes the labels from the stream at its start
        config["initialize"]["components"] = {
            "ner": {"labels": ["CITY", "PERSON"]},
            "textcat": {"labels": ["home", "work"]},
        }
    config.to_disk(tmp_path / "config.cfg")
    train(tmp_path / "config.cfg", tmp_path / "out")
    saved = load_config(tmp_path / "out/model-last/config.cfg")
    assert saved["training"]["batcher"]["@batchers"] == "spacy-bertft.batch_by_subwords.v1"
    assert spacy.load(tmp_path / "out/model-last")("Anna lives in Berlin").cats
