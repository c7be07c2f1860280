"""Saved pipelines that were damaged: one error that says what is wrong, or the same annotations as ever."""

from __future__ import annotations

import json
import shutil

import pytest
import spacy
import srsly
from pipelines import TEXTS, annotations, trained

from spacy_bertft.errors import BertftError, ConfigError, EncoderError

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

HEAD, OTHER_HEAD, ENCODER = "ner", "textcat", "encoder/encoder"
LONG = " ".join(TEXTS * 20)  # several windows
DAMAGED = (
    f"{HEAD}/cfg", f"{HEAD}/model.safetensors", f"{ENCODER}/config.json", f"{ENCODER}/tokenizer.json",
    f"{ENCODER}/tokenizer_config.json", f"{ENCODER}/model.safetensors",
)  # fmt: skip
JSON = tuple(name for name in DAMAGED if not name.endswith("safetensors"))
WEIGHTS = tuple(name for name in DAMAGED if name.endswith("safetensors"))


@pytest.fixture(scope="module")
def saved(tiny_encoder, tmp_path_factory):
    """A saved pipeline, and what it says."""
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    trained(tiny_encoder("bert-uncased")).to_disk(folder)
    return folder, said_by(spacy.load(folder))


@pytest.fixture
def pipeline(saved, tmp_path):
    """A copy, to be damaged."""
    return shutil.copytree(saved[0], tmp_path / "pipeline")


def said_by(nlp):
    return [annotations(doc) for doc in nlp.pipe([*TEXTS, LONG])]


def assert_told_or_the_same(pipeline, saved):
    """Whether it loaded. The error, if there is one, names a file or a setting, and says what to do."""
    try:
        nlp = spacy.load(pipeline)
    except BertftError as error:
        said = str(error)
        assert "xpected" in said
        assert any(word in said for word in ("cfg", "json", "safetensors", "tokenizer", "ncoder", "head"))
        return False
    assert said_by(nlp) == saved[1]
    return True


def change(path, **settings):
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **settings}), encoding="utf-8")


def test_what_is_whole_loads(pipeline, saved):
    assert assert_told_or_the_same(pipeline, saved)


@pytest.mark.parametrize("name", DAMAGED)
def test_a_missing_file(pipeline, name):
    (pipeline / name).unlink()
    with pytest.raises(BertftError, match=name.rpartition("/")[2].replace(".", r"\.")):
        spacy.load(pipeline)


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_off(pipeline, saved, name, kept):
    content = (pipeline / name).read_bytes()
    (pipeline / name).write_bytes(content[: int(kept * len(content))])
    assert not assert_told_or_the_same(pipeline, saved)


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize(
    "content",
    [b"\x00" * 100, b"garbage" * 100, b"\xff\xfe\x00", b"null", b"[]", b"7", b'"text"', b"{}", b"[" * 100_000,
     b'{"a":' * 100_000],
    ids=["zeros", "garbage", "bytes", "null", "list", "number", "text", "empty object", "deep list", "deep object"],
)  # fmt: skip
def test_a_file_of_something_else(pipeline, saved, name, content):
    (pipeline / name).write_bytes(content)
    told = not assert_told_or_the_same(pipeline, saved)
    assert told or (name.endswith("tokenizer_config.json") and content == b"{}")


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("start", range(8))
def test_a_byte_that_was_changed_in_a_header(pipeline, saved, name, start):
    """Every eighth kind of place, from the length of the header to its last names, by turns."""
    content = (pipeline / name).read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    for place in [start, *range(8 + start, size, max(8, size // 40))]:
        for byte in (content[place] ^ 1, 0x22):
            (pipeline / name).write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
            assert_told_or_the_same(pipeline, saved)


def test_numbers_of_another_kind(pipeline, saved):
    """Weights that are read as whole numbers are as many, and as large."""
    path = pipeline / ENCODER / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"', 1))
    assert not assert_told_or_the_same(pipeline, saved)


@pytest.mark.parametrize("place", [0.5, 0.9, 1.0])
def test_a_weight_of_a_head_that_was_changed(pipeline, place):
    path = pipeline / HEAD / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"model\.safetensors' does not match the cfg .* Copy"):
        spacy.load(pipeline)
    change(pipeline / HEAD / "cfg", weights_crc32=None)
    spacy.load(pipeline)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"{HEAD}/model.safetensors", f"{OTHER_HEAD}/model.safetensors"),
        (f"{HEAD}/cfg", f"{OTHER_HEAD}/cfg"),
        (f"{HEAD}/model.safetensors", f"{ENCODER}/model.safetensors"),
        (f"{HEAD}/cfg", f"{HEAD}/model.safetensors"),
        (f"{HEAD}/cfg", f"{ENCODER}/config.json"),
        (f"{ENCODER}/config.json", f"{ENCODER}/tokenizer_config.json"),
        (f"{ENCODER}/config.json", f"{ENCODER}/tokenizer.json"),
        (f"{ENCODER}/tokenizer.json", f"{ENCODER}/tokenizer_config.json"),
    ],
)
def test_swapped_files(pipeline, saved, one, other):
    first, second = (pipeline / one).read_bytes(), (pipeline / other).read_bytes()
    (pipeline / one).write_bytes(second)
    (pipeline / other).write_bytes(first)
    assert not assert_told_or_the_same(pipeline, saved)


# --- settings of other types and sizes


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("labels", None), ("labels", "PERSON"), ("labels", {"PERSON": 1}), ("labels", [1, 2]), ("labels", ["A", "A"]),
        ("labels", [["CITY"]]), ("width", "32"), ("width", 0), ("width", -1), ("width", True), ("width", [32]),
        ("targets_per_doc", None), ("targets_per_doc", "1"), ("targets_per_doc", 0), ("targets_per_doc", float("nan")),
        ("statistics", []), ("statistics", None), ("save_id", 7), ("labels_given", "no"),
    ],
)  # fmt: skip
def test_a_setting_of_a_head_of_another_type(pipeline, key, found):
    change(pipeline / HEAD / "cfg", **{key: found})
    with pytest.raises(ConfigError, match=rf"saved cfg of the head 'ner' has .* as '{key}'\. Expected .*Undo"):
        spacy.load(pipeline)


@pytest.mark.parametrize("key", ["labels", "width", "targets_per_doc"])
def test_a_setting_of_a_head_that_is_missing(pipeline, key):
    cfg = srsly.read_json(pipeline / HEAD / "cfg")
    srsly.write_json(pipeline / HEAD / "cfg", {name: value for name, value in cfg.items() if name != key})
    with pytest.raises(ConfigError, match=f"saved cfg of the head 'ner' has nothing as '{key}'"):
        spacy.load(pipeline)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labels": ["CITY"]}, "don't fit its settings"),
        ({"labels": ["CITY", "PERSON", "PLANET"]}, "don't fit its settings"),
        ({"width": 31}, "don't fit its settings"),
        ({"width": 10**12}, "the width in its cfg"),
        ({"width": None}, "was saved with weights"),
    ],
)
def test_sizes_of_a_head_that_are_not_those_of_its_weights(pipeline, settings, said):
    change(pipeline / HEAD / "cfg", **settings)
    with pytest.raises(ConfigError, match=said):
        spacy.load(pipeline)


@pytest.mark.parametrize("found", [None, 0, -1, 10**6, 10**9, "32", 3.5, True, [32], {"a": 32}])
@pytest.mark.parametrize(
    "key",
    [
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
        "max_position_embeddings",
    ],
)  # fmt: skip
def test_sizes_of_an_encoder_that_are_not_those_of_its_weights(pipeline, key, found):
    change(pipeline / ENCODER / "config.json", **{key: found})
    with pytest.raises(EncoderError, match=rf"config\.json of the saved encoder .*{key}|but config\.json says"):
        spacy.load(pipeline)


@pytest.mark.parametrize("key", ["max_position_embeddings", "vocab_size", "type_vocab_size", "intermediate_size"])
@pytest.mark.parametrize("more", [-1, 1])
def test_a_size_that_is_off_by_one(pipeline, key, more):
    path = pipeline / ENCODER / "config.json"
    change(path, **{key: srsly.read_json(path)[key] + more})
    with pytest.raises(EncoderError):
        spacy.load(pipeline)


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("model_type", None), ("model_type", ["bert"]), ("model_type", "nezha"),
        ("hidden_act", None), ("hidden_act", ["gelu"]), ("layer_norm_eps", None), ("layer_norm_eps", "small"),
        ("pad_token_id", "0"), ("type_vocab_size", None), ("type_vocab_size", 10**9), ("torch_dtype", 7),
        ("architectures", 7), ("id2label", 7), ("is_decoder", [1]),
    ],
)  # fmt: skip
def test_other_settings_of_an_encoder(pipeline, saved, key, found):
    change(pipeline / ENCODER / "config.json", **{key: found})
    assert_told_or_the_same(pipeline, saved)


@pytest.mark.parametrize("found", [None, 0, -1, 1, 10**9, "1e-12", [1e-12]])
def test_a_norm_that_divides_by_nothing(pipeline, found):
    change(pipeline / ENCODER / "config.json", layer_norm_eps=found)
    with pytest.raises(EncoderError, match=r"layer_norm_eps is .*, not a number between 0 and 1\. Expected .*Undo"):
        spacy.load(pipeline)


@pytest.mark.parametrize("found", ["512", [512], {"a": 1}, True])
def test_a_limit_that_is_no_number(pipeline, found):
    change(pipeline / ENCODER / "tokenizer_config.json", model_max_length=found)
    with pytest.raises(EncoderError, match=r"tokenizer_config\.json has .* as model_max_length\. Expected a number"):
        spacy.load(pipeline)
