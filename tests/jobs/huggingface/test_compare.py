"""Logits of a head of ours and of transformers' model, compared on built-in texts."""

from __future__ import annotations

import pytest
import torch
from checkpoints import make_checkpoint, plain_logits

from spacy_bertft.errors import EncoderError
from spacy_bertft.jobs.huggingface import read as module
from spacy_bertft.jobs.huggingface.compare import largest_difference, sample, their_logits
from spacy_bertft.jobs.huggingface.read import from_huggingface

pytestmark = pytest.mark.touches_transformers


def test_only_logits_that_both_have_are_compared():
    ours, theirs = torch.tensor([1.0, -1e4, 2.0]), torch.tensor([2.0, 1.0])
    assert largest_difference([ours], [theirs], (1, None, 0)) == 0.0
    assert largest_difference([], [], (0,)) is None


@pytest.mark.parametrize("change", [0.1, float("nan")])
def test_more_than_rounding_is_an_error(change):
    with pytest.raises(EncoderError, match=r"differ by .*Expected the same up to rounding"):
        largest_difference([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 2.0 + change])], (0, 1))


def test_rounding_is_a_fraction_of_the_logits():
    assert largest_difference([torch.tensor([500.1])], [torch.tensor([500.0])], (0,)) == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize("family", ["bert-uncased", "roberta", "deberta-v2"])
@pytest.mark.parametrize("task", ["ner", "textcat", "qa"])
def test_theirs_are_those_of_their_own_tokenizer_and_model(tmp_path, family, task):
    folder = make_checkpoint(tmp_path / "c", family, task)
    nlp = from_huggingface(str(folder))
    splitter = nlp.get_pipe("encoder").encoder.splitter
    (found,) = their_logits(_model(folder, task), splitter, ["Yes, Anna lives in Berlin."])
    torch.testing.assert_close(found, plain_logits(folder, task, "Yes, Anna lives in Berlin."))


def _model(folder, task):
    import transformers
    from checkpoints import KINDS

    return getattr(transformers, f"AutoModelFor{KINDS[task]}").from_pretrained(folder)


def test_texts_that_fit_in_a_window_are_taken(tmp_path):
    splitter = (
        from_huggingface(str(make_checkpoint(tmp_path / "c", "bert-uncased", "ner")))
        .get_pipe("encoder")
        .encoder.splitter
    )
    assert 0 < len(sample(splitter, 64)) < len(sample(splitter, None))
    assert not sample(splitter, 2)


def test_a_head_that_computes_something_else_is_not_imported(tmp_path, monkeypatch):
    folder = make_checkpoint(tmp_path / "c", "bert-uncased", "ner")
    usual = module.to_ours
    monkeypatch.setattr(module, "to_ours", lambda *args: {name: 1.1 * it for name, it in usual(*args).items()})
    with pytest.raises(EncoderError, match="logits of the pipeline and of transformers' model differ by"):
        from_huggingface(str(folder))
