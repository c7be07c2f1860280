"""The labels of exported checkpoints."""

from __future__ import annotations

import pytest
import torch
from checkpoints import named

from spacy_bertft.jobs.huggingface.head_weights import LACKING
from spacy_bertft.jobs.huggingface.tags import read_tags
from spacy_bertft.jobs.huggingface.their_labels import category_labels, number_labels, tag_labels
from spacy_bertft.tasks.entity_spans import Tagging

pytestmark = pytest.mark.touches_transformers


def config(names):
    return {key: {str(k): v for k, v in table.items()} for key, table in named(names).items()}


def bias(order):
    return torch.tensor([LACKING if place is None else 0.0 for place in order])


@pytest.mark.parametrize(
    ("names", "outside"),
    [
        (("I-LOC", "B-LOC", "O", "B-PER", "I-PER"), "O"),
        (("O", "S-PER", "B-PER", "E-PER", "I-PER"), "O"),
        (("PER", "none", "LOC"), "none"),
        (("B-LOC", "I-LOC", "I-PER", "O"), "O"),
        (("B-AGE", "O"), "O"),
    ],
)
def test_labels_of_an_imported_head_are_those_of_its_checkpoint(names, outside):
    found = read_tags(names, outside=outside)
    theirs = tag_labels(found.labels, found.scheme, config(names), bias(found.order))
    assert (theirs.names, theirs.order) == (names, found.order)
    assert theirs.changes(config(names)) == {}


def test_labels_added_since_give_a_new_order():
    names = ("O", "B-PER", "I-PER")
    theirs = tag_labels(("PER", "LOC"), "bio", config(names), torch.zeros(5))
    assert theirs.names == ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    assert theirs.order == (0, 1, 2, 3, 4)
    assert theirs.changes(config(names))["id2label"] == {
        "0": "O",
        "1": "B-PER",
        "2": "I-PER",
        "3": "B-LOC",
        "4": "I-LOC",
    }


def test_a_tag_that_the_checkpoint_lacked_is_kept_once_it_was_trained():
    theirs = tag_labels(("AGE",), "bio", config(("B-AGE", "O")), torch.zeros(3))
    assert theirs.names == ("O", "B-AGE", "I-AGE")


@pytest.mark.parametrize("scheme", ["bio", "biluo", "io", "iob1"])
def test_labels_of_a_trained_head_are_its_tags(scheme):
    tags = Tagging.of(["PER"], scheme).tags
    assert tag_labels(("PER",), scheme, {}, torch.zeros(len(tags))).names == tags


def test_categories_and_numbers():
    assert category_labels(("b", "a")).names == ("b", "a")
    assert category_labels(("b", "a")).changes(config(("b", "a"))) == {}
    assert number_labels(config(("score",)), 1).names == ("score",)
    assert number_labels(config(("a", "b", "c")), 2).names == ("LABEL_0", "LABEL_1")
    assert number_labels({}, 2).changes({}) == {}
