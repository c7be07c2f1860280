"""`bertft_trf_data`, compared with transformers' own output and read as code for spacy-transformers reads it."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import spacy
import torch
from encoders import LONG, SENTENCE
from pipelines import TEXTS, annotations, blank, initialized, trained
from spacy.tokens import Doc
from transformers import AutoModel, AutoTokenizer

from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.errors import ConfigError

pytestmark = pytest.mark.touches_transformers

FAMILIES = ("bert-uncased", "roberta", "distilbert", "albert")


def with_data(encoder, heads=None):
    nlp = initialized(encoder, heads or {"ner": "bertft_ner"})
    nlp.add_pipe("bertft_trf_data")
    return nlp


@pytest.fixture(scope="module")
def nlp(tiny_bert):
    return with_data(tiny_bert)


@torch.no_grad()
def by_transformers(folder, text):
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(text, return_tensors="pt")
    return tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist()), model(**inputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_arrays_are_those_of_transformers(family, tiny_encoder):
    folder = tiny_encoder(family)
    data = with_data(folder)(SENTENCE)._.trf_data
    strings, expected = by_transformers(folder, SENTENCE)
    hidden = expected.last_hidden_state.numpy()[:, :-1]  # without the special subword at the end
    np.testing.assert_allclose(data.model_output.last_hidden_state, hidden, rtol=1e-4, atol=1e-4)
    assert data.tensors[0] is data.model_output["last_hidden_state"]
    assert data.width == hidden.shape[-1]
    assert data.wordpieces.strings == [strings[:-1]]
    assert data.wordpieces.lengths == [hidden.shape[1]]
    assert data.wordpieces.input_ids.shape == hidden.shape[:2]
    if family != "distilbert":
        np.testing.assert_allclose(data.tensors[-1], expected.pooler_output.numpy(), rtol=1e-4, atol=1e-4)
    else:
        assert len(data.tensors) == 1
        assert not hasattr(data.model_output, "pooler_output")


def test_the_rows_of_tokens_are_those_of_their_subwords(nlp):
    doc = nlp("  Anna lives in unbelievable automobiles ")
    data = doc._.trf_data
    assert data.align.lengths.tolist() == [0, *(len(of_token) for of_token in subwords(nlp, doc)[1:])]
    for token, expected in zip(doc, subwords(nlp, doc), strict=True):
        places = data.align[token.i].data.flatten()
        assert [data.wordpieces.strings[0][place] for place in places] == expected


def subwords(nlp, doc):
    tokenizer = nlp.get_pipe("encoder").encoder.tokenizer
    return [tokenizer.encode(token.text, add_special_tokens=False).tokens for token in doc]


def test_vectors_as_the_documentation_of_spacy_computes_them(nlp):
    """Of spans by the rows of their tokens, of texts by the pooled output."""
    doc = nlp(TEXTS[1])
    span = doc[1:4]
    indices = span.doc._.trf_data.align[span.start : span.end].data.flatten()
    width = doc._.trf_data.tensors[0].shape[-1]
    rows = doc._.trf_data.tensors[0].reshape(-1, width)[indices]
    assert rows.shape == (sum(len(of_token) for of_token in subwords(nlp, span)), width)
    assert doc._.trf_data.tensors[-1].mean(axis=0).shape == (width,)


def test_each_subword_of_a_long_text_has_one_row(nlp):
    doc = nlp(LONG)
    data = doc._.trf_data
    n_subwords = len(nlp.get_pipe("encoder").encoder.tokenizer.encode(LONG, add_special_tokens=False).ids)
    assert data.model_output.last_hidden_state.shape == (1, 1 + n_subwords, 32)
    assert data.wordpieces.lengths == [1 + n_subwords]
    nlp.get_pipe("encoder").set_tensor = True
    tensor = nlp(LONG).tensor
    nlp.get_pipe("encoder").set_tensor = False
    rows = data.tensors[0][0]
    for token in doc:
        np.testing.assert_allclose(rows[data.align[token.i].data.flatten()].mean(axis=0), tensor[token.i], atol=1e-5)


@pytest.mark.parametrize("text", ["", "   "])
def test_a_text_without_subwords_has_the_special_one(nlp, text):
    doc = nlp(text)
    assert doc._.trf_data.tensors[0].shape == (1, 1, 32)
    assert doc._.trf_data.align.lengths.tolist() == [0] * len(doc)


def test_heads_find_the_same_and_the_encoder_runs_once(tiny_bert, monkeypatch):
    nlp = trained(tiny_bert)
    expected = [annotations(doc) for doc in nlp.pipe(TEXTS)]
    nlp.add_pipe("bertft_trf_data", before="ner")
    encoded = []
    predict = Encoder.predict
    monkeypatch.setattr(Encoder, "predict", lambda self, texts: encoded.extend(texts.texts) or predict(self, texts))
    docs = list(nlp.pipe(TEXTS))
    assert [annotations(doc) for doc in docs] == expected
    assert encoded == TEXTS
    assert all(doc._.trf_data.tensors for doc in docs)


def test_it_can_be_removed_from_a_doc_and_is_not_saved_with_it(nlp):
    doc = nlp(TEXTS[1])
    copy = Doc(nlp.vocab).from_bytes(doc.to_bytes())
    assert copy._.trf_data is None
    assert [ent.text for ent in copy.ents] == [ent.text for ent in doc.ents]
    doc._.trf_data = None
    assert doc._.trf_data is None


def test_a_saved_pipeline_sets_it(nlp, tmp_path):
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    np.testing.assert_allclose(loaded(SENTENCE)._.trf_data.tensors[0], nlp(SENTENCE)._.trf_data.tensors[0], atol=1e-6)
    assert spacy.load(tmp_path, disable=["encoder"])(SENTENCE)._.trf_data is not None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_pass_it(nlp, method, monkeypatch):
    monkeypatch.setattr("spacy.language.mp", multiprocessing.get_context(method))
    docs = list(nlp.pipe(TEXTS, n_process=2))
    assert [doc.text for doc in docs] == TEXTS


def test_the_encoder_can_be_named(tiny_bert):
    nlp = blank(tiny_bert, {})
    nlp.add_pipe("bertft_trf_data", config={"encoder": "encoder"})
    assert nlp.get_pipe("encoder").listening_components == ["bertft_trf_data"]


def test_without_an_encoder_it_says_what_is_missing():
    nlp = spacy.blank("en")
    nlp.add_pipe("bertft_trf_data")
    with pytest.raises(ConfigError, match="needs a bertft_encoder component before it in the pipeline"):
        nlp("Anna")
