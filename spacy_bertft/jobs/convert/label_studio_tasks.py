"""The tasks of Label Studio's exports JSON and JSON-MIN, and the answers that were given to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert import json_items
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import brief
from spacy_bertft.jobs.convert.tally import Tally

NUMBERS = ("number", "rating")
_LISTS = ("labels", "choices")
_MIN_OWN = ("annotation_id", "annotator", "created_at", "updated_at", "lead_time", "agreement")
TEXT = "text"  # kind of the answers of JSON-MIN that may be categories, and may be free text
_EXPECTED = "a JSON array of Label Studio's tasks"
_EXPORT_AGAIN = "export from Label Studio again"


@dataclass(frozen=True)
class Result:
    """One answer. name: of the control that it was given with, in the labelling configuration."""

    name: str
    kind: str  # labels, choices, number, rating, relation, …
    value: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """An annotated task: its data, one of which is the text, and the answers."""

    where: str
    data: dict[str, Any]
    results: tuple[Result, ...]


def tasks(path: Path, options: Options, tally: Tally) -> Iterator[Task | None]:
    """Yield the tasks of a file, which is read as a whole; None for those that are not annotated."""
    items = list(json_items.items(path, expected=_EXPECTED))
    for where, item in items:
        if not isinstance(item, dict):
            raise data_error(where, found=brief(item), expected="a task", fix="export from Label Studio as JSON")
        if not _is_full(item) and item.keys().isdisjoint(_MIN_OWN):
            raise data_error(
                where,
                found=f"an object without data or annotations, only the keys {brief(list(item))}",
                expected="a task of Label Studio",
                fix="set format (--format) to what it is, or leave it out, to have it found",
            )
    of_choices = _keys_of_choices([item for _, item in items if not _is_full(item)], options)
    for where, item in items:
        task = _from_full(item, where, tally) if _is_full(item) else _from_min(item, where, of_choices, options)
        tally.rejected += task is None
        yield task


def _is_full(item: Mapping[str, Any]) -> bool:
    return isinstance(item.get("data"), dict)


def _from_full(item: dict[str, Any], where: str, tally: Tally) -> Task | None:
    """The task with the annotation that counts: the one marked as ground truth, or else the newest."""
    where = f"{where} (task {item['id']})" if "id" in item else where
    all_given = _objects(item.get("annotations", item.get("completions")), where, "annotations")
    given = [one for one in all_given if not (one.get("was_cancelled") or one.get("skipped"))]
    if not given:
        return None
    best = max(given, key=lambda one: (bool(one.get("ground_truth")), str(one.get("created_at", ""))))
    tally.drop("further annotations of a task", where, len(given) - 1)
    results = (
        Result(str(one.get("from_name", "")), kind := str(one.get("type", "")), _value(one.get("value"), kind, where))
        for one in _objects(best.get("result"), where, "result")
    )
    return Task(where, item["data"], tuple(results))


def _objects(value: Any, where: str, key: str) -> list[dict[str, Any]]:
    items = value or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise data_error(where, found=f"{key!r}: {brief(value)}", expected="a list of objects", fix=_EXPORT_AGAIN)
    return items


def _value(given: Any, kind: str, where: str) -> dict[str, Any]:
    """The value of an answer, in which labels and choices are lists."""
    value = given or {}
    if not isinstance(value, dict) or (kind in _LISTS and not isinstance(value.get(kind) or [], list)):
        raise data_error(
            where,
            found=f"'value': {brief(given)} of the type {kind!r}",
            expected='an object such as {"start": 0, "end": 5, "labels": ["PERSON"]} or {"choices": ["refund"]}',
            fix=_EXPORT_AGAIN,
        )
    return value


def _string_answers(item: Mapping[str, Any], options: Options) -> list[str]:
    """The keys of an item of JSON-MIN that may be answers and hold a string: they follow the "id"."""
    keys = list(item)
    after = keys.index("id") + 1 if "id" in keys else 0
    own = (*_MIN_OWN, options.text_key)
    return [key for key in keys[after:] if isinstance(item[key], str) and key not in own]


def _keys_of_choices(items: Sequence[Mapping[str, Any]], options: Options) -> set[str]:
    """The controls of Choices. JSON-MIN has a single choice as a bare string, which free text is as well.

    Strings are choices under the key that the options name, under keys where a task has several choices, and where
    each is given twice on average.
    """
    strings: dict[str, list[str]] = defaultdict(list)
    for item in items:
        for key in _string_answers(item, options):
            strings[key].append(item[key])
    several = {key for item in items for key, value in item.items() if _kind(value) == "choices"}
    repeated = {key for key, values in strings.items() if 2 * len(set(values)) <= len(values)}
    return several | repeated | {options.label_key}


def _from_min(item: dict[str, Any], where: str, of_choices: set[str], options: Options) -> Task | None:
    """The task of an item of JSON-MIN: the task's data, its "id", the answers by control, and then keys of its own."""
    where = f"{where} (task {item['id']})" if "id" in item else where
    if item.get("annotation_id") is None:
        return None
    keys = [key for key in item if key not in _MIN_OWN]
    strings = _string_answers(item, options)
    found: list[Result] = []
    for key in keys:
        answers = item[key] if isinstance(item[key], list) else [item[key]]
        kinds = [_kind(answer) for answer in answers]
        if all(kinds) and kinds:
            found += [Result(key, kind, _value(one, kind, where)) for kind, one in zip(kinds, answers, strict=True)]
        elif key in strings:
            kind = "choices" if key in of_choices else TEXT
            found.append(Result(key, kind, {kind: [item[key]]}))
    answered = {one.name for one in found}
    return Task(where, {key: item[key] for key in keys if key not in answered}, tuple(found))


def _kind(answer: object) -> str:
    names = (*_LISTS, *NUMBERS)
    return next((name for name in names if name in answer), "") if isinstance(answer, dict) else ""
