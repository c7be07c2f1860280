"""Label Studio's exports JSON and JSON-MIN: spans (Labels), categories (Choices) and numbers (Number, Rating)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import srsly

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert import json_items
from spacy_bertft.jobs.convert.annotated import Annotated
from spacy_bertft.jobs.convert.format import Format, Sample
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Record, brief, encodable, entities, finite, name_of
from spacy_bertft.jobs.convert.tally import Tally

_NUMBERS = ("number", "rating")
_MIN_OWN = ("annotation_id", "annotator", "created_at", "updated_at", "lead_time", "agreement")
_EXPECTED = "a JSON array of Label Studio's tasks"


@dataclass(frozen=True)
class _Result:
    """One answer. name: of the control that it was given with, in the labelling configuration."""

    name: str
    kind: str  # labels, choices, number, rating, relation, …
    value: dict[str, Any]


@dataclass(frozen=True)
class _Task:
    where: str
    data: dict[str, Any]
    results: tuple[_Result, ...]


@dataclass(frozen=True)
class _Controls:
    """What the tasks of a file were annotated with. single: whether no task has two choices."""

    spans: bool
    choices: str | None  # None: all of them
    single: bool
    number: str | None


def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
    """Yield a Record for each annotated task. The file is read as a whole, as Label Studio writes it."""
    tasks = [task for task in _tasks(path, tally) if task is not None]
    controls = _controls(tasks, path, options)
    for task in tasks:
        yield _record(task, controls, options, tally)


def _tasks(path: Path, tally: Tally) -> Iterator[_Task | None]:
    for where, item in json_items.items(path, expected=_EXPECTED):
        if not isinstance(item, dict):
            raise data_error(where, found=brief(item), expected="a task", fix="export from Label Studio as JSON")
        task = _from_min(item, where) if not isinstance(item.get("data"), dict) else _from_full(item, where, tally)
        tally.rejected += task is None
        yield task


def _from_full(item: dict[str, Any], where: str, tally: Tally) -> _Task | None:
    """The task with the annotation that counts: the one marked as ground truth, or else the newest."""
    where = f"{where} (task {item['id']})" if "id" in item else where
    all_given = item.get("annotations", item.get("completions")) or []
    given = [one for one in all_given if not (one.get("was_cancelled") or one.get("skipped"))]
    if not given:
        return None
    best = max(given, key=lambda one: (bool(one.get("ground_truth")), str(one.get("created_at", ""))))
    tally.drop("further annotations of a task", where, len(given) - 1)
    results = (
        _Result(str(one.get("from_name", "")), str(one.get("type", "")), one.get("value") or {})
        for one in best.get("result") or []
    )
    return _Task(where, item["data"], tuple(results))


def _from_min(item: dict[str, Any], where: str) -> _Task | None:
    """The task of an item of JSON-MIN: the task's data, its "id", the answers by control, and then keys of its own."""
    where = f"{where} (task {item['id']})" if "id" in item else where
    if item.get("annotation_id") is None:
        return None
    keys = [key for key in item if key not in _MIN_OWN]
    after = keys.index("id") + 1 if "id" in keys else 0
    found: list[_Result] = []
    for place, key in enumerate(keys):
        answers = item[key] if isinstance(item[key], list) else [item[key]]
        kinds = [_kind(answer) for answer in answers]
        if all(kinds) and kinds:
            found += [_Result(key, kind, value) for kind, value in zip(kinds, answers, strict=True)]
        elif place >= after and isinstance(item[key], str):
            found.append(_Result(key, "choices", {"choices": [item[key]]}))
    answered = {one.name for one in found}
    return _Task(where, {key: item[key] for key in keys if key not in answered}, tuple(found))


def _kind(answer: object) -> str:
    names = ("labels", "choices", *_NUMBERS)
    return next((name for name in names if name in answer), "") if isinstance(answer, dict) else ""


def _controls(tasks: Sequence[_Task], path: Path, options: Options) -> _Controls:
    results = [one for task in tasks for one in task.results]
    choices = {one.name for one in results if one.kind == "choices"}
    numbers = {one.name for one in results if one.kind in _NUMBERS}
    if len(numbers) > 1 and options.value_key not in numbers:
        raise data_error(
            str(path),
            found=f"numbers of {len(numbers)} controls, {', '.join(sorted(numbers))}",
            expected="one number for each text",
            fix=f"name the control with value_key (--value-key {min(numbers)})",
        )
    chosen = options.label_key if options.label_key in choices else None
    counts = [
        sum(len(_chosen(one)) for one in task.results if one.kind == "choices" and chosen in (None, one.name))
        for task in tasks
    ]
    return _Controls(
        spans=any(one.kind == "labels" for one in results),
        choices=chosen,
        single=max(counts, default=0) <= 1,
        number=options.value_key if options.value_key in numbers else next(iter(numbers), None),
    )


def _chosen(one: _Result) -> list[Any]:
    return list(one.value.get("choices") or ()) if "start" not in one.value else []


def _record(task: _Task, controls: _Controls, options: Options, tally: Tally) -> Record:
    where = task.where
    text = _text(task.data, where, options)
    spans: list[dict[str, Any]] = []
    missing: list[tuple[int, int]] = []
    names: list[str] = []
    value: float | None = None
    for one in task.results:
        if one.kind == "labels" and type(one.value.get("start")) is int and type(one.value.get("end")) is int:
            spans += _spans(one.value)
            if not one.value.get("labels"):
                tally.drop("spans without a label", where)
                missing.append((one.value["start"], one.value["end"]))
        elif one.kind == "choices" and controls.choices in (None, one.name) and "start" not in one.value:
            names += [name_of(choice, where, one.name) for choice in _chosen(one)]
        elif one.kind in _NUMBERS and one.name == controls.number:
            value = finite(one.value.get(one.kind), where, one.name, fix="correct it in Label Studio")
        else:
            tally.drop(_described(one), where)
    found = entities(spans, text, where, "result", tally, options) if controls.spans else None
    record = Record(where, text=text, spans=found, missing=tuple(missing), value=value)
    if controls.single:
        return replace(record, label=names[0] if names else None)
    return replace(record, labels=tuple(dict.fromkeys(names)))


def _spans(value: dict[str, Any]) -> list[dict[str, Any]]:
    """A region as spans, one for each of its labels."""
    bare: dict[str, Any] = {key: value[key] for key in ("start", "end", "text") if key in value}
    return [{**bare, "label": label} for label in value.get("labels") or ()]


def _described(one: _Result) -> str:
    if one.kind == "choices":
        return "choices for a span" if "start" in one.value else f"choices of the control {one.name!r}"
    if one.kind in _NUMBERS:
        return f"numbers of the control {one.name!r}"
    if "labels" in one.kind:
        return "spans of HTML or dialogues, whose offsets are not those of a text"
    return "relations" if one.kind == "relation" else f"answers of the kind {one.kind!r}"


def _text(data: dict[str, Any], where: str, options: Options) -> str:
    """The text of a task: under the key that the options name, or else the only string."""
    texts = [key for key, value in data.items() if isinstance(value, str) and value.strip()]
    key = options.text_key if options.text_key in texts else texts[0] if len(texts) == 1 else None
    if key is None:
        raise data_error(
            where,
            found=f"no text under {options.text_key!r}, only the keys {brief(list(data))}",
            expected='a text, under the key that the labelling configuration names with value="$…"',
            fix="name the key with text_key (--text-key)",
        )
    return encodable(data[key], where, key)


# --- writing


def write(texts: Sequence[Annotated], path: Path) -> None:
    """Write tasks with annotations, for controls called "label" (Labels), "category" (Choices) and "value" (Number)."""
    path.write_text(srsly.json_dumps([_task(one) for one in texts], indent=2), encoding="utf-8")


def _task(one: Annotated) -> dict[str, Any]:
    results = [
        _result(
            "label",
            "labels",
            {"start": span.start, "end": span.end, "text": one.text[span.start : span.end], "labels": [span.label]},
        )
        | {"id": str(number)}
        for number, span in enumerate(one.spans or ())
    ]
    if one.chosen:
        results.append(_result("category", "choices", {"choices": one.chosen}))
    if one.value is not None:
        results.append(_result("value", "number", {"number": one.value}))
    annotated = (one.spans, one.cats, one.value) != (None, None, None)
    return {"data": {"text": one.text}, "annotations": [{"result": results}] if annotated else []}


def _result(name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"from_name": name, "to_name": "text", "type": kind, "value": value}


def _fits(sample: Sample) -> bool:
    return any(
        (isinstance(data.get("data"), dict) and {"annotations", "completions", "predictions"} & data.keys())
        or {"annotation_id", "lead_time"} <= data.keys()
        for data in sample.records
    )


FORMAT = Format(
    "label-studio",
    "Label Studio",
    fits=_fits,
    read=read,
    write=write,
    ending=".json",
    holds=frozenset({"entities", "overlaps", "categories", "values"}),
)
