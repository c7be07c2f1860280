"""Questions about a context, with answers as SQuAD writes them, or as data sets do, with parallel lists."""

from __future__ import annotations

from typing import Any

from spacy_bertft.errors import DataError, data_error
from spacy_bertft.jobs.convert.offsets import NAMES, OTHERS, in_characters
from spacy_bertft.jobs.convert.options import Unit
from spacy_bertft.jobs.convert.records import Answer, Record, brief, encodable
from spacy_bertft.jobs.convert.tally import Tally

QUESTION_KEYS = frozenset({"question", "context"})
_PARALLEL = {"text", "answer_start"}


def question_record(question: dict[str, Any], context: object, where: str, tally: Tally, unit: Unit) -> Record:
    """The Record of a question: its text, the context and the answers. unit: what the answers' offsets count."""
    first = text_of(question.get("question"), "question", where).strip()
    second = text_of(context, "context", where)
    return Record(where, text=first, second=second, answers=_answers(question, second, where, tally, unit))


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


def _answers(question: dict[str, Any], context: str, where: str, tally: Tally, unit: Unit) -> tuple[Answer, ...] | None:
    impossible = question.get("is_impossible")
    if impossible is not None and not isinstance(impossible, bool):
        raise data_error(
            where, found=f"'is_impossible': {brief(impossible)}", expected="true or false", fix="correct it"
        )
    if question.get("answers") is None:
        return () if impossible else None
    items = _items(question["answers"], where)
    answers = tuple(_answer(item, context, f"{where}, answers[{i}]", tally, unit) for i, item in enumerate(items))
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


def _answer(item: dict[str, Any], context: str, where: str, tally: Tally, unit: Unit) -> Answer:
    text, start = item.get("text"), item.get("answer_start")
    if not isinstance(text, str) or not text.strip() or type(start) is not int:
        raise data_error(
            where,
            found=brief(item),
            expected='{"text": "…", "answer_start": 0}',
            fix="give the answer's text and its first character in the context",
        )
    found = in_characters(context, start, start, unit)
    first = found[0] if found else None
    if first is None or not context.startswith(text, first):
        raise _elsewhere(text, start, context, where, unit)
    bare = text.strip()
    tally.trimmed += bare != text
    return Answer(first + text.index(bare), bare)


def _elsewhere(text: str, start: int, context: str, where: str, unit: Unit) -> DataError:
    """The error for an answer that is not where its offset says; it says what else the offset may count."""
    counted = next(
        (
            other
            for other in OTHERS
            if (found := in_characters(context, start, start, other)) and context.startswith(text, found[0])
        ),
        None,
    )
    place = context.find(text)
    hint = f"; the text begins at {place}" if place >= 0 else "; the text is nowhere in the context"
    fits = counted is not None and unit == "characters"
    return data_error(
        where,
        found=f"the answer {brief(text)}, but {brief(context[max(start, 0) :][: len(text)])} at answer_start {start}"
        + (f"; the offset fits if it counts {NAMES[counted]}" if fits and counted else hint),
        expected="an answer_start where the context holds the answer's text",
        fix=f"set offsets to {counted} (--offsets {counted})"
        if fits
        else "count in characters (not bytes or UTF-16 units), from 0",
    )
