"""Data sets of Hugging Face: saved ones, folders as the hub has them, and names on the hub."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from convert_helpers import ents, iobs, load

from spacy_bertft.convert import convert
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.convert.formats.datasets import records_of
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.tally import Tally

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()
TAGS = datasets.Features(
    {
        "tokens": datasets.Sequence(datasets.Value("string")),
        "ner_tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER", "I-PER"])),
    }
)
CLASSES = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})


def tagged(*tags):
    return datasets.Dataset.from_dict({"tokens": [["Ada", "Lee", "ran"]], "ner_tags": [list(tags)]}, features=TAGS)


@pytest.fixture
def saved(tmp_path):
    splits = datasets.DatasetDict({"train": tagged(1, 2, 0), "test": tagged(1, 1, 0)})
    splits.save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_each_split_becomes_a_file(saved, tmp_path):
    report = convert([saved], tmp_path / "out")
    assert [(file.target.name, file.format) for file in report.files] == [
        ("train.spacy", "data set"),
        ("test.spacy", "data set"),
    ]
    train, test = (load(file.target)[0] for file in report.files)
    assert ents(train) == [("Ada Lee", "PER")]
    assert ents(test) == [("Ada", "PER"), ("Lee", "PER")]
    assert iobs(train)[2] == "O"


def test_one_split_is_named_after_a_colon(saved, converted):
    assert len(converted(Path(f"{saved}:test")).doc.ents) == 2
    with pytest.raises(DataError, match=r"found no split 'dev'; expected one of train, test"):
        converted(Path(f"{saved}:dev"))


def test_a_data_set_without_splits(tmp_path, converted):
    tagged(1, 0, 0).save_to_disk(tmp_path / "one")
    assert ents(converted(tmp_path / "one").doc) == [("Ada", "PER")]
    (file,) = convert([tmp_path / "one"], tmp_path / "out").files
    assert file.target.name == "one.spacy"


def test_lists_as_datasets_3_has_them():
    features = {"text": datasets.Value("string"), "labels": [datasets.ClassLabel(names=["x", "y"])]}
    rows = [{"text": "a", "labels": [0, 1]}]
    (record,) = records_of(lambda: rows, features, "here", Options(), Tally())
    assert record.labels == ("x", "y")


def test_a_folder_as_the_hub_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=CLASSES)
    for split in ("train", "test"):
        rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    report = convert([tmp_path / "hub"], tmp_path / "out")
    assert [file.target.name for file in report.files] == ["train.spacy", "test.spacy"]
    assert load(report.files[0].target)[0].cats == {"neg": 0.0, "pos": 1.0}


def test_a_name_on_the_hub(tmp_path, monkeypatch):
    asked = []

    def load_dataset(name, subset):
        asked.append((name, subset))
        return datasets.DatasetDict(train=tagged(1, 2, 0), validation=tagged(0, 0, 0))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    report = convert([Path("owner/name")], tmp_path / "out", format="datasets", subset="en")
    assert [file.target.name for file in report.files] == ["train.spacy", "validation.spacy"]
    assert set(asked) == {("owner/name", "en")}
    (file,) = convert([Path("owner/name:train")], tmp_path / "one", format="datasets").files
    assert (file.target.name, file.counts.entities) == ("train.spacy", {"PER": 1})


def test_a_name_that_is_not_there(tmp_path, monkeypatch):
    def load_dataset(name, subset):
        raise FileNotFoundError(f"Couldn't find any data file at {name}")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"owner/nme: found a data set that can't be loaded \(Couldn't.*--subset"):
        convert([Path("owner/nme")], tmp_path, format="datasets")


def test_the_extra_is_named_if_it_is_missing(saved, converted, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install \"spacy-bertft\[datasets\]\""):
        converted(saved)
