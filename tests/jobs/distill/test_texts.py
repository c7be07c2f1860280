"""Texts without annotation, from files of all kinds."""

from __future__ import annotations

import gzip
import json

import pytest
import spacy
from pipelines import annotated_file
from spacy.tokens import DocBin

from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.convert.corpus import create_corpus
from spacy_bertft.jobs.distill.texts import create_with_unlabelled

pytestmark = pytest.mark.touches_transformers


def texts(*paths, **settings):
    nlp = spacy.blank("en", config={"nlp": {"tokenizer": {"@tokenizers": "spacy-bertft.PairTokenizer.v1"}}})
    return list(create_with_unlabelled([str(path) for path in paths], **settings)(nlp))


def plain(examples):
    return [eg.predicted.text for eg in examples]


def test_each_line_of_a_text_file_is_a_text(tmp_path):
    (tmp_path / "a.txt").write_text("One text.\nAnother.\n\n  A third. \n", encoding="utf-8")
    with gzip.open(tmp_path / "b.txt.gz", "wt", encoding="utf-8") as file:
        file.write("A fourth.\n")
    assert plain(texts(tmp_path / "a.txt", tmp_path / "b.txt.gz")) == ["One text.", "Another.", "A third.", "A fourth."]


def test_each_record_of_others_is_one_and_loses_its_annotation(tmp_path):
    annotated_file(tmp_path / "a.jsonl", [("Anna lives\nhere", [(0, 4, "PERSON")], "home")])
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"text": "Two\nlines"}) + "\n")
    nlp = spacy.blank("en")
    doc = nlp("Bob was here")
    doc.set_ents([doc[:1].char_span(0, 3, label="PERSON")])
    doc.cats = {"home": 1.0}
    DocBin(docs=[doc]).to_disk(tmp_path / "c.spacy")
    found = texts(tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz", tmp_path / "c.spacy")
    assert plain(found) == ["Anna lives\nhere", "Two\nlines", "Bob was here"]
    for eg in found:
        assert not eg.reference.cats
        assert set(eg.get_aligned_ner()) == {None}


def test_pairs_keep_their_segments(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"first": "One?", "second": "Two."}) + "\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("Three?\tFour.\n", encoding="utf-8")
    for eg in texts(tmp_path / "a.jsonl", tmp_path / "b.txt"):
        assert len(eg.predicted.spans["segments"]) == 2


def test_annotated_texts_come_first(tmp_path):
    annotated_file(tmp_path / "train.jsonl")
    (tmp_path / "a.txt").write_text("One text.\n", encoding="utf-8")
    found = texts(tmp_path / "a.txt", annotated=create_corpus(tmp_path / "train.jsonl"))
    assert found[0].reference.ents
    assert plain(found)[-1] == "One text."
    assert len(found) == 7


def test_a_folder_means_its_files(tmp_path):
    (tmp_path / "a.txt").write_text("One text.\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"body": "Two"}\n', encoding="utf-8")
    (tmp_path / "notes.md").write_text("No text.\n", encoding="utf-8")
    assert plain(texts(tmp_path, text_key="body")) == ["One text.", "Two"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"\xff\xfe\x00", "UTF-8"),
        ("a.txt", b"\n\n", "no text"),
        ("a.txt.gz", b"no gzip", "can't be decompressed"),
        ("a.spacy", b"no DocBin", "could not be read"),
        ("a.jsonl", b"{", "JSON"),
        ("a.xyz", b"text", "a.xyz"),
    ],
)
def test_files_that_cant_be_read(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((ConfigError, DataError), match=said):
        texts(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="not found"):
        texts(tmp_path / "none.jsonl")
