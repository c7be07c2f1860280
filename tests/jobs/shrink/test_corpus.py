"""Texts of every kind of file, and what their subwords are counted as."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import spacy
from spacy.tokens import DocBin
from tokenizers import Tokenizer, models, pre_tokenizers

from spacy_bertft import pair_doc
from spacy_bertft.errors import DataError
from spacy_bertft.jobs.shrink.corpus import Changed, compare, count, read_texts
from spacy_bertft.text.subwords import Splitter

WORDS = ["[UNK]", "a", "b", "c", "d"]


@pytest.fixture(scope="module")
def splitter():
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Splitter(tokenizer)


def counted(splitter, *paths, **options):
    counts = count(splitter, read_texts(paths, **options))
    return {word: number for word, number in zip(WORDS, counts.tolist(), strict=True) if number}


def written(path, content):
    path.write_text(content if isinstance(content, str) else "\n".join(map(json.dumps, content)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("raw.txt", "a b\n\na c\n"),
        ("raw.jsonl", [{"text": "a b"}, {"text": "a c"}]),
        ("labelled.jsonl", [{"text": "a b", "label": "x"}, {"text": "a c", "label": "y"}]),
        ("pairs.jsonl", [{"first": "a", "second": "b a", "label": "x"}, {"first": "c", "second": "d", "label": "y"}]),
        ("table.csv", "text,label\na b,x\na c,y\n"),
        ("ner.txt", "a O\nb B-X\n\na O\nc O\n"),  # CoNLL, by its content
    ],
)
def test_files_of_texts(splitter, tmp_path, name, content):
    found = counted(splitter, written(tmp_path / name, content))
    assert found == {"a": 2, "b": 1, "c": 1, **({"d": 1} if name == "pairs.jsonl" else {})}


def test_docbins_and_their_segments(splitter, tmp_path):
    nlp = spacy.blank("en")
    DocBin(docs=[nlp("a b\n\n  d"), pair_doc(nlp, "a", "c")], store_user_data=True).to_disk(tmp_path / "one.spacy")
    assert counted(splitter, tmp_path / "one.spacy") == {"a": 2, "b": 1, "c": 1, "d": 1}
    assert counted(splitter, tmp_path) == {"a": 2, "b": 1, "c": 1, "d": 1}


def test_several_files_folders_and_packed_ones(splitter, tmp_path):
    (tmp_path / "texts").mkdir()
    written(tmp_path / "texts/one.txt", "a")
    (tmp_path / "texts/two.txt.gz").write_bytes(gzip.compress(b"b"))
    other = written(tmp_path / "three.jsonl", [{"body": "c"}])
    assert counted(splitter, tmp_path / "texts", other, text_key="body") == {"a": 1, "b": 1, "c": 1}


def test_unknown_words_count_too(splitter, tmp_path):
    assert counted(splitter, written(tmp_path / "raw.txt", "a zzz [UNK]")) == {"a": 1, "[UNK]": 4}


def test_batches_of_texts_add_up(splitter, tmp_path):
    path = written(tmp_path / "raw.txt", "a b\n" * 600)
    assert [len(texts.texts) for texts in read_texts([path])] == [256, 256, 88]
    assert counted(splitter, path) == {"a": 600, "b": 600}


def test_texts_with_a_dropped_subword_are_changed(splitter, tmp_path):
    path = written(tmp_path / "raw.txt", "a b\na c\na c c\nb\n")
    found = compare(splitter, np.array([0, 1, 2]), read_texts([path]))
    assert found == Changed(texts=4, changed_texts=2, subwords=8, kept_subwords=5)
    assert found.share_changed == 0.5
    assert found.share_kept == 5 / 8
    assert compare(splitter, np.arange(5), read_texts([path])).share_changed == 0


def test_without_texts_shares_are_0():
    assert Changed(0, 0, 0, 0).share_changed == Changed(0, 0, 0, 0).share_kept == 0


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.spacy", None, r"missing\.spacy' were not found"),
        ("raw.txt", "  \n", "no text"),
        ("raw.pdf", "a", r"a file name that ends in '\.pdf'.*expected \.txt"),
    ],
)
def test_files_that_can_t_be_read(splitter, tmp_path, name, content, said):
    if content is not None:
        written(tmp_path / name, content)
    with pytest.raises(DataError, match=said):
        counted(splitter, tmp_path / name)
