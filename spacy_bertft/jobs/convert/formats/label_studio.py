"""Label Studio's exports JSON and JSON-MIN: spans (Labels), categories (Choices) and numbers (Number, Rating)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import srsly

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert.annotated import Annotated, count_unknown
from spacy_bertft.jobs.convert.format import Format, Sample
from spacy_bertft.jobs.convert.label_studio_tasks import NUMBERS, TEXT, Result, Task, tasks
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Record, brief, encodable, entities, finite, located, name_of
from spacy_bertft.jobs.convert.tally import Tally


@dataclass(frozen=True)
class _Controls:
    """What the tasks of a file were annotated with. single: whether a choice is the only category of its text."""

    spans: bool
    choices: str | None  # None: all of them
    single: bool
    number: str | None


def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
    """Yield a Record for each annotated task. The file is read as a whole, as Label Studio writes it."""
    found = [task for task in tasks(path, options, tally) if task is not None]
    controls = _controls(found, path, options)
    for task in found:
        yield _record(task, controls, options, tally)


def _controls(tasks: Sequence[Task], path: Path, options: Options) -> _Controls:
    results = [one for task in tasks for one in task.results]
    choices = {one.name for one in results if one.kind == "choices"}
    numbers = {one.name for one in results if _is_number(one)}
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
        single=options.categories == "auto" and max(counts, default=0) <= 1,
        number=options.value_key if options.value_key in numbers else next(iter(numbers), None),
    )


def _is_number(one: Result) -> bool:
    """Whether an answer is a number for the whole text."""
    return one.kind in NUMBERS and "start" not in one.value


def _chosen(one: Result) -> list[Any]:
    return list(one.value.get("choices") or ()) if "start" not in one.value else []


def _record(task: Task, controls: _Controls, options: Options, tally: Tally) -> Record:
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
                start, end = one.value["start"], one.value["end"]
                missing.append(located(text, start, end, where, covered=None, unit=options.offsets))
        elif one.kind == "choices" and controls.choices in (None, one.name) and "start" not in one.value:
            names += [name_of(choice, where, one.name) for choice in _chosen(one)]
        elif _is_number(one) and one.name == controls.number:
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


def _described(one: Result) -> str:
    if one.kind == "choices":
        return "choices for a span" if "start" in one.value else f"choices of the control {one.name!r}"
    if one.kind in NUMBERS:
        return "numbers for a span" if "start" in one.value else f"numbers of the control {one.name!r}"
    if one.kind == TEXT:
        return f"strings of {one.name!r}, which look like free text (if they are categories, name it as label_key)"
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


def write(texts: Sequence[Annotated], path: Path, tally: Tally) -> None:
    """Write tasks with annotations, for controls called "label" (Labels), "category" (Choices) and "value" (Number)."""
    # Reading gives an annotated text no entities where others have some, and no categories where others have several.
    done = [one for one in texts if _is_annotated(one)]
    if any(one.spans is not None for one in done):
        count_unknown(done, tally, what="entities")
    if any(len(one.chosen) > 1 for one in done):
        count_unknown(done, tally, what="categories")
    path.write_text(srsly.json_dumps([_task(one) for one in texts], indent=2), encoding="utf-8")


def _is_annotated(one: Annotated) -> bool:
    return (one.spans, one.cats, one.value) != (None, None, None)


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
    return {"data": {"text": one.text}, "annotations": [{"result": results}] if _is_annotated(one) else []}


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
