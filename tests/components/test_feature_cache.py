"""Features of a frozen encoder: computed once, the same as without a cache, and under a limit."""

from __future__ import annotations

import numpy as np
import pytest
import spacy
import torch
from pipelines import ANNOTATED, HEADS, examples, initialized, module_of, weights
from spacy.tokens import Doc

from spacy_bertft.components.doc_texts import texts_of
from spacy_bertft.components.feature_cache import FeatureCache
from spacy_bertft.components.pairs import pair_doc
from spacy_bertft.encoder.features import split
from spacy_bertft.learning.tuning import FrozenTuning, FullTuning

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

TEXTS = [text for text, _, _ in ANNOTATED] + ["", "   ", "the small cat sat on the mat " * 30]
FROZEN = {"@misc": "spacy-bertft.FrozenTuning.v1"}


def frozen(folder, **settings):
    return initialized(folder, component={"tuning": FROZEN | settings})


class Counting:
    """An encoder's prediction, and the texts that it was asked for."""

    def __init__(self, pipe):
        self.texts = []
        self._predict = pipe.encoder.predict
        pipe.encoder.predict = self

    def __call__(self, texts):
        self.texts += texts.texts
        return self._predict(texts)


def assert_same(found, expected):
    for name in ("subword_counts", "token_subword_counts", "token_counts", "window_counts", "token_subwords"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    torch.testing.assert_close(found.hidden[found.rows], expected.hidden[expected.rows])
    torch.testing.assert_close(found.hidden[found.cls_rows], expected.hidden[expected.cls_rows])


def test_the_parts_of_a_batch_are_the_features_of_each_doc(tiny_bert):
    nlp = initialized(tiny_bert, window=32)
    docs = [nlp.make_doc(text) for text in TEXTS]
    encoder = nlp.get_pipe("encoder")
    for part, doc in zip(split(encoder.predict(docs)), docs, strict=True):
        assert_same(part, encoder.predict([doc]))


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_docs_are_computed_once_in_any_order_and_mixture(tiny_bert, place):
    encoder = initialized(tiny_bert).get_pipe("encoder")
    nlp = spacy.blank("en")
    nlp.vocab = encoder.vocab
    cache, asked = FeatureCache(100, place), []

    def encode(docs):
        asked.extend(doc.text for doc in docs)
        return encoder.predict(docs)

    for texts in (TEXTS[:4], TEXTS[2:6], TEXTS[::-1], TEXTS[1:2] * 3, TEXTS):
        docs = [
            Doc(encoder.vocab, words=[t.text for t in nlp(text)], spaces=[bool(t.whitespace_) for t in nlp(text)])
            for text in texts
        ]
        assert_same(cache.features(docs, encode), encoder.predict(docs))
    assert sorted(asked) == sorted(doc.text for doc in map(nlp, TEXTS))


def test_segments_and_tokens_belong_to_the_content(tiny_bert):
    nlp = initialized(tiny_bert)
    encoder, cache = nlp.get_pipe("encoder"), FeatureCache(100)
    pair = pair_doc(nlp, "a dog", "a cat")
    plain = Doc(nlp.vocab, words=[t.text for t in pair], spaces=[bool(t.whitespace_) for t in pair])
    other = Doc(nlp.vocab, words=["a do", "g"], spaces=[False, False])
    same_text = Doc(nlp.vocab, words=["a", "dog"], spaces=[True, False])
    for doc in (pair, plain, other, same_text):
        assert_same(cache.features([doc], encoder.predict), encoder.predict([doc]))


def test_beyond_the_limit_texts_are_computed_again(tiny_bert, caplog):
    nlp = initialized(tiny_bert)
    encoder, cache, asked = nlp.get_pipe("encoder"), FeatureCache(1), []
    docs = [nlp.make_doc("the small cat sat on the mat " * 500 + str(number)) for number in range(4)]  # 0.5 MB each

    def encode(some):
        asked.extend(some)
        return encoder.predict(some)

    with caplog.at_level("INFO", logger="spacy"):
        for _ in range(2):
            for doc in docs:
                assert_same(cache.features([doc], encode), encoder.predict([doc]))
    assert 4 < len(asked) < 8
    assert caplog.text.count("cache of the frozen encoder is full (1 MiB") == 1


def test_epochs_after_the_first_compute_nothing(tiny_bert):
    nlp = frozen(tiny_bert)
    asked = Counting(nlp.get_pipe("encoder"))
    optimizer = nlp.create_optimizer()
    for _ in range(3):
        nlp.update(examples(nlp), sgd=optimizer)
        nlp.evaluate(examples(nlp)[:2])
    assert len(asked.texts) == len(ANNOTATED)
    plain = frozen(tiny_bert, cache_mb=0)
    asked = Counting(plain.get_pipe("encoder"))
    optimizer = plain.create_optimizer()
    for _ in range(3):
        plain.update(examples(plain), sgd=optimizer)
    assert len(asked.texts) == 3 * len(ANNOTATED)


def test_training_is_the_same_with_and_without_it(tiny_bert):
    def trained(**settings):
        nlp = frozen(tiny_bert, **settings)
        optimizer = nlp.create_optimizer()
        torch.manual_seed(0)
        for start in (0, 2, 0, 4, 1):
            nlp.update(examples(nlp)[start : start + 3], sgd=optimizer)
        return {name: weights(nlp, name) for name in HEADS}

    expected = trained(cache_mb=0)
    for settings in ({}, {"cache": "disk"}):
        for name, values in trained(**settings).items():
            for key, value in values.items():
                torch.testing.assert_close(value, expected[name][key])


def test_a_pipeline_that_is_not_trained_keeps_nothing(tiny_bert, tmp_path):
    nlp = frozen(tiny_bert)
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    asked = Counting(loaded.get_pipe("encoder"))
    for _ in range(2):
        list(loaded.pipe(TEXTS[:3]))
    assert len(asked.texts) == 6


def test_an_encoder_in_frozen_components_is_cached_until_it_is_trained(tiny_bert):
    nlp = initialized(tiny_bert)
    pipe = nlp.get_pipe("encoder")
    asked = Counting(pipe)
    optimizer = nlp.create_optimizer()
    optimizer.learn_rate = 1e-2
    for _ in range(2):
        nlp.update(examples(nlp), sgd=optimizer, exclude=["encoder"])
    assert len(asked.texts) == len(ANNOTATED)
    before = nlp(TEXTS[0]).cats
    nlp.update(examples(nlp), sgd=optimizer)
    docs = [nlp.make_doc(text) for text in TEXTS[:2]]
    torch.testing.assert_close(pipe.predict(docs).hidden, module_of(nlp, "encoder").predict(texts_of(docs)).hidden)
    assert nlp(TEXTS[0]).cats != before


def test_what_a_tuning_asks_for():
    assert FeatureCache.of(FrozenTuning(cache_mb=0)) is None
    assert FeatureCache.of(FrozenTuning(cache_mb=3)) is not None
    assert FeatureCache.of(FullTuning()) is not None  # in frozen_components


def test_weights_that_change_by_any_way_end_it(tiny_bert):
    nlp = initialized(tiny_bert)
    pipe, optimizer = nlp.get_pipe("encoder"), nlp.create_optimizer()
    optimizer.learn_rate = 1e-2
    docs = [nlp.make_doc(text) for text in TEXTS[:2]]

    def assert_current():
        found = pipe.predict(docs)
        assert_same(found, module_of(nlp, "encoder").predict(texts_of(docs)))
        return found.hidden[found.rows]

    nlp.update(examples(nlp), sgd=optimizer, exclude=["encoder"])
    before = assert_current()
    with torch.no_grad():
        next(pipe.encoder.model.parameters()).add_(1.0)
    assert not torch.allclose(assert_current(), before)
    nlp.update(examples(nlp), sgd=False)
    list(nlp.pipe(TEXTS[:2]))
    nlp.update(examples(nlp), sgd=False, exclude=["encoder"])
    assert_current()
    for _, component in nlp.pipeline:
        component.finish_update(optimizer)
    assert_current()


def test_on_disk_the_memory_is_free(tiny_bert):
    encoder = initialized(tiny_bert).get_pipe("encoder")
    cache = FeatureCache(100, "disk")
    cache.features([Doc(encoder.vocab, words=["a", "dog"])], encoder.predict)
    ((features, _, _),) = cache._kept.values()
    assert features.hidden.untyped_storage().nbytes() == 0


def test_no_docs(tiny_bert):
    nlp = frozen(tiny_bert)
    nlp.update(examples(nlp), sgd=False)
    assert len(nlp.get_pipe("encoder").predict([]).token_counts) == 0
    nlp.get_pipe("encoder").update([])


def test_spacys_own_components_on_a_frozen_encoder_use_it(tiny_bert):
    nlp = frozen(tiny_bert)
    model = {
        "@architectures": "spacy.Tagger.v2",
        "tok2vec": {"@architectures": "spacy-bertft.Listener.v1"},
    }
    nlp.add_pipe("tagger", config={"model": model})
    golds = examples(nlp)
    for gold in golds:
        for token in gold.reference:
            token.tag_ = "X" if token.i % 2 else "Y"
    nlp.initialize(lambda: golds)
    nlp.update(golds, sgd=False, exclude=["encoder", "ner", "textcat"])
    assert nlp.get_pipe("encoder")._cache is not None
