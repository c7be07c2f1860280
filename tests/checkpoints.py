"""Tiny fine-tuned checkpoints, each with a head of transformers', and the logits that transformers computes."""

from __future__ import annotations

import atexit
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import pytest
import torch
import transformers
from tiny import make_encoder

_MADE = TemporaryDirectory(prefix="bertft-checkpoints-")
atexit.register(_MADE.cleanup)
TAGS = ("I-LOC", "B-LOC", "O", "B-PER", "I-PER")  # O and the parts in no usual order
CATEGORIES = ("praise", "blame", "question")
PROBLEMS = {
    "textcat": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}
KINDS = {
    "ner": "TokenClassification",
    "textcat": "SequenceClassification",
    "multilabel": "SequenceClassification",
    "pair": "SequenceClassification",
    "regression": "SequenceClassification",
    "qa": "QuestionAnswering",
    "fill-mask": "MaskedLM",
}


def named(labels: Any) -> dict[str, Any]:
    """The settings of config.json for labels."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: place for place, label in enumerate(labels)}}


def settings_of(task: str) -> dict[str, Any]:
    """The settings of config.json for a task."""
    labels = {"ner": TAGS, "textcat": CATEGORIES, "multilabel": CATEGORIES, "pair": CATEGORIES, "regression": ("n",)}
    problem = {"problem_type": PROBLEMS[task]} if task in PROBLEMS else {}
    return problem | (named(labels[task]) if task in labels else {})


@cache
def _made(family: str, task: str, settings: tuple[tuple[str, Any], ...]) -> Path:
    folder = Path(mkdtemp(dir=_MADE.name))
    return make_encoder(folder, family, head=f"AutoModelFor{KINDS[task]}", **(settings_of(task) | dict(settings)))


def make_checkpoint(folder: Path, family: str, task: str, **settings: Any) -> Path:
    """A fine-tuned checkpoint of a family. settings: of config.json, beside the task's."""
    if family == "modernbert" and task == "qa" and not hasattr(transformers, "ModernBertForQuestionAnswering"):
        pytest.skip(f"transformers {transformers.__version__} has no ModernBertForQuestionAnswering")
    if all(value.__hash__ for value in settings.values()):
        return shutil.copytree(_made(family, task, tuple(sorted(settings.items()))), folder, dirs_exist_ok=True)
    return make_encoder(folder, family, head=f"AutoModelFor{KINDS[task]}", **(settings_of(task) | settings))


@torch.no_grad()
def plain_logits(folder: Path, task: str, *texts: str) -> torch.Tensor:
    """Logits by transformers alone, of one text or a pair: (L,), or (N, L) with the special subwords."""
    model = getattr(transformers, f"AutoModelFor{KINDS[task]}").from_pretrained(folder).eval()
    # That of ALBERT in transformers 5 tells segments apart only if asked to.
    segments = len(texts) > 1 and getattr(model.config, "type_vocab_size", 0) > 1
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    output = model(**tokenizer(*texts, return_tensors="pt", return_token_type_ids=segments))
    if task == "qa":
        return torch.stack([output.start_logits[0], output.end_logits[0]], dim=1)
    return output.logits[0]
