"""SQuAD 1.1 and 2.0: one JSON file of articles, paragraphs and questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert import json_items
from spacy_bertft.jobs.convert.format import Format, Sample
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.questions import question_record, text_of
from spacy_bertft.jobs.convert.records import Record, brief
from spacy_bertft.jobs.convert.tally import Tally

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
    content = json_items.document(path, expected=f"one JSON object in the form of SQuAD, {_SHAPE}")
    if not isinstance(content, dict):
        raise data_error(
            str(path),
            found=f"a JSON {type(content).__name__}, {brief(content)}",
            expected=f"one JSON object in the form of SQuAD, {_SHAPE}",
            fix="bring the file into this form, or set format (--format) to what it is",
        )
    top: dict[str, Any] = content
    _count_others(top, "", tally)
    for at_article, article in _items(top, "data", str(path)):
        _count_others(article, "data", tally)
        for at_paragraph, paragraph in _items(article, "paragraphs", at_article):
            _count_others(paragraph, "paragraphs", tally)
            context = text_of(paragraph.get("context"), "context", at_paragraph)
            for where, question in _items(paragraph, "qas", at_paragraph):
                _count_others(question, "qas", tally)
                if "id" in question:
                    where = f"{path}: question {question['id']!r}"
                yield question_record(question, context, where, tally, options.offsets)


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


def _count_others(data: dict[str, Any], level: str, tally: Tally) -> None:
    tally.ignored.update(key for key in data if key not in _USED[level])


def _fits(sample: Sample) -> bool:
    return bool(sample.records) and "data" in sample.records[0] and sample.options.text_key not in sample.records[0]


FORMAT = Format("squad", "SQuAD", fits=_fits, read=read)
