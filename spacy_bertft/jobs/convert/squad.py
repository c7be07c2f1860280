"""SQuAD 1.1 and 2.0: one JSON file of articles, paragraphs and questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert import foreign
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Answer, Record, brief, encodable
from spacy_bertft.jobs.convert.tally import Tally
from spacy_bertft.jobs.text_files import lines, parse_json

_SHAPE = (
    '{"data": [{"paragraphs": [{"context": "…", "qas": [{"question": "…", "answers": [{"text": "…", '
    '"answer_start": 0}]}]}]}]}'
)
_USED = {
    "": {"data", "version"},
    "data": {"paragraphs", "title"},
    "paragraphs": {"context", "qas"},
    "qas": {"question", "answers", "is_impossible", "id", "plausible_answers"},
}


def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
    """Yield a Record for each question."""
    content = parse_json(
        "".join(line for _, line in lines(path)),
        str(path),
        expected="one JSON object in the form of SQuAD",
        fix="check that the file is complete; for one object per line (JSON Lines), set format (--format) to jsonl",
    )
    foreign.check_json(content, str(path), options)
    if not isinstance(content, dict):
        raise data_error(
            str(path),
            found=f"a JSON {type(content).__name__}, {brief(content)}",
            expected=f"one JSON object in the form of SQuAD, {_SHAPE}",
            fix="bring the file into this form; for records of another form, use JSON Lines (.jsonl)",
        )
    top: dict[str, Any] = content
    _count_others(top, "", tally)
    for at_article, article in _items(top, "data", str(path)):
        _count_others(article, "data", tally)
        for at_paragraph, paragraph in _items(article, "paragraphs", at_article):
            _count_others(paragraph, "paragraphs", tally)
            context = _text(paragraph, "context", at_paragraph)
            for where, question in _items(paragraph, "qas", at_paragraph):
                _count_others(question, "qas", tally)
                if "id" in question:
                    where = f"{path}: question {question['id']!r}"
                text = _text(question, "question", where).strip()
                yield Record(where, text=text, second=context, answers=_answers(question, context, where, tally))


def _items(data: dict[str, Any], key: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in a list, each with its position."""
    items = data.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise data_error(
            where,
            found=f"{key!r}: {brief(items)}" if key in data and items is not None else f"no {key!r}",
            expected=f"a list of objects under {key!r}, as in {_SHAPE}",
            fix="bring the file into this form; for records of another form, use JSON Lines (.jsonl)",
        )
    return ((f"{where}, {key}[{place}]", item) for place, item in enumerate(items))


def _text(data: dict[str, Any], key: str, where: str) -> str:
    text = data.get(key)
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
    answers = tuple(_answer(item, context, place, tally) for place, item in _items(question, "answers", where))
    if impossible is not None and impossible == bool(answers):
        found = f"the answer {brief(answers[0].text)}" if answers else "no answers"
        raise data_error(
            where,
            found=f"{found} beside is_impossible = {str(impossible).lower()}",
            expected="answers, or is_impossible = true",
            fix="delete one of the two; where the answers are not known, leave out both",
        )
    return tuple(dict.fromkeys(answers))


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


def _count_others(data: dict[str, Any], level: str, tally: Tally) -> None:
    tally.ignored.update(key for key in data if key not in _USED[level])
