"""What a head reads off its training data: examples and labels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import spacy
from pipelines import examples
from spacy.training import Corpus, Example

from spacy_bertft.components.training_data import all_examples, find_labels
from spacy_bertft.errors import DataError

pytestmark = pytest.mark.touches_transformers

NLP = spacy.blank("en")


def task(*found):
    """A task that finds these labels in whatever examples."""
    return SimpleNamespace(labels_in=lambda examples: iter(found))


# --- examples


def test_all_examples_are_read_once():
    golds = examples(NLP)
    assert all_examples(lambda: iter(golds)) == golds


def test_a_file_that_is_not_there_is_named_with_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=r"'missing\.spacy' does not exist \(.+missing\.spacy\).*Correct --paths\.train"
    ) as caught:
        all_examples(lambda: Corpus("missing.spacy")(NLP))
    assert str(tmp_path / "missing.spacy") in str(caught.value)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_an_error_of_a_reader_of_ones_own_that_names_no_file_is_told():
    def read():
        raise FileNotFoundError("no texts of 1999")

    with pytest.raises(DataError, match="no texts of 1999"):
        all_examples(read)


def test_other_errors_pass():
    def read():
        raise PermissionError(13, "no", "secret.spacy")

    with pytest.raises(PermissionError):
        all_examples(read)


def test_what_is_no_example_is_spacys_error():
    doc = NLP.make_doc("a")
    with pytest.raises(TypeError, match=r"HeadPipe\.initialize"):
        all_examples(lambda: [Example(doc, doc), doc])


def test_no_examples_are_none():
    assert all_examples(lambda: []) == []


# --- labels


def labels(task, *, given=None, known=()):
    return list(find_labels(task, "ner", [], given=given, known=known))


def test_labels_are_those_of_the_examples_sorted_and_once_each():
    assert labels(task("b", "c", "b", "a")) == ["a", "b", "c"]


def test_known_labels_come_first_and_keep_their_order():
    assert labels(task("b", "a", "z"), known=["z", "m"]) == ["z", "m", "a", "b"]


def test_known_labels_are_enough():
    assert labels(task(), known=["z", "m"]) == ["z", "m"]


def test_labels_that_are_given_are_all_and_keep_their_order():
    assert labels(task("a", "b"), given=["z", "a"], known=["m"]) == ["z", "a"]


def test_examples_are_not_looked_at_where_labels_are_given():
    def look(examples):
        raise AssertionError("looked at")

    assert labels(SimpleNamespace(labels_in=look), given=["a"]) == ["a"]


@pytest.mark.parametrize("given", [None, []])
def test_no_labels_are_an_error_that_counts_the_examples(given):
    with pytest.raises(
        DataError, match=r"'ner' found no labels: 6 training examples.*initialize\.components\.ner\.labels"
    ):
        find_labels(task(), "ner", examples(NLP), given=given, known=[])
