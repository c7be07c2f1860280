"""Parquet files and the classes of their columns."""

from __future__ import annotations

import pytest
from convert_helpers import ents

from spacy_bertft.errors import DataError

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()
STRING = datasets.Value("string")
TEXT = "Ada met Bob"


@pytest.fixture
def parquet(tmp_path, converted):
    """`parquet(columns, features)` writes a file and converts it."""

    def run(columns, features=None, **options):
        path = tmp_path / "a.parquet"
        features = None if features is None else datasets.Features(features)
        datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
        return converted(path, **options)

    return run


def test_classes_have_their_names(parquet):
    features = {"text": STRING, "label": datasets.ClassLabel(names=["neg", "pos"])}
    out = parquet({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features)
    assert out.format == "Parquet"
    assert [doc.cats for doc in out.docs] == [{"neg": 0.0, "pos": 1.0}, {"neg": 1.0, "pos": 0.0}, {}]


def test_lists_of_classes_are_independent_categories(parquet):
    features = {"text": STRING, "labels": datasets.Sequence(datasets.ClassLabel(names=["x", "y"]))}
    out = parquet({"text": ["a", "b"], "labels": [[0, 1], []]}, features)
    assert [doc.cats for doc in out.docs] == [{"x": 1.0, "y": 1.0}, {"x": 0.0, "y": 0.0}]


def test_tags_may_be_names_and_keys_may_have_others(parquet):
    out = parquet({"words": [["Ada", "ran"]], "ner": [["B-PER", "O"]]}, tokens_key="words", tags_key="ner")
    assert ents(out.doc) == [("Ada", "PER")]


def test_numbers_are_values(parquet):
    out = parquet({"text": ["a", "b"], "label": [1.5, 0.25]})
    assert [doc.spans["value"].attrs["value"] for doc in out.docs] == [1.5, 0.25]
    assert out.counts.valued == 2


def test_pairs(parquet):
    features = {"premise": STRING, "hypothesis": STRING, "label": datasets.ClassLabel(names=["no", "yes"])}
    rows = {"premise": ["a"], "hypothesis": ["b"], "label": [1]}
    out = parquet(rows, features, first_key="premise", second_key="hypothesis")
    assert [span.text for span in out.doc.spans["segments"]] == ["a", "b"]


def test_spans(parquet):
    rows = {"text": [TEXT], "spans": [[{"start": 0, "end": 3, "label": "PER"}]]}
    assert ents(parquet(rows).doc) == [("Ada", "PER")]


def test_questions(parquet):
    answers = [{"text": ["Ada"], "answer_start": [0]}, {"text": [], "answer_start": []}]
    out = parquet({"question": ["Who?", "When?"], "context": [TEXT, TEXT], "answers": answers})
    assert (out.counts.answered, out.counts.unanswered) == (1, 1)
    assert [span.text for span in out.docs[0].spans["answers"]] == ["Ada"]


def test_a_file_that_is_cut_off(parquet, tmp_path, converted):
    parquet({"text": ["a"] * 50, "label": ["x"] * 50})
    path = tmp_path / "a.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a\.parquet: found Parquet that can't be read .*; fix: .*cut off"):
        converted(path)


def test_numbers_without_names_are_an_error(parquet):
    with pytest.raises(DataError, match=r"a\.parquet: row 1: found the tag 1; .*fix: "):
        parquet({"tokens": [["Ada"]], "ner_tags": [[1]]})


def test_numbers_of_classes_that_are_not_there(tmp_path, converted):
    import pyarrow
    from pyarrow import parquet as files

    features = datasets.Features({"text": STRING, "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = pyarrow.table({"text": ["a"], "label": [7]}, schema=features.arrow_schema)
    files.write_table(rows, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: row 1: found the number of a class .*7.*; fix: "):
        converted(tmp_path / "a.parquet")


def test_features_of_an_unknown_kind(tmp_path, converted):
    import pyarrow
    from pyarrow import parquet as files

    own = {"huggingface": '{"info": {"features": {"text": {"_type": "Smell"}}}}'}
    files.write_table(pyarrow.table({"text": ["a"]}).replace_schema_metadata(own), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: found columns whose features can't be read .*Smell.*; fix: "):
        converted(tmp_path / "a.parquet")
