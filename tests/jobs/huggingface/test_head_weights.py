"""Weights of heads under transformers' names and ours."""

from __future__ import annotations

import pytest
import torch

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.huggingface.families import HeadNames
from spacy_bertft.jobs.huggingface.head_weights import LACKING, to_ours, to_theirs

NAMES = HeadNames("classifier.out_proj", "classifier.dense", activation="tanh")


def weights(n_labels=3, width=4, dense=None):
    torch.manual_seed(0)
    return {
        "roberta.embeddings.word_embeddings.weight": torch.randn(2, 2),
        "classifier.dense.weight": torch.randn(dense or width, width),
        "classifier.dense.bias": torch.randn(dense or width),
        "classifier.out_proj.weight": torch.randn(n_labels, width),
        "classifier.out_proj.bias": torch.randn(n_labels),
    }


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, None, 2, 0, None)])
def test_they_are_renamed_and_permuted_and_the_same_again(order):
    theirs = weights()
    ours = to_ours(theirs, NAMES, order)
    assert set(ours) == {"dense.weight", "dense.bias", "output.weight", "output.bias"}
    for place, there in enumerate(order):
        if there is None:
            assert ours["output.bias"][place] == LACKING
            assert not ours["output.weight"][place].any()
        else:
            assert torch.equal(ours["output.weight"][place], theirs["classifier.out_proj.weight"][there])
            assert ours["output.bias"][place] == theirs["classifier.out_proj.bias"][there]
    again = to_theirs(ours, NAMES, order)
    assert set(again) == {name for name in theirs if name.startswith("classifier")}
    assert all(torch.equal(again[name], theirs[name]) for name in again)


def test_a_tag_that_the_checkpoint_lacks_has_no_probability():
    ours = to_ours(weights(), NAMES, (0, None, 1, 2))
    logits = torch.randn(5, 4) @ ours["output.weight"].T + ours["output.bias"]
    assert not logits.softmax(dim=1)[:, 1].any()


def test_a_hidden_layer_of_another_width_is_refused():
    names = HeadNames("classifier.out_proj", "classifier.dense", activation="tanh")
    with pytest.raises(
        ConfigError, match=r"classifier\.dense\.weight of the checkpoint's head are \(6, 4\)\. Expected \(4, 4\)"
    ):
        to_ours(weights(dense=6), names, (0, 1, 2))
