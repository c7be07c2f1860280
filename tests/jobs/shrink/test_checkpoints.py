"""Checkpoints with fewer rows, ids and layers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from encoders import LAYERED, assert_near, encoder_of, rows_of
from tiny import CORPUS, FAMILIES, make_encoder

from spacy_bertft.encoder.checkpoint import CONFIG, TOKENIZER, TOKENIZER_CONFIG
from spacy_bertft.engines.family_weights import read_net, read_shape
from spacy_bertft.errors import EncoderError
from spacy_bertft.jobs.shrink import checkpoints
from spacy_bertft.jobs.shrink.vocabulary import read_vocabulary

pytestmark = pytest.mark.touches_transformers


def whole(folder):
    return encoder_of(folder).at_rest()


def required(checkpoint):
    """The vocabulary, and the fewest subwords that may stay."""
    vocabulary = read_vocabulary(checkpoint.files[TOKENIZER])
    return vocabulary, vocabulary.required(characters=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_those_of_the_subwords_that_stay(tiny_encoder, family):
    checkpoint = whole(tiny_encoder(family))
    vocabulary, kept = required(checkpoint)
    small = checkpoints.with_subwords(checkpoint, vocabulary, kept)
    tokenizer = small.tokenizer()
    (name,) = [name for name in small.weights if name.endswith(("word_embeddings.weight", "tok_embeddings.weight"))]
    with_rows = {subword for subword in kept if vocabulary.ids[subword] < checkpoint.config["vocab_size"]}
    for subword in with_rows:
        new = small.weights[name][tokenizer.token_to_id(subword)]
        assert torch.equal(new, checkpoint.weights[name][vocabulary.ids[subword]])
    assert len(small.weights[name]) == small.config["vocab_size"] == len(with_rows)
    assert {key: one.shape for key, one in small.weights.items() if key != name} == {
        key: one.shape for key, one in checkpoint.weights.items() if key != name
    }
    assert checkpoints.n_parameters(small) < checkpoints.n_parameters(checkpoint)
    assert checkpoints.n_bytes(small) < checkpoints.n_bytes(checkpoint)


def test_ids_in_the_small_files_are_new(tiny_bert):
    checkpoint = whole(tiny_bert)
    settings = json.loads(checkpoint.files[TOKENIZER_CONFIG])
    place = checkpoint.config["vocab_size"]
    old = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    assert {name: checkpoint.tokenizer().token_to_id(name) for name in old} == old
    settings["added_tokens_decoder"] = {str(number): {"content": name} for name, number in old.items()}
    settings["pad_token_id"] = 0
    files = {
        **checkpoint.files,
        TOKENIZER_CONFIG: json.dumps(settings).encode(),
        CONFIG: json.dumps({**checkpoint.config, "mask_token_id": 4, "eos_token_id": place + 7}).encode(),
        "generation_config.json": b'{"bos_token_id": 2, "max_length": 2}',
        "vocab.txt": b"[PAD]\n",
        "spiece.model": b"\0",
        "README.md": b"about it",
    }
    vocabulary, _ = required(checkpoint)
    kept = {"a", *old} - {"[PAD]"}  # so that the others move by one
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "added", frozenset(kept - {"a"}))
        patch.setitem(
            vocabulary.content,
            "added_tokens",
            [one for one in vocabulary.content["added_tokens"] if one["content"] != "[PAD]"],
        )
        small = checkpoints.with_subwords(replace(checkpoint, files=files), vocabulary, kept)
    config = json.loads(small.files[CONFIG])
    assert (config["mask_token_id"], config["eos_token_id"], config["pad_token_id"]) == (3, None, None)
    found = json.loads(small.files[TOKENIZER_CONFIG])
    assert found["added_tokens_decoder"] == {
        str(number - 1): {"content": name} for name, number in old.items() if name != "[PAD]"
    }
    assert found["pad_token_id"] is None
    assert json.loads(small.files["generation_config.json"]) == {"bos_token_id": 1, "max_length": 2}
    assert small.files["README.md"] == b"about it"
    assert not {"vocab.txt", "spiece.model"} & set(small.files)


def test_embeddings_that_are_not_there_are_refused(tiny_bert):
    checkpoint = whole(tiny_bert)
    vocabulary, kept = required(checkpoint)
    other = {name.replace("word_embeddings", "words"): one for name, one in checkpoint.weights.items()}
    with pytest.raises(EncoderError, match=r"family bert hold no word embeddings with .* rows.* Expected an encoder"):
        checkpoints.with_subwords(replace(checkpoint, weights=other), vocabulary, kept)


def test_subwords_without_a_row_stay_without_one(tiny_bert):
    checkpoint = whole(tiny_bert)
    size = checkpoint.config["vocab_size"]
    tokenizer = checkpoint.tokenizer()
    tokenizer.add_tokens(["<more>"])
    more = replace(checkpoint, files={**checkpoint.files, TOKENIZER: tokenizer.to_str().encode()})
    vocabulary, kept = required(more)
    small = checkpoints.with_subwords(more, vocabulary, kept)
    assert vocabulary.ids["<more>"] == size
    assert small.tokenizer().token_to_id("<more>") == small.config["vocab_size"] == len(kept) - 1


# --- layers


@pytest.mark.parametrize("family", LAYERED)
def test_the_rest_of_the_layers_compute_what_they_did(family, tmp_path):
    names = {"n_layers": 3} if family == "distilbert" else {"num_hidden_layers": 3}
    encoder = encoder_of(make_encoder(tmp_path / "three", family, **names))
    small = checkpoints.with_layers(encoder.at_rest(), (0, 2))
    assert checkpoints.n_layers(small) == 2
    assert read_net(read_shape(small.config), small.weights) is not None
    small.write(tmp_path / "two")
    found = rows_of(encoder_of(tmp_path / "two"), CORPUS[:3])
    stack = encoder.model.transformer if family == "distilbert" else encoder.model.encoder
    del stack.layer[1]
    encoder.model.config.num_hidden_layers = 2
    expected = rows_of(encoder_of(tmp_path / "three", batching="padded"), CORPUS[:3])
    assert not torch.allclose(found, expected, atol=1e-2)  # the layer does something
    assert_near(found, rows_of(encoder, CORPUS[:3]))


def test_layers_of_other_families_are_refused(tiny_encoder):
    with pytest.raises(
        EncoderError, match=r"family albert, whose layers can't be dropped\. Expected one of bert, .*--la"
    ):
        checkpoints.with_layers(whole(tiny_encoder("albert")), (0,))


def test_layers_are_counted_where_the_config_tells(tiny_encoder):
    assert [checkpoints.n_layers(whole(tiny_encoder(one))) for one in ("distilbert", "albert", "bert-cased")] == [2] * 3
    nameless = replace(whole(tiny_encoder("albert")), files={CONFIG: b"{}"})
    assert checkpoints.n_layers(nameless) is None


# --- heads


def test_tied_weights_are_saved_once():
    one, other = torch.randn(3, 2), torch.randn(3, 2)
    found = checkpoints.untied({"a": one, "b": other, "c": one, "empty": one[:0], "none": one[:0]})
    assert list(found) == ["a", "b", "empty", "none"]
    assert list(checkpoints.untied({"lm_head.decoder.weight": one, "x.word_embeddings.weight": one})) == [
        "x.word_embeddings.weight"
    ]
