"""Texts and tiny encoders that several tests use, and transformers' own forward to compare with."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import spacy
import torch
from tiny import FAMILIES as TINY
from tiny import PACKED
from transformers import AutoModel, AutoTokenizer

from spacy_bertft import compat
from spacy_bertft.encoder.checkpoint import Checkpoint
from spacy_bertft.encoder.exported import load_exported
from spacy_bertft.encoder.features import as_torch
from spacy_bertft.encoder.loading import load_folder
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.engines.family_names import FAMILIES
from spacy_bertft.engines.family_weights import read_net
from spacy_bertft.engines.fused import FusedEngine
from spacy_bertft.engines.int8 import find_inputs
from spacy_bertft.engines.onnx_graph import build
from spacy_bertft.text.subwords import Texts

TRANSFORMERS_5 = compat.transformers_version().major >= 5
CAN_PACK = PACKED if TRANSFORMERS_5 else ()
# Those that the engines of our own know.
KNOWN = [family for family in TINY if family.removesuffix("-cased").removesuffix("-uncased") in FAMILIES]
# Of these, those whose layers can be dropped: they have weights of their own, and all are of one kind.
LAYERED = [family for family in KNOWN if family not in ("albert", "modernbert")]
# Of those known, the ones that an engine of our own trains, too.
TRAINED = [family for family in KNOWN if family not in ("albert", "deberta-v2", "modernbert", "mpnet")]
CPU = {"device": "cpu"}

SENTENCE = "Anna lives in Berlin and works in the office near the old garden."
# Mixed lengths, an empty text, one subword alone, and two of equal length.
MIXED = [SENTENCE, "", "a", "Bob Stone went to Rome.", "Die Straße führt nach München.", "Bob Stone went to Rome."]
LONG = " ".join([SENTENCE, "Où est la bibliothèque?", "Мама мыла раму."] * 6)
ODD = {
    "empty": "",
    "spaces": "   ",
    "line break and tab": "\n\t",
    "control characters": "\x00\x01\x7f",
    "control characters inside": "An\x00na \x01 lives\x7f",
    "emoji with joiners": "a 👩‍👩‍👧 family 🏳️‍🌈!",
    "Hebrew": "שלום עולם, Berlin",
    "Arabic": "مرحبا بالعالم",
    "combining marks": "cafe\u0301 E\u0301le\u0300ve n\u0303",
    "Chinese and Japanese": "東京は日本の首都です。我喜欢北京",
    "zero width": "zero\u200bwidth \u200d \ufeff joined\u2060",
    "astral characters": "𝔄𝔫𝔫𝔞 𐍈 𝟙𝟚",
    "ligatures and fractions": "ﬁne ½ ™ ㍿",
    "many spaces": "  Anna   lives \n\n here  ",
    "a very long word": "abcdefghij" * 500,
}


def encoder_of(folder, **settings):
    return load_folder(folder, EncoderSettings(**(CPU | settings))).eval()


def texts_of(texts):
    """Texts with the tokens that spaCy finds in them."""
    nlp = spacy.blank("xx")
    docs = [nlp(text) for text in texts]
    tokens = [token for doc in docs for token in doc]
    return Texts(
        texts=[doc.text for doc in docs],
        token_starts=np.array([token.idx for token in tokens], dtype=np.int64),
        token_ends=np.array([token.idx + len(token) for token in tokens], dtype=np.int64),
        token_counts=np.array([len(doc) for doc in docs], dtype=np.int64),
    )


def net_of(encoder):
    return read_net(encoder.shape, encoder.at_rest().weights)


def inputs_of(encoder, texts=(SENTENCE, LONG)):
    return find_inputs(net_of(encoder), encoder.batches(texts, budget=FusedEngine.budget))


def sums_of_pairs(whole):
    """The sum of the weights of one sign in each pair of neighbouring inputs. (in, out) -> (pairs, out)."""
    pairs = np.pad(whole.astype(np.int64), ((0, len(whole) % 2), (0, 0))).reshape(-1, 2, whole.shape[1])
    return np.maximum(np.maximum(pairs, 0).sum(axis=1), np.maximum(-pairs, 0).sum(axis=1))


def exported(encoder, folder, *, int8=False):
    """The encoder for ONNX Runtime, from a folder."""
    graph = build(net_of(encoder), inputs_of(encoder) if int8 else None)
    Checkpoint(encoder.at_rest().files, graph=graph).write(folder)
    return load_exported(folder, EncoderSettings(backend="onnxruntime"))


@torch.no_grad()
def rows_of(encoder, texts):
    features = as_torch(encoder.predict(texts_of(texts)))
    return features.hidden[[*features.rows, *features.cls_rows]]


@torch.no_grad()
def plain_forward(folder, texts):
    """Hidden rows of each text, special subwords included, by transformers alone."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    return [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in texts]


def split(values, counts):
    return torch.split(values, counts.tolist())


def assert_near(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def error_of(found, expected):
    """The size of the difference, as a share of the size of what is expected."""
    return float((found - expected).norm() / expected.norm())


def rewrite(path, **changes):
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | changes), encoding="utf-8")


def in_threads(function, n=8):
    """The results of a function that `n` threads call with their number at the same time."""
    barrier = Barrier(n)

    def call(number):
        barrier.wait(timeout=60)
        return function(number)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(call, range(n)))
