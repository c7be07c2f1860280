"""What a person would get wrong: one clear error, with what was found, what was expected and the fix."""

from __future__ import annotations

import json
import shutil

import pytest
import spacy
from pipelines import blank, examples, initialized
from spacy.training import Corpus, Example

from spacy_bertft.convert import convert
from spacy_bertft.errors import BertftError, ConfigError, DataError, EncoderError

pytestmark = pytest.mark.touches_transformers


def _initialize(nlp):
    nlp.initialize(lambda: examples(nlp))


def test_no_encoder_in_the_pipeline():
    nlp = spacy.blank("en")
    nlp.add_pipe("bertft_ner", name="ner")
    with pytest.raises(ConfigError, match=r"'ner' needs a bertft_encoder component before it.*Found: ner\..*add_pipe"):
        _initialize(nlp)


def test_a_head_before_its_encoder(tiny_bert):
    nlp = blank(tiny_bert, {})
    nlp.add_pipe("bertft_ner", name="ner", first=True)
    with pytest.raises(ConfigError, match=r"Found: ner, encoder\..*before=\"ner\""):
        _initialize(nlp)


def test_a_folder_without_weights(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"no weights \(found: config\.json.*model\.safetensors.*save_pretrained"):
        _initialize(blank(folder))


def test_a_name_that_means_nothing():
    with pytest.raises(EncoderError, match=r"'no/such-encoder' is not a folder here.*bert-base-cased"):
        _initialize(blank("no/such-encoder"))


def test_no_training_examples(tiny_bert):
    nlp = blank(tiny_bert)
    with pytest.raises(DataError, match=r"'ner' found no labels: 0 training examples.*add_label.*debug data"):
        nlp.initialize(lambda: [])


def test_a_training_file_that_is_not_there(tiny_bert, tmp_path):
    nlp = blank(tiny_bert)
    corpus = Corpus(tmp_path / "train.spacy")
    with pytest.raises(DataError, match=r"train\.spacy' does not exist.*--paths\.train.*bertft convert"):
        nlp.initialize(lambda: corpus(nlp))


def test_entities_that_overlap(tmp_path):
    (tmp_path / "train.jsonl").write_text(
        '{"text": "Anna Berg", "spans": [[0, 4, "PERSON"], [0, 9, "PERSON"]]}\n', encoding="utf8"
    )
    with pytest.raises(DataError, match=r"train\.jsonl:1: found.*overlap"):
        convert([tmp_path / "train.jsonl"], tmp_path / "corpus")


def test_examples_without_annotation(tiny_bert):
    nlp = blank(tiny_bert)
    bare = Example(nlp.make_doc("A text"), nlp.make_doc("A text"))
    with pytest.raises(DataError, match=r"found no labels: 1 training examples, none with an annotation"):
        nlp.initialize(lambda: [bare])


@pytest.mark.parametrize("setting", ["nmae", "windwo"])
def test_a_misspelt_setting_of_the_encoder(tiny_bert, setting):
    with pytest.raises(ValueError, match=setting):
        blank(tiny_bert, **{setting: "x"})


def test_a_misspelt_setting_of_a_head(tiny_bert):
    nlp = spacy.blank("en")
    with pytest.raises(ValueError, match="shceme"):
        nlp.add_pipe("bertft_ner", config={"shceme": "bio"})


def test_a_value_that_is_none_of_the_choices():
    nlp = spacy.blank("en")
    with pytest.raises(ValueError, match=r"scheme[\s\S]*'bio'[\s\S]*'biluo'[\s\S]*'io'"):
        nlp.add_pipe("bertft_ner", config={"scheme": "iob"})


def test_a_window_that_is_too_long(tiny_bert):
    with pytest.raises(ConfigError, match="window is 4096"):
        _initialize(blank(tiny_bert, window=4096))


def test_a_broken_saved_head(tiny_bert, tmp_path):
    initialized(tiny_bert).to_disk(tmp_path / "model")
    cfg = json.loads((tmp_path / "model/ner/cfg").read_text())
    (tmp_path / "model/ner/cfg").write_text(json.dumps({**cfg, "labels": ["ONE"]}))
    with pytest.raises(BertftError, match=r"'ner' don't fit its settings.*1 labels"):
        spacy.load(tmp_path / "model")
