"""Cut vocabularies: texts whose subwords all stay split as before, for every kind of tokenizer."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from encoders import LONG, MIXED, ODD
from tiny import CORPUS, FAMILIES
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from spacy_bertft.errors import EncoderError
from spacy_bertft.jobs.shrink.choice import Plan, choose_subwords
from spacy_bertft.jobs.shrink.vocabulary import read_vocabulary

pytestmark = pytest.mark.touches_transformers

USED = [*CORPUS[:3], CORPUS[5]]
HELD_OUT = [*CORPUS, *MIXED, LONG, *ODD.values(), "unbelievably gardening", "zzz qqq", "[MASK] <mask> Anna"]


def cut_of(written, texts=USED, *, plan=None):
    """The vocabulary of a tokenizer.json, the subwords that stay, and both tokenizers."""
    vocabulary = read_vocabulary(written)
    old = Tokenizer.from_buffer(written)
    counts = np.zeros(len(vocabulary.ids), dtype=np.int64)
    for text in texts:
        counts += np.bincount(old.encode(text, add_special_tokens=False).ids, minlength=len(counts))
    kept = choose_subwords(vocabulary, counts, plan or Plan())
    return vocabulary, kept, old, Tokenizer.from_buffer(vocabulary.cut(kept))


def subwords_of(tokenizer, text):
    """The subwords of a text, special ones included; an unknown one by its own name."""
    return [tokenizer.id_to_token(number) for number in tokenizer.encode(text).ids]


def assert_exact(old, new, kept, texts=HELD_OUT):
    """Texts whose subwords all stay split as before; the others don't. Returns how many there are of each."""
    same = changed = 0
    for text in texts:
        before, after = subwords_of(old, text), subwords_of(new, text)
        if set(before) <= kept:
            assert after == before
            assert new.encode(text).offsets == old.encode(text).offsets
            same += 1
        else:
            assert after != before
            changed += 1
    return same, changed


@pytest.fixture(params=FAMILIES)
def written(request, tiny_encoder):
    return (tiny_encoder(request.param) / "tokenizer.json").read_bytes()


# --- every family


def test_texts_that_need_no_dropped_subword_split_as_before(written):
    _, kept, old, new = cut_of(written)
    assert len(kept) < old.get_vocab_size()
    same, changed = assert_exact(old, new, kept)
    assert same >= len(USED)
    assert changed > 0


def test_new_ids_are_consecutive_and_in_the_old_order(written):
    _, kept, old, new = cut_of(written)
    assert new.get_vocab_size() == len(kept)
    ordered = sorted(kept, key=old.token_to_id)
    assert [new.token_to_id(subword) for subword in ordered] == list(range(len(kept)))


def test_special_subwords_around_texts_and_pairs_have_their_new_ids(written):
    _, _, old, new = cut_of(written)
    before, after = old.encode(USED[0], USED[1]), new.encode(USED[0], USED[1])
    assert after.tokens == before.tokens
    assert after.ids == [new.token_to_id(subword) for subword in before.tokens]
    assert after.special_tokens_mask == before.special_tokens_mask
    assert after.type_ids == before.type_ids


def test_nothing_becomes_unknown_that_was_known(written):
    _, _, old, new = cut_of(written)
    unknown = read_vocabulary(written)._unknown()
    for text in HELD_OUT:
        counts = [sum(subwords_of(tokenizer, text).count(one) for one in unknown) for tokenizer in (old, new)]
        assert counts[1] == counts[0], text


def test_unseen_words_are_spelled_with_what_is_left(written):
    _, _, old, new = cut_of(written, ["Anna"])
    found, before = new.encode("Berlin", add_special_tokens=False), old.encode("Berlin", add_special_tokens=False)
    assert found.offsets[-1][1] == len("Berlin")
    assert len(found) > len(before)
    assert not set(subwords_of(new, "Berlin")) & set(read_vocabulary(written)._unknown())


def test_with_all_subwords_nothing_changes(written):
    vocabulary = read_vocabulary(written)
    again = json.loads(vocabulary.cut(set(vocabulary.ids)))
    before = json.loads(written)
    assert {key: again[key] for key in before if key != "model"} == {
        key: before[key] for key in before if key != "model"
    }
    assert Tokenizer.from_buffer(vocabulary.cut(set(vocabulary.ids))).get_vocab() == vocabulary.ids


def test_the_subwords_of_a_smaller_plan_split_alike_too(written):
    _, whole, old, _ = cut_of(written)
    least = len(cut_of(written, [])[1])
    plan = Plan(max_size=(least + len(whole)) // 2)
    _, kept, _, new = cut_of(written, plan=plan)
    assert least <= len(kept) <= plan.max_size < len(whole)
    assert_exact(old, new, kept)


def test_filled_up_vocabularies_split_alike_too(written):
    _, used, old, _ = cut_of(written)
    plan = Plan(min_size=(len(used) + old.get_vocab_size()) // 2)
    _, kept, _, new = cut_of(written, plan=plan)
    assert used < kept
    assert len(used) < len(kept) <= plan.min_size
    assert_exact(old, new, kept)


# --- WordPiece


def test_wordpiece_drops_characters_if_asked_to(tiny_bert):
    written = (tiny_bert / "tokenizer.json").read_bytes()
    _, kept, old, new = cut_of(written, ["anna"], plan=Plan(characters=False))
    assert kept == {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *old.encode("anna", add_special_tokens=False).tokens}
    assert new.encode("berlin", add_special_tokens=False).tokens == ["[UNK]"]


def test_wordpiece_keeps_a_subword_with_a_character_that_has_none_of_its_own():
    tokenizer = Tokenizer(
        models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2, "##x": 3, "ab": 4, "a☃": 5}, unk_token="[UNK]")
    )
    _, kept, _, new = cut_of(tokenizer.to_str().encode(), [])
    assert kept == {"[UNK]", "a", "##b", "##x", "a☃"}
    assert new.encode("a☃").tokens == ["a☃"]
    assert new.encode("ab").tokens == ["a", "##b"]


# --- BPE


@cache
def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.add_tokens(["Anna Stone"])
    return tokenizer.to_str()


def longest():
    """A subword of byte_level() that several merges make."""
    vocabulary = read_vocabulary(byte_level().encode())
    word = max((one for one in vocabulary.ids if one.isascii() and one.isalpha()), key=len)
    return word, {one for one in vocabulary.parts(word) if len(one) > 1}


def test_bpe_keeps_all_bytes_and_the_merges_on_the_way_to_each_subword():
    word, parts = longest()
    _, kept, old, new = cut_of(byte_level().encode(), [word])
    assert kept == {*pre_tokenizers.ByteLevel.alphabet(), "Anna Stone", *parts}
    assert new.encode(word).tokens == old.encode(word).tokens == [word]
    assert len(parts) >= 3
    merges = json.loads(new.to_str())["model"]["merges"]
    assert {"".join(pair) for pair in merges} == parts


def test_bpe_splits_every_subset_of_texts_as_before():
    for number in range(len(CORPUS)):
        _, kept, old, new = cut_of(byte_level().encode(), CORPUS[number : number + 2])
        same, _ = assert_exact(old, new, kept, [*CORPUS, *MIXED])
        assert same


def test_bpe_of_characters_with_an_end_of_words():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS[:5] * 3, trainer)
    _, kept, old, new = cut_of(tokenizer.to_str().encode(), CORPUS[:2])
    same, changed = assert_exact(old, new, kept, CORPUS)
    assert same >= 2
    assert changed


def test_a_size_that_cuts_a_merge_s_parts_leaves_the_subword_out():
    word, parts = longest()
    least = len(cut_of(byte_level().encode(), [])[1])
    for more in range(len(parts)):
        kept = cut_of(byte_level().encode(), [word], plan=Plan(max_size=least + more))[1]
        assert len(kept) == least
    assert word in cut_of(byte_level().encode(), [word], plan=Plan(max_size=least + len(parts)))[1]


# --- Unigram


def unigram(pieces, **settings):
    tokenizer = Tokenizer(models.Unigram(pieces, 0, **settings))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.normalizer = normalizers.NFKC()
    return tokenizer.to_str().encode()


PIECES = [
    ("<unk>", 0.0),
    ("▁", -2.0),
    ("a", -3.0),
    ("b", -3.5),
    ("ab", -4.0),
    ("▁ab", -4.5),
    ("bb", -50.0),
    ("a☃", -6.0),
]


def test_unigram_keeps_scores_the_lowest_of_them_and_all_characters():
    _, kept, _, new = cut_of(unigram(PIECES), ["b"])
    assert kept == {"<unk>", "▁", "a", "b", "bb", "a☃"}
    found = json.loads(new.to_str())["model"]
    assert [tuple(pair) for pair in found["vocab"]] == [pair for pair in PIECES if pair[0] in kept]
    assert found["unk_id"] == 0


def test_unigram_moves_the_unknown_subword():
    pieces = [*PIECES[1:4], ("ab", -4.0), PIECES[0]]
    tokenizer = Tokenizer(models.Unigram(pieces, 4, False))
    vocabulary = read_vocabulary(tokenizer.to_str().encode())
    new = json.loads(vocabulary.cut({"▁", "a", "b", "<unk>"}))["model"]
    assert new["unk_id"] == 3
    assert new["vocab"][3] == ["<unk>", 0.0]


def test_unigram_keeps_the_bytes_that_unknown_characters_become():
    of_bytes = [(f"<0x{number:02X}>", -9.0) for number in range(256)]
    written = unigram([*PIECES, *of_bytes], byte_fallback=True)
    _, kept, old, new = cut_of(written, ["b"])
    assert {name for name, _ in of_bytes} <= kept
    assert new.encode("é").tokens == old.encode("é").tokens != ["<unk>"]


# --- the rest of the file


def test_post_processors_of_every_kind_get_the_new_ids():
    tokenizer = Tokenizer(models.WordPiece({"x": 0, "a": 1, "[UNK]": 2, "[CLS]": 3, "[SEP]": 4}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    template = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 3), ("[SEP]", 4)])
    bert = processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    for processor in (template, bert, processors.Sequence([processors.ByteLevel(), template])):
        tokenizer.post_processor = processor
        tokenizer.enable_padding(pad_id=2, pad_token="[UNK]")
        vocabulary = read_vocabulary(tokenizer.to_str().encode())
        new = Tokenizer.from_buffer(vocabulary.cut({"a", "[UNK]", "[CLS]", "[SEP]"}))
        assert new.encode("a").ids == [2, 0, 3]
        assert new.padding["pad_id"] == 1


def test_other_kinds_are_refused():
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(EncoderError, match=r"of the kind WordLevel.* Expected WordPiece, BPE, Unigram.*--layers"):
        read_vocabulary(tokenizer.to_str().encode())
    tokenizer = Tokenizer(models.BPE({"a": 0}, [], continuing_subword_prefix="##"))
    with pytest.raises(EncoderError, match=r"BPE with the prefix '##'"):
        read_vocabulary(tokenizer.to_str().encode())
