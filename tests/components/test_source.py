"""Where a head's features come from: what was published, else the encoder before it."""

from __future__ import annotations

import numpy as np
import pytest
import spacy
import torch
from pipelines import ANNOTATED, TEXTS, blank, examples, initialized, trained

from spacy_bertft.components import feature_store
from spacy_bertft.components.source import EncoderSource, check_tokens
from spacy_bertft.errors import ConfigError
from spacy_bertft.types import Features

pytestmark = pytest.mark.touches_transformers

NLP = spacy.blank("en")
WIDTH = 2


class Head:
    name = "ner"


class Encoder:
    """An encoder component, as far as a source knows it. Its features are all of one number."""

    def __init__(self, name="encoder", nlp=None, number=1.0):
        self.name = name
        self.nlp = lambda: nlp
        self.number = number
        self.asked = []
        self.forgotten = []
        self.keeps = False

    def keep_outputs(self):
        self.keeps = True

    def features(self, docs):
        self.asked.append(list(docs))
        return features_of(docs, self.number)

    def forget(self, head):
        self.forgotten.append(head)


def features_of(docs, number):
    """A row for each token, and none for special subwords."""
    counts = np.array([len(doc) for doc in docs], dtype=np.int64)
    n_rows = int(counts.sum())
    return Features(
        hidden=torch.full((n_rows, WIDTH), number),
        rows=np.arange(n_rows),
        subword_counts=counts,
        token_subwords=np.arange(n_rows),
        token_subword_counts=np.ones(n_rows, dtype=np.int64),
        token_counts=counts,
        cls_rows=np.zeros(0, dtype=np.int64),
        window_counts=np.zeros(len(docs), dtype=np.int64),
    )


def publish(name, docs, number):
    features = features_of(docs, number)
    feature_store.publish(name, docs, features, readers=(), keep=True)
    return features


def numbers(features):
    """The numbers of each Doc's rows."""
    found = features.hidden[features.rows][:, 0].tolist()
    ends = np.cumsum(features.subword_counts).tolist()
    return [found[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@pytest.fixture
def docs():
    return [NLP.make_doc(text) for text in ("Anna lives", "", "in Berlin now")]


@pytest.fixture
def encoder():
    return Encoder(number=9.0)


def source_of(encoder=None, upstream=None):
    source = EncoderSource(Head(), upstream)
    if encoder is not None:
        source.link(encoder)
    return source


# --- what is read


@pytest.mark.parametrize("upstream", [None, "encoder"])
def test_published_features_come_first(docs, encoder, upstream):
    features = publish("encoder", docs, 1.0)
    source = source_of(encoder, upstream)
    assert source.read(docs, WIDTH) is features
    assert numbers(source.read(docs[::-1], WIDTH)) == [[1.0] * 3, [], [1.0] * 2]
    assert not encoder.asked


def test_no_encoder_is_needed_for_them(docs):
    features = publish("encoder", docs, 1.0)
    assert source_of().read(docs, WIDTH) is features


def test_they_may_be_of_several_batches(docs, encoder):
    publish("encoder", docs[2:], 3.0)
    publish("encoder", docs[:2], 2.0)
    assert numbers(source_of(encoder).read(docs, WIDTH)) == [[2.0] * 2, [], [3.0] * 3]
    assert not encoder.asked


def test_without_a_name_the_last_encoder_that_published_is_read(docs, encoder):
    for name, number in (("one", 1.0), ("two", 2.0)):
        publish(name, docs, number)
    found = [numbers(source_of(encoder, upstream).read(docs, WIDTH))[0][0] for upstream in (None, "one", "two")]
    assert found == [2.0, 1.0, 2.0]


def test_where_one_is_missing_the_encoder_gives_all(docs, encoder):
    publish("encoder", docs[:2], 1.0)
    assert numbers(source_of(encoder).read(docs, WIDTH)) == [[9.0] * 2, [], [9.0] * 3]
    assert encoder.asked == [docs]


def test_those_of_another_encoder_are_missing_for_a_head_that_names_its_own(docs, encoder):
    publish("other", docs, 1.0)
    assert numbers(source_of(encoder, "encoder").read(docs[:1], WIDTH)) == [[9.0] * 2]


def test_what_is_learned_on_is_what_is_read_and_the_encoder_takes_the_gradient_itself(docs, encoder):
    features = publish("encoder", docs, 1.0)
    found, send = source_of(encoder).learn(docs, WIDTH)
    assert found is features
    assert send() is None


# --- which encoder


def test_the_last_encoder_that_was_linked_is_read(docs):
    nlp = spacy.blank("en")
    far, near = Encoder("far", nlp, 1.0), Encoder("near", nlp, 2.0)
    source = source_of(far)
    source.link(near)
    assert numbers(source.read(docs[:1], WIDTH)) == [[2.0] * 2]
    assert far.forgotten == [source.head]
    assert not near.forgotten


def test_linking_it_again_forgets_nothing():
    encoder = Encoder(nlp=spacy.blank("en"))
    source = source_of(encoder)
    source.link(encoder)
    assert not encoder.forgotten


def test_the_encoder_of_another_pipeline_keeps_a_head_that_was_sourced_from_it():
    first, second = Encoder(nlp=spacy.blank("en")), Encoder(nlp=spacy.blank("en"))
    source = source_of(first)
    source.link(second)
    assert source.encoder is second
    assert not first.forgotten


@pytest.mark.parametrize(
    ("upstream", "wanted"), [(None, "a bertft_encoder component"), ("big", "an encoder named 'big'")]
)
def test_without_an_encoder_it_says_what_is_missing(docs, upstream, wanted):
    said = rf"head 'ner' needs {wanted} before it in the pipeline\. Expected for example .*before=\"ner\""
    source = source_of(upstream=upstream)
    with pytest.raises(ConfigError, match=said):
        source.read(docs, WIDTH)
    with pytest.raises(ConfigError, match=said):
        source.learn(docs, WIDTH)
    with pytest.raises(ConfigError, match=said):
        source.start(None)


def test_it_says_what_there_is_in_the_pipeline():
    nlp = spacy.blank("en")
    with pytest.raises(ConfigError, match=r"Found: nothing\."):
        source_of().start(nlp)
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("bertft_ner", name="ner")
    with pytest.raises(ConfigError, match=r"Found: sentencizer, ner\."):
        nlp.get_pipe("ner").reads.source.start(nlp)


def test_an_encoder_behind_the_head_will_not_do(tiny_bert):
    nlp = blank(tiny_bert, {})
    nlp.add_pipe("bertft_ner", name="ner", before="encoder")
    with pytest.raises(ConfigError, match=r"before it in the pipeline\. Found: ner, encoder\."):
        nlp.initialize(lambda: examples(nlp))


def test_nor_will_one_that_has_come_behind_it(tiny_bert):
    nlp = blank(tiny_bert, {"ner": "bertft_ner"})
    source = nlp.get_pipe("ner").reads.source
    source.encoder = nlp.get_pipe("encoder")
    nlp._components.reverse()
    with pytest.raises(ConfigError, match=r"Found: ner, encoder\."):
        source.start(nlp)


# --- with a real one


def test_starting_loads_the_pretrained_weights_and_gives_width_and_pooler(tiny_bert, tiny_encoder):
    for folder, has_pooler in ((tiny_bert, True), (tiny_encoder("distilbert"), False)):
        nlp = blank(folder, {"ner": "bertft_ner"})
        width, pooler = nlp.get_pipe("ner").reads.source.start(nlp)
        assert width == nlp.get_pipe("encoder").encoder.width == 32
        assert (pooler is not None) is has_pooler


def test_docs_that_nobody_encoded_are_encoded_now_and_published(tiny_bert):
    nlp = initialized(tiny_bert)
    docs = [nlp.make_doc(text) for text in TEXTS]
    found = nlp.get_pipe("ner").reads.source.read(docs, 32)
    expected = nlp.get_pipe("encoder").predict(docs)
    torch.testing.assert_close(found.hidden, expected.hidden)
    assert all(feature_store.find(doc, "encoder").features is found for doc in docs)


def test_a_head_that_was_sourced_reads_the_encoder_beside_it(tiny_bert):
    source = trained(tiny_bert)
    nlp = blank(tiny_bert, {})
    nlp.initialize()
    nlp.add_pipe("ner", source=source)
    head = nlp.get_pipe("ner")
    assert head.reads.encoder is nlp.get_pipe("encoder")
    assert "ner" in nlp.get_pipe("encoder").listening_components
    assert "ner" in source.get_pipe("encoder").listening_components
    docs = [nlp.make_doc(text) for text, _, _ in ANNOTATED]
    torch.testing.assert_close(head.reads.source.read(docs, 32).hidden, nlp.get_pipe("encoder").predict(docs).hidden)


# --- tokens that changed


def test_docs_with_the_tokens_that_were_encoded_pass(docs):
    check_tokens("ner", docs, features_of(docs, 1.0))
    check_tokens("ner", [], features_of([], 1.0))


def test_docs_with_more_or_fewer_tokens_are_an_error(docs):
    features = features_of(docs, 1.0)
    with docs[2].retokenize() as retokenizer:
        retokenizer.merge(docs[2][:2])
    with pytest.raises(ConfigError, match=r"'ner' got a Doc of 2 tokens that had 3 .*Move that component"):
        check_tokens("ner", docs, features)
