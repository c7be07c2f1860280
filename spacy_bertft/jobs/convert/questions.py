"""Questions about a context, with answers as SQuAD writes them, or as data sets do, with parallel lists."""

from __future__ import annotations

from typing import Any

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert.records import Answer, Record, brief, encodable
from spacy_bertft.jobs.convert.tally import Tally

QUESTION_KEYS = frozenset({"question", "context"})
_PARALLEL = {"text", "answer_start"}


def question_record(question: dict[str, Any], context: object, where: str, tally: Tally) -> Record:
    """The Record of a question: its text, the context and the answers."""
    first = text_of(question.get("question"), "question", where).strip()
    second = text_of(context, "context", where)
    return Record(where, text=first, second=second, answers=_answers(question, second, where, tally))


def text_of(text: object, key: str, where: str) -> str:
    """Return a question or a context. Raises DataError if it has no words."""
    if not isinstance(text, str) or not text.strip():
        raise data_error(
            where,
            found=f"{key!r}: {brief(text)}",
            expected="a text with at least one word",
            fix=f"fill it in, or delete this {'paragraph' if key == 'context' else 'question'}",
        )
    return encodable(text, where, key)


def _answers(question: dict[str, Any], context: str, where: str, tally: Tally) -> tuple[Answer, ...] | None:
    impossible = question.get("is_impossible")
    if impossible is not None and not isinstance(impossible, bool):
        raise data_error(
            where, found=f"'is_impossible': {brief(impossible)}", expected="true or false", fix="correct it"
        )
    if question.get("answers") is None:
        return () if impossible else None
    items = _items(question["answers"], where)
    answers = tuple(_answer(item, context, f"{where}, answers[{i}]", tally) for i, item in enumerate(items))
    if impossible is not None and impossible == bool(answers):
        found = f"the answer {brief(answers[0].text)}" if answers else "no answers"
        raise data_error(
            where,
            found=f"{found} beside is_impossible = {str(impossible).lower()}",
            expected="answers, or is_impossible = true",
            fix="delete one of the two; where the answers are not known, leave out both",
        )
    return tuple(dict.fromkeys(answers))


def _items(answers: object, where: str) -> list[dict[str, Any]]:
    """The answers as a list of objects."""
    if isinstance(answers, dict) and answers.keys() >= _PARALLEL:
        texts, starts = answers["text"], answers["answer_start"]
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if isinstance(answers, list) and all(isinstance(item, dict) for item in answers):
        return answers
    raise data_error(
        where,
        found=f"'answers': {brief(answers)}",
        expected='a list of objects under \'answers\', such as {"text": "…", "answer_start": 0}, or one object with a '
        "list of each",
        fix="bring the answers into this form",
    )


def _answer(item: dict[str, Any], context: str, where: str, tally: Tally) -> Answer:
    text, start = item.get("text"), item.get("answer_start")
    if not isinstance(text, str) or not text.strip() or type(start) is not int:
        raise data_error(
            where,
            found=brief(item),
            expected='{"text": "…", "answer_start": 0}',
            fix="give the answer's text and its first character in the context",
        )
    there = context[start : start + len(text)] if start >= 0 else ""
    if there != text:
        elsewhere = context.find(text)
        hint = f"; the text begins at {elsewhere}" if elsewhere >= 0 else "; the text is nowhere in the context"
        raise data_error(
            where,
            found=f"the answer {brief(text)}, but {brief(there)} at answer_start {start}{hint}",
            expected="an answer_start where the context holds the answer's text",
            fix="count in characters (not bytes or UTF-16 units), from 0",
        )
    bare = text.strip()
    tally.trimmed += bare != text
    return Answer(start + text.index(bare), bare)
