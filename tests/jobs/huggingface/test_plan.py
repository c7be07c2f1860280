"""What a config.json says about the head of a checkpoint."""

from __future__ import annotations

import re

import pytest

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.huggingface.plan import choose_task, labels_of, read_plan

TWO, ONE = {"0": "ham", "1": "spam"}, {"0": "LABEL_0"}


def config(architecture, **settings):
    return {"architectures": [architecture], "model_type": "bert", **settings}


@pytest.mark.parametrize(
    ("architecture", "settings", "expected"),
    [
        ("BertForTokenClassification", {}, "ner"),
        ("XLMRobertaForQuestionAnswering", {}, "qa"),
        ("BertForMaskedLM", {}, "fill-mask"),
        ("BertForSequenceClassification", {"id2label": TWO}, "textcat"),
        ("BertForSequenceClassification", {}, "textcat"),  # two labels by default
        ("BertForSequenceClassification", {"problem_type": "single_label_classification"}, "textcat"),
        (
            "BertForSequenceClassification",
            {"id2label": TWO, "problem_type": "multi_label_classification"},
            "multilabel",
        ),
        ("BertForSequenceClassification", {"id2label": ONE}, "regression"),
        ("BertForSequenceClassification", {"id2label": ONE, "problem_type": "regression"}, "regression"),
    ],
)
def test_the_class_and_the_problem_say_the_task(architecture, settings, expected):
    assert choose_task(config(architecture, **settings), "here") == expected


def test_only_the_user_knows_of_pairs():
    found = config("BertForSequenceClassification", id2label=TWO)
    assert choose_task(found, "here", pairs=True) == "pair"
    assert choose_task(found, "here", task="pair") == "pair"
    assert choose_task(found, "here", task="textcat", pairs=True) == "pair"
    assert choose_task(found | {"id2label": ONE}, "here", pairs=True) == "regression"


def test_a_task_that_suits_the_class_goes_first():
    found = config("BertForSequenceClassification", id2label=ONE)
    assert choose_task(found, "here", task="multilabel") == "multilabel"
    assert choose_task({"model_type": "bert"}, "here", task="ner") == "ner"
    assert choose_task(config("BertForPreTraining"), "here", task="fill-mask") == "fill-mask"


@pytest.mark.parametrize(
    ("found", "task", "said"),
    [
        (
            config("BertForSequenceClassification"),
            "ner",
            "task is 'ner', but 'here' is a BertForSequenceClassification",
        ),
        (config("BertForTokenClassification"), "qa", "Expected one of ner. Leave the task out"),
        ({}, None, "does not say what head the checkpoint has"),
        (
            config("BertModel"),
            None,
            "is a BertModel: an encoder without a head. Expected one of …ForTokenClassification",
        ),
        (config("BertModel"), "ner", "an encoder without a head"),
        (config("BertForMultipleChoice"), None, "is a BertForMultipleChoice: a head that has no equal here"),
        (config("ElectraForPreTraining"), None, "a head that has no equal here"),
    ],
)
def test_other_tasks_and_classes_are_refused(found, task, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        choose_task(found, "here", task=task)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, ("LABEL_0", "LABEL_1")),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": {"1": "b", "0": "a"}}, ("a", "b")),
        ({"id2label": {0: 1, 1: 5}}, ("1", "5")),
        ({"id2label": {str(place): f"l{place}" for place in range(12)}}, tuple(f"l{place}" for place in range(12))),
    ],
)
def test_labels_are_in_the_order_of_the_logits(found, expected):
    assert labels_of(found) == expected


@pytest.mark.parametrize(
    ("id2label", "said"),
    [
        ({"0": "a", "2": "b"}, "Expected a label for each place of the logits, from 0 on"),
        ({"a": "0"}, "Expected a label for each place"),
        ({}, "Expected a label for each place"),
        (["a"], "Expected a label for each place"),
        ({"0": "a", "1": "a"}, "has 'a' for several places, or an empty label"),
        ({"0": "", "1": "a"}, "Expected distinct labels"),
    ],
)
def test_labels_that_are_none_are_refused(id2label, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        labels_of({"id2label": id2label})


@pytest.mark.parametrize(
    ("settings", "task", "said"),
    [
        ({"model_type": "bart"}, "textcat", "'here' is of the family 'bart'. Expected one whose heads are known here"),
        ({"model_type": None}, "textcat", "is of the family None"),
        ({"id2label": {str(n): str(n) for n in range(3)}}, "qa", "'here' has 3 outputs (id2label in its config.json)"),
        ({"id2label": TWO}, "regression", "has 2 outputs (id2label in its config.json). Expected 1 for the task"),
        ({"model_type": "deberta-v2", "pooler_hidden_act": "mish"}, "textcat", "activation 'mish' (pooler_hidden_act"),
        ({"model_type": "modernbert", "classifier_pooling": "max"}, "textcat", "pools by 'max' (classifier_pooling"),
        ({"model_type": "modernbert", "norm_bias": True}, "textcat", "(classifier_bias = false, norm_bias = true"),
    ],
)  # fmt: skip
def test_what_no_head_of_ours_expresses_is_refused(settings, task, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_plan({"model_type": "bert", **settings}, "here", task)
