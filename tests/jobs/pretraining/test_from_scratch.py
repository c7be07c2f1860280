"""Vocabularies learned from texts, tokenizer files, and models of named sizes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import CORPUS
from transformers import AutoModelForMaskedLM, AutoTokenizer

from spacy_bertft.encoder.masked_lm import MaskedModel
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.errors import DataError
from spacy_bertft.jobs.pretraining.from_scratch import SIZES, SPECIAL, learn_vocabulary, new_model, tokenizer_files

pytestmark = pytest.mark.touches_transformers

ROOT = Path(__file__).parents[3]
MESSAGES = ROOT / "assets/support/train.jsonl"


@pytest.fixture(scope="module")
def messages():
    return [json.loads(line)["text"] for line in MESSAGES.read_text(encoding="utf-8").splitlines()]


def tokenizer(folder, vocabulary, *, lowercase=True, positions=64):
    folder.mkdir(exist_ok=True)
    for name, content in tokenizer_files(vocabulary, lowercase=lowercase, positions=positions).items():
        (folder / name).write_bytes(content)
    return folder


# The vocabulary


@pytest.mark.parametrize("size", [300, 1000])
def test_a_vocabulary_has_the_size_asked_for_and_special_subwords_first(messages, size):
    vocabulary = learn_vocabulary(messages, size)
    assert len(vocabulary) == len(set(vocabulary)) == size
    assert tuple(vocabulary[:5]) == SPECIAL
    assert not set(SPECIAL) & set(vocabulary[5:])


def test_few_texts_give_fewer_subwords_than_asked_for():
    vocabulary = learn_vocabulary(["a cat", "a cat"], 1000)
    assert vocabulary[:5] == list(SPECIAL)
    assert {"a", "c", "t", "##a", "##t", "cat"} <= set(vocabulary)
    assert len(vocabulary) < 20


def test_common_words_are_whole_and_rare_pairs_stay_apart():
    vocabulary = learn_vocabulary(["berlin berlin berlin", "xyq"], 100)
    assert "berlin" in vocabulary
    assert {"x", "##y", "##q"} <= set(vocabulary)
    assert not {"xy", "xyq", "##yq"} & set(vocabulary)


def test_lowercase_leaves_no_capitals_and_no_accents(messages):
    texts = [*messages, "Straße Zürich Élan"] * 2
    lower, cased = (set(learn_vocabulary(texts, 1000, lowercase=lowercase)) for lowercase in (True, False))
    assert all(subword == subword.lower() for subword in lower - set(SPECIAL))
    assert not {"ü", "é", "É"} & lower
    assert {"ü", "É", "Z"} <= cased


def test_texts_may_be_read_once_only(messages):
    assert learn_vocabulary(iter(messages), 500) == learn_vocabulary(messages, 500)


def test_the_order_of_texts_changes_nothing(messages):
    assert learn_vocabulary(messages[::-1], 500) == learn_vocabulary(messages, 500)


@pytest.mark.slow
def test_every_process_learns_the_same_vocabulary(messages):
    """Which those that torchrun starts and a run that goes on rely on; hash maps are ordered anew in each."""
    code = f"""
import hashlib, json, sys
from spacy_bertft.jobs.pretraining.from_scratch import learn_vocabulary
texts = [json.loads(line)["text"] for line in open({str(MESSAGES)!r}, encoding="utf-8")]
print(hashlib.sha256(chr(10).join(learn_vocabulary(texts, 1500)).encode()).hexdigest())
"""
    processes = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    hashes = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert hashes == {hashlib.sha256("\n".join(learn_vocabulary(messages, 1500)).encode()).hexdigest()}


@pytest.mark.parametrize("texts", [[], [""], [" ", "\n\t"]])
def test_no_words_are_a_clear_error(texts):
    with pytest.raises(DataError, match=r"Found no words to learn a vocabulary from\. Expected texts"):
        learn_vocabulary(texts, 1000)


def test_a_vocabulary_too_small_for_the_characters_is_refused():
    with pytest.raises(DataError, match=r"found 26 different characters .* at most 22 .*encoder\.vocabulary"):
        learn_vocabulary(["abcdefghijklmnopqrstuvwxyz"], 50)


@pytest.mark.slow
def test_rare_characters_beyond_the_first_thousand_are_unknown(tmp_path):
    common = [chr(number) for number in range(0x4E00, 0x4E00 + 1000)]  # each of them a word
    texts = [" ".join(common * 1001), "berlin " * 100, "\u8000"]  # once in more than a million
    vocabulary = learn_vocabulary(texts, 3000)
    assert set(common) <= set(vocabulary)
    assert "\u8000" not in vocabulary
    found = AutoTokenizer.from_pretrained(tokenizer(tmp_path / "one", vocabulary)).tokenize("\u8000 berlin")
    assert found == ["[UNK]", "berlin"]


# The tokenizer


@pytest.mark.parametrize("lowercase", [True, False])
def test_the_files_are_those_of_a_fast_bert_tokenizer(tmp_path, lowercase):
    vocabulary = learn_vocabulary(CORPUS, 600, lowercase=lowercase)
    found = AutoTokenizer.from_pretrained(tokenizer(tmp_path / "one", vocabulary, lowercase=lowercase))
    assert found.is_fast
    assert found.get_vocab() == {subword: number for number, subword in enumerate(vocabulary)}
    assert found.model_max_length == 64
    assert (found.pad_token_id, found.unk_token_id, found.cls_token_id, found.sep_token_id) == (0, 1, 2, 3)
    assert found.mask_token_id == 4
    text = "Anna lives in [MASK]: Straße!"
    subwords = found.convert_ids_to_tokens(found(text)["input_ids"])
    assert (subwords[0], subwords[-1]) == ("[CLS]", "[SEP]")
    assert "[MASK]" in subwords
    assert ("A" in "".join(subwords[1:4])) is not lowercase
    pair = found("Anna", "Berlin")
    assert set(pair["token_type_ids"]) == {0, 1}
    assert found.decode(found("Anna lives in Berlin.")["input_ids"], skip_special_tokens=True).lower() == (
        "anna lives in berlin."
    )


def test_texts_it_was_learned_from_have_nothing_unknown(tmp_path, messages):
    found = AutoTokenizer.from_pretrained(tokenizer(tmp_path / "one", learn_vocabulary(messages, 1000)))
    assert all(found.unk_token_id not in found(text, verbose=False)["input_ids"] for text in messages)


# The model


@pytest.mark.parametrize("size", [size for size in SIZES if size != "base"])
def test_sizes(size):
    layers, width = SIZES[size]
    model, files = new_model(*SIZES[size], vocabulary_size=50, positions=32, seed=0)
    config = json.loads(files["config.json"])
    assert config["model_type"] == "bert"
    assert (config["num_hidden_layers"], config["hidden_size"]) == (layers, width)
    assert config["num_attention_heads"] * 64 == width
    assert config["intermediate_size"] == 4 * width
    assert (config["vocab_size"], config["max_position_embeddings"]) == (50, 32)
    assert len(model.bert.encoder.layer) == layers
    assert type(model).__name__ == "BertForMaskedLM"


def test_the_largest_size_is_that_of_bert_base():
    assert SIZES["base"] == (12, 768)


def test_a_seed_gives_the_same_weights_and_leaves_the_random_state_alone():
    def weights(seed):
        return new_model(*SIZES["tiny"], vocabulary_size=50, positions=32, seed=seed)[0].state_dict()

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, again, other = weights(0), weights(0), weights(1)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(
        one["bert.embeddings.word_embeddings.weight"], other["bert.embeddings.word_embeddings.weight"]
    )


def test_next_sentences_get_their_head():
    model, _ = new_model(*SIZES["tiny"], vocabulary_size=50, positions=32, seed=0, next_sentence=True)
    assert type(model).__name__ == "BertForPreTraining"
    assert model.cls.seq_relationship.out_features == 2


def test_a_new_model_is_saved_as_one_that_transformers_loads(tmp_path):
    vocabulary = learn_vocabulary(CORPUS, 600)
    files = tokenizer_files(vocabulary, lowercase=True, positions=64)
    model, config = new_model(*SIZES["tiny"], vocabulary_size=len(vocabulary), positions=64, seed=0)
    MaskedModel(model, {**files, **config}, EncoderSettings(device="cpu")).save(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == again.config.vocab_size
