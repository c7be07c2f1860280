"""The records of a file of JSON: one on each line (JSON Lines), or all in one array."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import brief
from spacy_bertft.jobs.convert.tally import Tally
from spacy_bertft.jobs.text_files import JSON_LINES_FIX, lines, parse_json

_CUT_OFF_FIX = "the file may be cut off: export or download it again"


def records(path: Path, options: Options, tally: Tally) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each record with its place. A pair of a text and annotations, spaCy 2's training data, becomes a record."""
    for where, value in _flat(_values(path, tally)):
        record = from_pair(value, options)
        if not isinstance(record, dict):
            raise data_error(
                where,
                found=f"a JSON {type(record).__name__}, {brief(record)}",
                expected='one JSON object such as {"text": "…"}',
                fix="write each record as an object on its own line (JSON Lines)",
            )
        yield where, record


def document(path: Path, *, expected: str) -> Any:
    """Parse a file that holds one JSON value. expected: what it should be, for the error message."""
    text = "".join(line for _, line in lines(path))
    return parse_json(text, str(path), expected=expected, fix=_CUT_OFF_FIX)


def items(path: Path, *, expected: str) -> Iterator[tuple[str, Any]]:
    """Yield the items of the array that a file holds, each with its place; a single object is the only item."""
    content = document(path, expected=expected)
    found = content if isinstance(content, list) else [content]
    return ((f"{path}: record {number}", item) for number, item in enumerate(found, 1))


def from_pair(data: Any, options: Options) -> Any:
    """Turn a [text, annotations] pair into a record; return anything else as it is."""
    return {options.text_key: data[0], **data[1]} if _is_annotated_text(data) else data


def _is_annotated_text(data: Any) -> bool:
    return isinstance(data, list) and len(data) == 2 and isinstance(data[0], str) and isinstance(data[1], dict)


def is_ner_annotator(data: Any) -> bool:
    """Whether an object is an export of NER Annotator: its labels, and all its texts."""
    return isinstance(data, dict) and "classes" in data and isinstance(data.get("annotations"), list)


def _flat(values: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    for where, value in values:
        if is_ner_annotator(value):  # null: a text that was skipped there
            yield from ((f"{where}, annotations[{i}]", one) for i, one in enumerate(value["annotations"]) if one)
        else:
            yield where, value


def _values(path: Path, tally: Tally) -> Iterator[tuple[str, Any]]:
    if _is_array(path):
        yield from items(path, expected="a JSON array of records")
        return
    for number, line in lines(path):
        if not line.strip():
            tally.skipped += 1
        else:
            where = f"{path}:{number}"
            fix = JSON_LINES_FIX if line.endswith("\n") else f"{_CUT_OFF_FIX}; else {JSON_LINES_FIX}"
            yield where, parse_json(line, where, expected="one JSON object", fix=fix)


def _is_array(path: Path) -> bool:
    """Whether a file is one array: its first line begins one, and is not a pair on a line of its own."""
    first = next((line.strip() for _, line in lines(path) if line.strip()), "")
    if not first.startswith("["):
        return False
    try:
        return not _is_annotated_text(parse_json(first, str(path), expected="", fix=""))
    except ValueError:  # it continues on the next line
        return True


def write_lines(path: Path, objects: Iterable[Any]) -> None:
    """Write one object per line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)
