from __future__ import annotations

import json

import pytest
from convert_helpers import load

from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.recipes.parts import Parts, divided


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "all.jsonl"
    lines = [json.dumps({"body": f"Ada met {n}", "spans": [[0, 3, "PER"]]}) + "\n" for n in range(10)]
    path.write_text("".join(lines), "utf-8")
    return path


def divide(texts, folder, *, force=False):
    return divided(texts, folder, lang="en", options=Options(text_key="body"), force=force)


def test_a_fifth_is_set_aside_and_written_at_the_end(texts, tmp_path):
    folder = tmp_path / "corpus"
    with divide(texts, folder) as parts:
        assert [len(load(path)) for path in parts.readable] == [8, 2]
        assert not folder.exists()
    assert (parts.train, parts.dev) == (folder / "train.spacy", folder / "dev.spacy")
    assert [len(load(path)) for path in (parts.train, parts.dev)] == [8, 2]
    assert parts.report is not None
    assert parts.report.parts == {parts.train: 8, parts.dev: 2}
    assert [(file.source, file.target) for file in parts.report.files] == [(texts, folder)]
    assert not parts.of_other_formats()


def test_nothing_is_written_if_the_block_fails(texts, tmp_path):
    with pytest.raises(RuntimeError, match="boom"), divide(texts, tmp_path / "corpus"):
        raise RuntimeError("boom")
    assert not (tmp_path / "corpus").exists()


def test_what_is_there_is_kept_unless_forced(texts, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "dev.spacy").write_text("old")
    with pytest.raises(ConfigError, match=r"dev: found none, and .*dev\.spacy; expected .* fix: .*--dev.*--force"):
        divide(texts, folder).__enter__()
    assert (folder / "dev.spacy").read_text() == "old"
    with divide(texts, folder, force=True):
        pass
    assert len(load(folder / "dev.spacy")) == 2
    train = (folder / "train.spacy").read_bytes()
    with pytest.raises(ConfigError, match=r"train\.spacy; expected a free path"):
        divide(folder / "train.spacy", folder, force=True).__enter__()
    assert (folder / "train.spacy").read_bytes() == train


def test_errors_of_the_texts_name_them(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": 3}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:1: found 'body': 3"):
        divide(path, tmp_path / "corpus").__enter__()


def test_two_inputs_are_where_they_are(tmp_path):
    train, dev = tmp_path / "a.spacy", tmp_path / "b.json"
    parts = Parts(train, dev, Options())
    assert (parts.readable, parts.report) == ((train, dev), None)
    assert parts.of_other_formats()
    assert not Parts(train, train, Options()).of_other_formats()
    assert Parts(train, train, Options(span_group="sc")).of_other_formats()
