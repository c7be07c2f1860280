"""A pipeline and annotated texts -> how each of its heads did, and all its scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from spacy.language import Language
from spacy.scorer import Scorer
from spacy.tokens import SpanGroup
from spacy.training import Example

from spacy_bertft.components.head_pipe import HeadPipe
from spacy_bertft.errors import DataError
from spacy_bertft.jobs.evaluate import Scores, shown_scores
from spacy_bertft.jobs.report.answers_and_numbers import best_answer, judge_answers, judge_numbers
from spacy_bertft.jobs.report.categories import CategoryHead, judge_categories
from spacy_bertft.jobs.report.entities import SpanHead, judge_spans
from spacy_bertft.jobs.report.heads import Judged, Unjudged
from spacy_bertft.tasks.ner import EntityTask
from spacy_bertft.tasks.qa import AnswerTask
from spacy_bertft.tasks.regression import RegressionTask
from spacy_bertft.tasks.scorers import ANSWERS_KEY
from spacy_bertft.tasks.textcat import CategoryTask

_ENTITIES = ("ner", "beam_ner", "entity_ruler")
_Judge = Callable[[Sequence[Example]], Judged | Unjudged]


@dataclass(frozen=True, slots=True)
class Results:
    """How a pipeline did on texts."""

    heads: tuple[Judged, ...]
    unjudged: tuple[Unjudged, ...]
    scores: Scores
    examples: tuple[Example, ...]  # with the pipeline's predictions


def judge(nlp: Language, examples: Sequence[Example]) -> Results:
    """Annotate the texts with a pipeline, and compare with their gold annotation.

    Raises DataError if there is none for any head.
    """
    thresholds = {name: task.threshold for name, task in _answer_tasks(nlp)}
    with _without_thresholds(nlp):
        docs = list(nlp.pipe(eg.predicted.copy() for eg in examples))
    annotated = [Example(doc, eg.reference) for doc, eg in zip(docs, examples, strict=True)]
    found = [head(annotated) for head in _heads(nlp, thresholds)]
    judged = tuple(one for one in found if isinstance(one, Judged))
    unjudged = tuple(one for one in found if isinstance(one, Unjudged))
    if not judged:
        names = ", ".join(f"{one.name} ({one.factory})" for one in unjudged) or "none"
        raise DataError(
            f"Nothing can be measured: the data have no gold annotation for any head of the pipeline (found: {names}). "
            "Expected texts with the entities, spans, categories, answers or numbers that one of them predicts. Give "
            "annotated texts."
        )
    for threshold in thresholds.values():
        _apply_threshold(annotated, threshold)
    return Results(judged, unjudged, shown_scores(Scorer(nlp=nlp).score(annotated)), tuple(annotated))


def _answer_tasks(nlp: Language) -> Iterator[tuple[str, AnswerTask]]:
    for name, pipe in nlp.pipeline:
        if isinstance(pipe, HeadPipe) and isinstance(pipe.task, AnswerTask):
            yield name, pipe.task


@contextmanager
def _without_thresholds(nlp: Language) -> Iterator[None]:
    """Let bertft_qa give every best answer: those below its threshold are needed for precision and recall."""
    saved = dict(_answer_tasks(nlp))
    try:
        for name, task in saved.items():
            nlp.get_pipe(name).task = replace(task, threshold=0.0)  # type: ignore[attr-defined]
        yield
    finally:
        for name, task in saved.items():
            nlp.get_pipe(name).task = task  # type: ignore[attr-defined]


def _apply_threshold(examples: Sequence[Example], threshold: float) -> None:
    for eg in examples:
        _, score, no_answer = best_answer(eg.predicted)
        if score < threshold * (score + no_answer):
            attrs = {**eg.predicted.spans[ANSWERS_KEY].attrs, "scores": []}
            eg.predicted.spans[ANSWERS_KEY] = SpanGroup(eg.predicted, name=ANSWERS_KEY, attrs=attrs, spans=[])


def _heads(nlp: Language, thresholds: dict[str, float]) -> Iterator[_Judge]:
    """What judges each head, in the order of the pipeline; components that set doc.ents are judged as one."""
    entities = [name for name, pipe in nlp.pipeline if _sets_entities(nlp, name, pipe)]
    for name, pipe in nlp.pipeline:
        factory = nlp.get_pipe_meta(name).factory
        task = pipe.task if isinstance(pipe, HeadPipe) else None
        if name in entities:
            if name == entities[0]:
                yield _of_entities(nlp, entities)
        elif isinstance(task, CategoryTask):
            yield _of_categories(_our_categories(name, factory, pipe, task))
        elif isinstance(task, AnswerTask):
            yield _of_answers(name, factory, thresholds[name])
        elif isinstance(task, RegressionTask):
            yield _of_numbers(name, factory)
        elif factory in ("textcat", "textcat_multilabel"):
            exclusive = factory == "textcat"
            threshold = float(pipe.cfg.get("threshold") or 0.5)  # type: ignore[attr-defined]
            positive = pipe.cfg.get("positive_label")  # type: ignore[attr-defined]
            head = CategoryHead(name, factory, _labels(pipe), exclusive, threshold, positive_label=positive)
            yield _of_categories(head)
        elif factory in ("spancat", "spancat_singlelabel"):
            cfg: dict[str, Any] = pipe.cfg  # type: ignore[attr-defined]
            used = cfg.get("threshold") if factory == "spancat" else None
            yield _of_spans(SpanHead(name, factory, _labels(pipe), cfg["spans_key"], used))


def _sets_entities(nlp: Language, name: str, pipe: Any) -> bool:
    ours = isinstance(pipe, HeadPipe) and isinstance(pipe.task, EntityTask)
    return ours or nlp.get_pipe_meta(name).factory in _ENTITIES


def _labels(pipe: Any) -> tuple[str, ...]:
    return tuple(pipe.labels)


def _of_entities(nlp: Language, names: Sequence[str]) -> _Judge:
    labels = tuple(label for name in names for label in _labels(nlp.get_pipe(name)))
    factories = dict.fromkeys(nlp.get_pipe_meta(name).factory for name in names)
    return _of_spans(SpanHead(" + ".join(names), " + ".join(factories), labels))


def _our_categories(name: str, factory: str, pipe: Any, task: CategoryTask) -> CategoryHead:
    unknown = () if task.unknown_label is None else (task.unknown_label,)
    return CategoryHead(
        name=name,
        factory=factory,
        labels=(*_labels(pipe), *unknown),
        exclusive=task.exclusive,
        threshold=task.threshold,
        temperature=task.temperature if task.exclusive else None,
        unknown_threshold=task.unknown_threshold if unknown else None,
        positive_label=task.positive_label,
    )


def _of_spans(head: SpanHead) -> _Judge:
    return lambda examples: judge_spans(head, examples)


def _of_categories(head: CategoryHead) -> _Judge:
    return lambda examples: judge_categories(head, examples)


def _of_answers(name: str, factory: str, threshold: float) -> _Judge:
    return lambda examples: judge_answers(name, factory, examples, threshold=threshold)


def _of_numbers(name: str, factory: str) -> _Judge:
    return lambda examples: judge_numbers(name, factory, examples)
