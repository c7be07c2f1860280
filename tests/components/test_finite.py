"""Losses and logits that are no numbers: errors, in place of scores of NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pipelines import HEADS, TEXTS, examples, initialized, module_of, trained, weights

from spacy_bertft.components.finite import check_logits, check_loss
from spacy_bertft.errors import ConfigError, DataError

pytestmark = pytest.mark.touches_transformers

NUMBERS = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_loss_that_is_no_number(number):
    check_loss("ner", 1e30)
    with pytest.raises(DataError, match=r"The loss of 'ner' is \S+: training has diverged.*Lower the learning rate"):
        check_loss("ner", number)


@pytest.mark.parametrize("number", NUMBERS)
def test_logits_that_are_no_numbers(number):
    logits = np.zeros((3, 4), dtype=np.float32)
    logits[1, 2] = number
    with pytest.raises(DataError, match=r"'ner' computed 1 NaN or infinite logits of 12\. Expected .*Load an"):
        check_logits("ner", logits)


@pytest.mark.parametrize("logits", [np.zeros((0, 4)), np.zeros((3, 4)), np.full((2, 2), 3e38), -np.ones((1, 1))])
def test_logits_that_are_numbers_pass_even_if_their_sum_is_none(logits):
    check_logits("ner", logits.astype(np.float32))


@pytest.mark.parametrize("name", HEADS)
def test_a_head_with_broken_weights_sets_nothing_and_says_so_of_each_text(tiny_bert, name):
    nlp = trained(tiny_bert)
    with torch.no_grad():
        module_of(nlp, name).output.bias[0] = float("nan")
    said = []
    nlp.set_error_handler(lambda pipe, component, docs, error: said.append((pipe, str(error))))
    docs = list(nlp.pipe(TEXTS))
    assert [pipe for pipe, _ in said] == [name] * len(TEXTS)
    assert "NaN or infinite" in said[0][1]
    assert docs == []


@pytest.mark.parametrize("name", HEADS)
def test_a_head_with_broken_weights_does_not_load(tiny_bert, tmp_path, name):
    nlp = trained(tiny_bert)
    with torch.no_grad():
        module_of(nlp, name).output.weight[0, 0] = float("nan")
    nlp.get_pipe(name).to_disk(tmp_path)
    content = nlp.get_pipe(name).to_bytes()
    for load in (lambda pipe: pipe.from_disk(tmp_path), lambda pipe: pipe.from_bytes(content)):
        said = rf"weights of the head '{name}' \(model\.safetensors\) hold NaN or infinite numbers, in output\.weight"
        with pytest.raises(ConfigError, match=said):
            load(initialized(tiny_bert).get_pipe(name))


@pytest.mark.parametrize("name", ["encoder", *HEADS])
def test_a_gradient_that_is_no_number_makes_no_weights_of_nan(tiny_bert, name):
    nlp = initialized(tiny_bert)
    optimizer = nlp.create_optimizer()
    nlp.update(examples(nlp), sgd=False)
    pipe = nlp.get_pipe(name)
    if name == "encoder":
        pipe.settle()
    before = weights(nlp, name)
    next(module_of(nlp, name).parameters()).grad.view(-1)[0] = float("nan")
    with pytest.raises(DataError, match=f"The norm of the gradients of '{name}' is nan"):
        pipe.finish_update(optimizer)
    assert all(torch.equal(value, before[key]) for key, value in weights(nlp, name).items())
