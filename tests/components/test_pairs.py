"""Docs of two segments, and how the encoder reads them."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import spacy
import torch
from pipelines import blank
from spacy.tokens import Doc, DocBin
from spacy.training import Corpus, Example
from tiny import FAMILIES
from transformers import AutoModel, AutoTokenizer

from spacy_bertft import pair_doc, question_doc
from spacy_bertft.components.doc_texts import texts_of
from spacy_bertft.encoder.loading import load_folder
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.text.windows import cut_pairs

pytestmark = pytest.mark.touches_transformers

FIRST, SECOND = "Where does Anna live?", "Anna lives in Berlin, near the old garden."
LONG = "Bob Stone went to work in Rome yesterday. " * 12
PLAIN = "Nothing happened at home."


def load(folder, **given):
    return load_folder(folder, EncoderSettings(device="cpu", **given)).eval()


def english():
    return spacy.blank("en")


def with_pair_tokenizer():
    return spacy.blank("en", config={"nlp": {"tokenizer": {"@tokenizers": "spacy-bertft.PairTokenizer.v1"}}})


def plain_forward(folder, first, second):
    """Hidden rows of a pair as transformers has them, and those of its two texts among them."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    # Asked for, since the tokenizer of ALBERT in transformers 5 leaves them out.
    tells = getattr(model.config, "type_vocab_size", 0) > 1
    batch = tokenizer(first, second, return_tensors="pt", return_token_type_ids=tells)
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state[0]
    return hidden, hidden[[place for place, text in enumerate(batch.sequence_ids(0)) if text is not None]]


# --- the Doc


def test_a_pair_is_two_texts_with_a_tab_between():
    doc = pair_doc(english(), FIRST, SECOND)
    assert doc.text == f"{FIRST}\t{SECOND}"
    assert [span.text for span in doc.spans["segments"]] == [FIRST, SECOND]
    assert [token.text for token in doc][5:8] == ["\t", "Anna", "lives"]


def test_a_doc_brings_its_own_tokens():
    nlp = english()
    context = Doc(nlp.vocab, words=["Anna lives", "in", "Berlin"], spaces=[True, True, False])
    doc = question_doc(nlp, FIRST, context)
    assert [token.text for token in doc.spans["segments"][1]] == ["Anna lives", "in", "Berlin"]


@pytest.mark.parametrize("text", [f"{FIRST}\t{SECOND}", f"{FIRST} \t{SECOND}\tand more ", "a\tb"])
def test_the_pair_tokenizer_makes_the_same_doc(text, tmp_path):
    nlp = with_pair_tokenizer()
    first, _, second = text.partition("\t")
    nlp.to_disk(tmp_path)
    for pipeline in (nlp, spacy.load(tmp_path)):
        found, expected = pipeline(text), pair_doc(english(), first, second)
        assert found.text == expected.text == text
        assert [token.text for token in found] == [token.text for token in expected]
        assert [(it.start, it.end) for it in found.spans["segments"]] == [
            (it.start, it.end) for it in expected.spans["segments"]
        ]


@pytest.mark.parametrize("text", ["no tab", "\tfirst is empty", "second is empty\t ", "", "\t"])
def test_the_pair_tokenizer_leaves_other_texts_as_they_are(text):
    doc = with_pair_tokenizer()(text)
    assert doc.text == text
    assert "segments" not in doc.spans
    assert [token.text for token in doc] == [token.text for token in english()(text)]


def test_segments_survive_docbin_and_spacys_corpus(tmp_path):
    nlp = with_pair_tokenizer()
    doc = pair_doc(nlp, FIRST, SECOND)
    doc.cats = {"same": 1.0}
    DocBin(docs=[doc]).to_disk(tmp_path / "train.spacy")
    (eg,) = Corpus(tmp_path / "train.spacy")(nlp)
    for side in (eg.reference, eg.predicted):
        assert [span.text for span in side.spans["segments"]] == [FIRST, SECOND]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda nlp: pair_doc(nlp, "", "b"), r"The first of two segments is empty: ''.*at least one word"),
        (lambda nlp: pair_doc(nlp, "a", " \n"), r"The second of two segments is empty: ' \\n'"),
        (lambda nlp: pair_doc(nlp, "a", None), r"The second of two segments is a NoneType"),
        (lambda nlp: pair_doc(nlp, "a\tb", "c"), r"holds a tab.*Write a space"),
        (lambda nlp: question_doc(nlp, " ", "c"), "The question is empty"),
        (lambda nlp: question_doc(nlp, "Who?", ""), "The context is empty"),
    ],
)
def test_texts_that_make_no_pair_are_refused(make, said):
    with pytest.raises(DataError, match=said):
        make(english())


@pytest.mark.parametrize("spans", [[(0, 2)], [(0, 2), (2, 4), (4, 5)], [(0, 3), (2, 5)], [(0, 0), (1, 2)]])
def test_spans_that_are_no_pair_are_an_error(tiny_bert, spans):
    nlp = blank(tiny_bert, {})
    nlp.initialize()
    doc = nlp.make_doc(SECOND)
    doc.spans["segments"] = [doc[start:end] for start, end in spans]
    with pytest.raises(DataError, match=r"Expected two spans.*another key"):
        nlp.get_pipe("encoder").predict([doc])


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
def test_copies_of_the_pair_tokenizer_work(how):
    nlp = with_pair_tokenizer()
    copied = pickle.loads(pickle.dumps(nlp.tokenizer)) if how == "pickle" else copy.deepcopy(nlp.tokenizer)
    doc = copied(f"{FIRST}\t{SECOND}")
    assert [span.text for span in doc.spans["segments"]] == [FIRST, SECOND]
    assert copied.rules == nlp.tokenizer.rules


def test_the_pair_tokenizer_keeps_the_tokenizer_of_the_language():
    tokenizer = {"@tokenizers": "spacy-bertft.PairTokenizer.v1"}
    nlp = spacy.blank("zh", config={"nlp": {"tokenizer": tokenizer}})
    doc = nlp("我喜欢北京\t东京")
    assert [token.text for token in doc] == [
        *(token.text for token in spacy.blank("zh")("我喜欢北京")),
        "\t",
        "东",
        "京",
    ]


def test_the_pair_tokenizer_takes_another_one_inside():
    tokenizer = {"@tokenizers": "spacy-bertft.PairTokenizer.v1", "tokenizer": {"@tokenizers": "spacy.CharsTokenizer"}}
    spacy.registry.tokenizers("spacy.CharsTokenizer")(lambda: lambda nlp: Characters(nlp.vocab))
    nlp = spacy.blank("en", config={"nlp": {"tokenizer": tokenizer}})
    assert [token.text for token in nlp("ab\tc")] == ["a", "b", "\t", "c"]


class Characters:
    def __init__(self, vocab):
        self.vocab = vocab

    def __call__(self, text):
        return Doc(self.vocab, words=list(text), spaces=[False] * len(text))


# --- the forward


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("grad", [False, True], ids=["prediction", "training"])
def test_a_pair_gives_what_transformers_gives(tiny_encoder, family, grad):
    folder = tiny_encoder(family)
    nlp = english()
    docs = [pair_doc(nlp, FIRST, SECOND), nlp(PLAIN), pair_doc(nlp, SECOND, FIRST), pair_doc(nlp, "a", "b")]
    with torch.set_grad_enabled(grad):
        features = load(folder)(texts_of(docs))
    ends = np.cumsum(features.subword_counts)
    for place, (first, second) in {0: (FIRST, SECOND), 2: (SECOND, FIRST), 3: ("a", "b")}.items():
        whole, rows = plain_forward(folder, first, second)
        own = features.rows[ends[place] - features.subword_counts[place] : ends[place]]
        torch.testing.assert_close(features.hidden[own].detach(), rows, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(features.hidden[features.cls_rows[place]].detach(), whole[0], rtol=1e-4, atol=2e-5)
    with torch.no_grad():
        alone = load(folder)(texts_of([docs[1]]))
    own = features.rows[ends[0] : ends[1]]
    torch.testing.assert_close(features.hidden[own].detach(), alone.hidden[alone.rows], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", ["bert-uncased", "electra", "albert"])
def test_segments_are_told_apart(tiny_encoder, family):
    """Otherwise the comparison above would not show forgotten segment ids."""
    folder = tiny_encoder(family)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(FIRST, SECOND, return_tensors="pt", return_token_type_ids=True)
    with torch.no_grad():
        told, not_told = model(**batch), model(input_ids=batch["input_ids"])
    assert (told.last_hidden_state - not_told.last_hidden_state).abs().max() > 0.1


@pytest.mark.parametrize("family", ["bert-uncased", "roberta", "modernbert"])
def test_the_windows_of_a_long_pair_are_pairs(tiny_encoder, family):
    encoder = load(tiny_encoder(family))
    doc = pair_doc(english(), FIRST, LONG)
    with torch.no_grad():
        features = encoder(texts_of([doc]))
    assert features.window_counts[0] > 2
    assert len(set(features.rows.tolist())) == len(features.rows) == features.subword_counts.sum()
    # Each window as transformers has it: the question and a stretch of the context.
    subwords = encoder.splitter.split(texts_of([doc]))
    windows = cut_pairs(
        subwords.counts,
        subwords.firsts,
        size=encoder.window - encoder.n_special,
        pair_size=encoder.pair_size,
        overlap=encoder.overlap,
    )
    model = AutoModel.from_pretrained(tiny_encoder(family)).eval()
    tells = getattr(model.config, "type_vocab_size", 0) > 1
    specials, pieces = encoder.specials, windows.pieces
    question = subwords.ids[: subwords.firsts[0]]
    for window, (start, end) in enumerate(zip(pieces.starts, pieces.ends, strict=True)):
        ids = [*specials.prefix, *question, *specials.middle, *subwords.ids[start:end], *specials.suffix]
        before = len(ids) - (end - start) - len(specials.suffix)
        types = torch.tensor([[int(place >= before) for place in range(len(ids))]])
        with torch.no_grad():
            alone = model(torch.tensor([ids]), **({"token_type_ids": types} if tells else {})).last_hidden_state[0]
        kept = np.arange(pieces.keep_starts[window], pieces.keep_ends[window])
        found = features.hidden[features.rows[kept]]
        torch.testing.assert_close(found, alone[before + kept - start], rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(features.hidden[features.cls_rows[window]], alone[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("first", "second"), [(FIRST, LONG), (LONG, FIRST), (LONG, LONG)])
def test_long_pairs_are_shortened_only_if_that_is_asked_for(tiny_bert, first, second):
    doc = pair_doc(english(), first, second)
    with torch.no_grad():
        whole = load(tiny_bert)(texts_of([doc]))
        short = load(tiny_bert, long_pairs="shorten")(texts_of([doc]))
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    batch = tokenizer(first, second, truncation="longest_first", max_length=64)
    assert whole.window_counts[0] > 1
    assert short.window_counts[0] == 1
    assert short.subword_counts[0] == len(batch["input_ids"]) - 3
    assert (whole.token_subword_counts > 0).sum() == len(doc) - 1  # all but the tab
    assert short.token_counts[0] == len(doc)
    _, rows = plain_forward_of(tiny_bert, batch)
    torch.testing.assert_close(short.hidden[short.rows], rows, rtol=1e-4, atol=2e-5)


def plain_forward_of(folder, batch):
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = model(**{name: torch.tensor([values]) for name, values in batch.items()}).last_hidden_state[0]
    return hidden, hidden[[place for place, text in enumerate(batch.sequence_ids(0)) if text is not None]]


def test_one_context_beside_many_questions_is_split_into_subwords_once(tiny_bert, monkeypatch):
    encoder, nlp = load(tiny_bert), english()
    context = nlp.make_doc(SECOND)
    docs = [question_doc(nlp, question, context) for question in (FIRST, "Who lives in Berlin?", "Where is it?")]
    seen = []
    plain = encoder.splitter.tokenize
    monkeypatch.setattr(encoder.splitter, "tokenize", lambda texts: seen.extend(texts) or plain(texts))
    subwords = encoder.splitter.split(texts_of(docs))
    assert len(seen) == 4
    assert subwords.counts.tolist() == [encoder.splitter.split(texts_of([doc])).counts[0] for doc in docs]


def test_tokens_own_the_subwords_of_their_segment(tiny_encoder):
    nlp = english()
    swapped = pair_doc(nlp, FIRST, SECOND)
    swapped.spans["segments"] = list(reversed(list(swapped.spans["segments"])))
    encoder = load(tiny_encoder("roberta"))
    for doc in (pair_doc(nlp, FIRST, SECOND), swapped):
        texts = texts_of([doc])
        subwords, features = encoder.splitter.split(texts), encoder(texts)
        owned = np.split(features.token_subwords, np.cumsum(features.token_subword_counts)[:-1])
        for token, own in zip(doc, owned, strict=True):
            text = "".join(doc.text[subwords.starts[one] : subwords.ends[one]] for one in own).strip()
            assert text == token.text.strip()


def test_a_window_too_small_for_a_pair_is_an_error(tiny_bert):
    encoder = load(tiny_bert, window=4, overlap=0)
    with pytest.raises(ConfigError, match=r"window of 4 subwords can't hold two segments"):
        encoder(texts_of([pair_doc(english(), "a", "b")]))


# --- both orders


def test_both_orders_are_trained_on():
    nlp = with_pair_tokenizer()
    doc = nlp(f"{FIRST}\t{SECOND}")
    doc.cats = {"same": 1.0}
    augment = spacy.registry.augmenters.get("spacy-bertft.both_orders.v1")()
    given, swapped = augment(nlp, Example(nlp.make_doc(doc.text), doc))
    assert [span.text for span in given.predicted.spans["segments"]] == [FIRST, SECOND]
    assert [span.text for span in swapped.predicted.spans["segments"]] == [SECOND, FIRST]
    assert given.reference.cats == swapped.reference.cats == {"same": 1.0}
    plain = Example(nlp.make_doc(PLAIN), nlp.make_doc(PLAIN))
    assert len(list(augment(nlp, plain))) == 1
