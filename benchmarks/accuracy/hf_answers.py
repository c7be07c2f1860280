"""The Hugging Face side of extractive question answering: windows over each context, a span in each, with the Trainer.

A window that does not hold the answer has the classification token as its answer, and so has every window of a question
without one. All windows of a question compete for its best answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hf_trainer
import numpy as np
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    set_seed,
)

from spacy_bertft.encoder.loading import find_folder

WINDOW = 384
STRIDE = 128  # subwords of the context that neighbouring windows share
N_BEST = 20  # highest starts and ends of a window that are paired
LONGEST = 30  # subwords


@dataclass(frozen=True)
class Question:
    """A question about a context; one without answers can't be answered from it."""

    id: str
    question: str
    context: str
    answers: tuple[tuple[int, str], ...]  # place of the first character, text


@dataclass(frozen=True)
class Prediction:
    """The best answer, and by how much no answer scores above it (infinite, with no text, if no span is possible)."""

    text: str
    null_margin: float


@dataclass(frozen=True)
class Window:
    """What the model reads of one question at a time."""

    question: Question
    features: dict[str, list[int]]
    null: int  # place of the classification token
    first: int  # place of the context's first subword
    offsets: np.ndarray  # (subwords of the context, 2): characters of the context


def run(
    train: list[Question], others: dict[str, list[Question]], recipe: hf_trainer.Recipe, seed: int, folder: Path
) -> dict[str, dict[str, Prediction]]:
    """Train on `train`; for each of the other sets, a prediction by question id."""
    set_seed(seed)
    source = str(find_folder(recipe.encoder) or recipe.encoder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForQuestionAnswering.from_pretrained(source, dtype=torch.float32)
    features = [{**window.features, **target(window)} for window in windows(tokenizer, train)]
    arguments = hf_trainer.arguments(recipe, len(features), seed, folder)
    collator = DataCollatorWithPadding(tokenizer)
    trainer = Trainer(model=model, args=arguments, train_dataset=features, data_collator=collator)
    trainer.train()
    return {name: predict(trainer, windows(tokenizer, questions)) for name, questions in others.items()}


def windows(tokenizer: Any, questions: list[Question]) -> list[Window]:
    """One or more windows a question, in the order of the questions."""
    encoding = tokenizer(
        [question.question.lstrip() for question in questions],
        [question.context for question in questions],
        truncation="only_second",
        max_length=WINDOW,
        stride=STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    owners = encoding.pop("overflow_to_sample_mapping")
    offsets = encoding.pop("offset_mapping")
    result = []
    for row, owner in enumerate(owners):
        features = {name: values[row] for name, values in encoding.items()}
        context = [place for place, part in enumerate(encoding.sequence_ids(row)) if part == 1]
        characters = np.array([offsets[row][place] for place in context]).reshape(-1, 2)
        null = features["input_ids"].index(tokenizer.cls_token_id)
        result.append(Window(questions[owner], features, null, context[0] if context else 0, characters))
    return result


def target(window: Window) -> dict[str, int]:
    """Places of the first gold answer's first and last subword, or of no answer."""
    starts, ends = window.offsets.T
    if window.question.answers:
        start, text = window.question.answers[0]
        end = start + len(text)
        if len(starts) and starts[0] <= start and end <= ends[-1]:
            first = int(np.flatnonzero(starts <= start)[-1])
            last = int(np.flatnonzero(ends >= end)[0])
            return {"start_positions": window.first + first, "end_positions": window.first + last}
    return {"start_positions": window.null, "end_positions": window.null}


def predict(trainer: Trainer, found: list[Window]) -> dict[str, Prediction]:
    """The best answer of each question over its windows."""
    start_logits, end_logits = trainer.predict([window.features for window in found]).predictions[:2]
    nulls: dict[str, float] = {}
    bests: dict[str, tuple[float, str]] = {}
    for window, starts, ends in zip(found, start_logits, end_logits, strict=True):
        name = window.question.id
        nulls[name] = min(nulls.get(name, math.inf), float(starts[window.null] + ends[window.null]))
        length = len(window.features["input_ids"])  # what follows is padding
        bests[name] = max(
            bests.get(name, (-math.inf, "")),
            best_span(window, starts[:length], ends[:length]),
            key=lambda scored: scored[0],
        )
    return {name: Prediction(text, nulls[name] - score) for name, (score, text) in bests.items()}


def best_span(window: Window, start_logits: Sequence[float], end_logits: Sequence[float]) -> tuple[float, str]:
    """Score and text of the best span inside the context."""
    best = (-math.inf, "")
    ends = _highest(window, end_logits)
    for first in _highest(window, start_logits):
        for last in ends:
            score = float(start_logits[window.first + first] + end_logits[window.first + last])
            if first <= last < first + LONGEST and score > best[0]:
                text = window.question.context[window.offsets[first, 0] : window.offsets[last, 1]]
                best = (score, text) if text else best
    return best


def _highest(window: Window, logits: Sequence[float]) -> list[int]:
    """The highest places of the whole window, those in the context only, counted from its first subword."""
    places = np.argsort(logits)[::-1][:N_BEST] - window.first
    return [int(place) for place in places if 0 <= place < len(window.offsets)]
