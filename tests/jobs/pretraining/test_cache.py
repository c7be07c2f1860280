from __future__ import annotations

import errno
import json
import os
from io import FileIO
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import CORPUS
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.pretraining import cache as module
from spacy_bertft.jobs.pretraining import tokenise
from spacy_bertft.jobs.pretraining.cache import build_cache, find_or_build, open_cache
from spacy_bertft.jobs.pretraining.tokenise import (
    WordTable,
    make_encode,
    splits_at_spaces,
    tokenizer_hash,
)

pytestmark = pytest.mark.touches_transformers

FILES = {"ids.bin", "texts.bin", "documents.bin", "counts.bin", "cache.json"}
DOCUMENTS = [CORPUS[:3], ["[MASK] two  spaces [SEP]"], CORPUS[3:]]
U2 = np.dtype("<u2")


@pytest.fixture
def tokenizer(tiny_encoder):
    def load(family="bert-uncased"):
        return Tokenizer.from_file(str(tiny_encoder(family) / "tokenizer.json"))

    return load


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join("\n".join(document) for document in DOCUMENTS), encoding="utf-8")
    return path


def plain(tokenizer, texts):
    """What the tokenizer says itself, special tokens read as text."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = True
    return [copy.encode(text, add_special_tokens=False).ids for text in texts]


def split(values, ends):
    return [part.tolist() for part in np.split(values, ends[:-1])]


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("family", ["bert-uncased", "bert-cased", "roberta", "albert", "xlm-roberta"])
@pytest.mark.parametrize("batch", [1, 2, 2000])
def test_a_cache_holds_what_the_tokenizer_says(tokenizer, corpus, tmp_path, family, batch, monkeypatch):
    monkeypatch.setattr(tokenise, "BATCH_TEXTS", batch)
    texts = [text for document in DOCUMENTS for text in document]
    wanted = plain(tokenizer(family), texts)
    cache = build_cache([corpus], tokenizer(family), tmp_path / "made" / "cache")
    assert split(cache.ids, cache.text_ends) == wanted
    assert split(np.arange(len(texts)), cache.document_ends) == [[0, 1, 2], [3], list(range(4, len(texts)))]
    assert cache.counts.tolist() == np.bincount(list(chain.from_iterable(wanted)), minlength=len(cache.counts)).tolist()
    assert len(cache.counts) == tokenizer(family).get_vocab_size()
    assert cache.n_bytes == sum(len(text.encode()) for text in texts)
    assert cache.tokenizer_hash == tokenizer_hash(tokenizer(family))
    assert cache.ids.dtype == np.uint16
    assert cache.text_ends.dtype == cache.document_ends.dtype == cache.counts.dtype == np.int64
    assert {path.name for path in (tmp_path / "made" / "cache").iterdir()} == FILES
    assert not leftovers(tmp_path / "made")


def test_the_arrays_are_read_only_and_stay_on_disk(tokenizer, corpus, tmp_path):
    cache = build_cache([corpus], tokenizer(), tmp_path / "cache")
    with pytest.raises(ValueError, match="read-only"):
        cache.ids[0] = 1
    assert isinstance(cache.ids.base, np.memmap)


def test_truncation_and_padding_of_the_tokenizer_are_not_used(tokenizer, corpus, tmp_path):
    cut = tokenizer()
    cut.enable_truncation(4)
    cut.enable_padding(length=8)
    before = cut.to_str()
    cache = build_cache([corpus], cut, tmp_path / "cache")
    assert len(cache.ids) == sum(map(len, plain(tokenizer(), [text for document in DOCUMENTS for text in document])))
    assert cut.to_str() == before
    assert not cut.encode_special_tokens
    assert tokenizer_hash(cut) == tokenizer_hash(tokenizer())


def test_special_subwords_in_texts_are_plain_text(tokenizer, corpus, tmp_path):
    cache = build_cache([corpus], tokenizer(), tmp_path / "cache")
    specials = [tokenizer().token_to_id(text) for text in ("[MASK]", "[SEP]", "[CLS]", "[PAD]")]
    assert cache.counts[specials].tolist() == [0, 0, 0, 0]


def test_texts_without_subwords_are_left_out(tokenizer, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\u200b\na b\n\u200d\n\n\u200b\n\nc\n\u200b", encoding="utf-8")
    cache = build_cache([path], tokenizer(), tmp_path / "cache")
    assert split(cache.ids, cache.text_ends) == plain(tokenizer(), ["a b", "c"])
    assert cache.document_ends.tolist() == [1, 2]
    path.write_text("\u200b\n", encoding="utf-8")
    with pytest.raises(DataError, match="nothing"):
        build_cache([path], tokenizer(), tmp_path / "cache")


def test_a_large_vocabulary_takes_four_bytes(tmp_path):
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(70_000)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    path = tmp_path / "a.txt"
    path.write_text("w69999 w5", encoding="utf-8")
    cache = build_cache([path], words, tmp_path / "cache")
    assert cache.ids.dtype == np.uint32
    assert cache.ids.tolist() == [69999, 5]
    assert cache.counts.shape == (70_000,)


# The table of words

ODD = "aAzé\u0301\u0308\u0344\u0f73İßſΣσς東，.,'[]#1 \t\n\r\u00a0\u2001\u2028\u3000\u200b\u00ad\ufffd\0\x1c\x85한각ｱ"
LETTERS = st.one_of(st.sampled_from(ODD), st.characters(exclude_categories=["Cs"]))
PIECES = st.one_of(st.text(LETTERS, max_size=8), st.sampled_from(["[MASK]", "[UNK]", "##a", "a" * 101, "unbelievable"]))


@given(st.lists(st.lists(PIECES, max_size=6).map(" ".join), max_size=6))
@pytest.mark.parametrize("family", ["bert-uncased", "bert-cased"])
def test_a_table_of_words_gives_the_same_ids(tiny_encoder, family, texts):
    tokenizer = Tokenizer.from_file(str(tiny_encoder(family) / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    assert splits_at_spaces(tokenizer)
    wanted = plain(tokenizer, texts)
    encode = WordTable(tokenizer, U2)
    for _ in range(2):  # unseen, then seen
        ids, counts = encode(texts)
        assert ids.tolist() == list(chain.from_iterable(wanted))
        assert counts.tolist() == list(map(len, wanted))


def test_a_table_of_words_forgets(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenise, "MAX_TABLE", 10)
    bert = tokenizer()
    encode = WordTable(bert, U2)
    for text in CORPUS * 2:
        assert encode([text])[0].tolist() == plain(bert, [text])[0]
        assert len(encode._ids) <= 1 + 10 + len(text.split(" "))


def test_only_tokenizers_that_split_at_spaces_get_a_table(tokenizer):
    assert isinstance(make_encode(tokenizer("bert-cased"), U2), WordTable)
    assert not splits_at_spaces(tokenizer("roberta"))
    assert not splits_at_spaces(tokenizer("albert"))
    added = tokenizer()
    added.add_tokens([AddedToken("in Berlin")])
    assert not splits_at_spaces(added)
    other = tokenizer()
    other.pre_tokenizer = pre_tokenizers.Metaspace()
    assert not splits_at_spaces(other)


def test_added_tokens_are_found(tokenizer, corpus, tmp_path):
    added = tokenizer()
    added.add_tokens([AddedToken("in Berlin")])
    cache = build_cache([corpus], added, tmp_path / "cache")
    assert cache.counts[added.token_to_id("in Berlin")] == 1


# Finding, and what goes wrong


def test_a_cache_is_used_again_while_all_is_the_same(tokenizer, corpus, tmp_path):
    folder = tmp_path / "cache"

    def build(family="bert-uncased", **options):
        cache = find_or_build([corpus], tokenizer(family), folder, **options)
        return cache, (folder / "ids.bin").stat().st_ino

    first, inode = build()
    again, same = build()
    assert same == inode
    assert again.ids.tolist() == first.ids.tolist()
    assert build("bert-cased")[1] != inode
    inode = build()[1]
    assert build(text_key="body")[1] != inode
    inode = build()[1]
    os.utime(corpus, ns=(0, 0))
    assert build()[1] != inode
    inode = build()[1]
    (folder / "ids.bin").write_bytes(b"x")
    assert build()[0].ids.tolist() == first.ids.tolist()
    (folder / "cache.json").write_text("{")
    assert build()[0].ids.tolist() == first.ids.tolist()
    corpus.write_text("other", encoding="utf-8")
    assert len(build()[0].text_ends) == 1
    assert len(first.text_ends) > 1  # what is mapped stays


def test_progress_goes_up_to_all_bytes(tokenizer, corpus, tmp_path):
    seen = []
    build_cache([corpus], tokenizer(), tmp_path / "cache", progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (corpus.stat().st_size,) * 2


def test_an_error_leaves_no_cache_and_keeps_an_old_one(tokenizer, corpus, tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"fine\n" * 99 + b"\xff")
    with pytest.raises(DataError, match=r"bad\.txt:100"):
        build_cache([bad], tokenizer(), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    old = build_cache([corpus], tokenizer(), tmp_path / "cache")
    with pytest.raises(DataError, match=r"bad\.txt:100"):
        build_cache([bad], tokenizer(), tmp_path / "cache")
    assert open_cache(tmp_path / "cache").ids.tolist() == old.ids.tolist()
    assert not leftovers(tmp_path)


def test_a_full_disk_is_named_and_leaves_nothing(tokenizer, corpus, tmp_path, monkeypatch):
    class Full(FileIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "FileIO", Full)
    with pytest.raises(ConfigError, match=r"cache: .*No space left.* free") as error:
        build_cache([corpus], tokenizer(), tmp_path / "cache")
    assert str(tmp_path) in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [corpus.name]


def test_parts_of_writes_are_finished(tokenizer, corpus, tmp_path, monkeypatch):
    class Slow(FileIO):
        def write(self, data):
            return super().write(bytes(data)[:7])

    wanted = build_cache([corpus], tokenizer(), tmp_path / "whole")
    monkeypatch.setattr(module, "FileIO", Slow)
    assert build_cache([corpus], tokenizer(), tmp_path / "parts").ids.tolist() == wanted.ids.tolist()


def test_errors_of_the_progress_callback_are_left_alone(tokenizer, corpus, tmp_path):
    def progress(done, total):
        raise BrokenPipeError("mine")

    with pytest.raises(BrokenPipeError, match="mine"):
        build_cache([corpus], tokenizer(), tmp_path / "cache", progress=progress)
    assert not (tmp_path / "cache").exists()


def test_other_folders_and_files_are_not_overwritten(tokenizer, corpus, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="a folder that is not a cache"):
        find_or_build([corpus], tokenizer(), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"
    with pytest.raises(ConfigError, match="found a file"):
        build_cache([corpus], tokenizer(), corpus)
    (tmp_path / "empty").mkdir()
    assert len(build_cache([corpus], tokenizer(), tmp_path / "empty").ids)


def test_a_damaged_cache_is_named(tokenizer, corpus, tmp_path):
    folder = tmp_path / "cache"
    with pytest.raises(DataError, match=r"no cache\.json"):
        open_cache(folder)
    build_cache([corpus], tokenizer(), folder)
    meta = json.loads((folder / "cache.json").read_text())
    for name in FILES - {"cache.json"}:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1])
        with pytest.raises(DataError, match=rf"{name}: found a file of {len(content) - 1} bytes; expected"):
            open_cache(folder)
        (folder / name).unlink()
        with pytest.raises(DataError, match=rf"{name}: found no such file"):
            open_cache(folder)
        (folder / name).write_bytes(content)
    open_cache(folder)
    (folder / "cache.json").write_text(json.dumps(meta | {"version": 0}))
    with pytest.raises(DataError, match="format 0; expected format 1"):
        open_cache(folder)
    (folder / "cache.json").write_text("[]")
    with pytest.raises(DataError, match="format None"):
        open_cache(folder)
