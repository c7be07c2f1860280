"""Documents in batches to tokenise; that ids are right is tested with the cache."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from spacy_bertft.jobs.pretraining import tokenise
from spacy_bertft.jobs.pretraining.tokenise import bare, in_batches, tokenizer_hash

pytestmark = pytest.mark.touches_transformers


@given(st.lists(st.lists(st.text("ab", max_size=5), min_size=1, max_size=5), max_size=6), st.integers(1, 4))
def test_batches_hold_all_texts_and_say_where_documents_end(documents, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenise, "BATCH_TEXTS", most)
        batches = list(in_batches(documents))
    assert [text for texts, _ in batches for text in texts] == [text for document in documents for text in document]
    starts = np.cumsum([0, *(len(texts) for texts, _ in batches)])
    ends = [int(start) + end for start, (_, of_batch) in zip(starts, batches, strict=False) for end in of_batch]
    assert ends == np.cumsum([len(document) for document in documents], dtype=int).tolist()
    assert all(len(texts) <= most for texts, _ in batches)


def test_batches_of_long_texts_are_smaller(monkeypatch):
    monkeypatch.setattr(tokenise, "_BATCH_CHARACTERS", 5)
    assert [texts for texts, _ in in_batches([["aaa", "bbb", "c"], ["d"]])] == [["aaa", "bbb"], ["c", "d"]]


def test_a_bare_tokenizer_reads_special_tokens_as_text_and_changes_nothing_else(tiny_encoder):
    tokenizer = Tokenizer.from_file(str(tiny_encoder("bert-uncased") / "tokenizer.json"))
    tokenizer.enable_truncation(3)
    plain = bare(tokenizer)
    assert "[MASK]" not in plain.encode("a [MASK] b", add_special_tokens=False).tokens
    assert len(plain.encode("a b a b a b").tokens) > 3
    assert (tokenizer.truncation["max_length"], tokenizer.encode_special_tokens) == (3, False)
    assert tokenizer_hash(tokenizer) == tokenizer_hash(plain)
    other = Tokenizer.from_file(str(tiny_encoder("bert-cased") / "tokenizer.json"))
    assert tokenizer_hash(other) != tokenizer_hash(plain)
