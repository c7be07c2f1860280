"""JSON Lines: one object per line, {"text": …} with "label", "labels" or "cats", "value", and "spans" or "entities".

A pair is {"first": …, "second": …} with "label", "labels" or "cats", and "value". prodigy.py and foreign.py add
Prodigy's tasks, doccano's exports and Docs as JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert import foreign, prodigy
from spacy_bertft.jobs.convert.options import Options, has_value, is_pair
from spacy_bertft.jobs.convert.records import Record, brief, encodable, entities, finite, name_of
from spacy_bertft.jobs.convert.tally import Tally
from spacy_bertft.jobs.text_files import JSON_LINES_FIX, lines, parse_json


def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
    """Yield a Record for each line; a key whose value is null counts as absent.

    Prodigy's answers that are not accepted are counted, and yield no Record.
    """
    layout = foreign.Layout(path, options)
    for number, line in lines(path):
        if not line.strip():
            tally.skipped += 1
            continue
        where = f"{path}:{number}"
        data = {key: value for key, value in _object(line, where, options).items() if value is not None}
        if not prodigy.is_task(data, options):
            yield _record(data, where, options, tally, layout.span_keys(data))
        elif (task := prodigy.gold(data, where, options)) is not None:
            keys = [] if prodigy.only_shows_spans(data) else layout.span_keys(task)
            record = _record(task, where, options, tally, keys)
            yield replace(record, partial=prodigy.is_about_one_entity(data))
        else:
            tally.rejected += 1


def _object(line: str, where: str, options: Options) -> dict[str, object]:
    found = parse_json(line, where, expected="one JSON object", fix=JSON_LINES_FIX)
    data = foreign.from_pair(found, options)
    if not isinstance(data, dict):
        raise data_error(
            where,
            found=f"a JSON {type(data).__name__}, {brief(data)}",
            expected='one JSON object such as {"text": "…"}',
            fix="write each record as an object on its own line (JSON Lines)",
        )
    return data


def _record(data: dict[str, object], where: str, options: Options, tally: Tally, span_keys: Sequence[str]) -> Record:
    """The Record of an object. span_keys: its keys that hold entities, if it isn't a pair."""
    foreign.check_record(data, where, options)
    pair = is_pair(data, options)
    text = _text(data, where, options.first_key if pair else options.text_key, options)
    second = _text(data, where, options.second_key, options) if pair else None
    spans = [] if pair else span_keys
    _at_most_one(spans, where, "entities")
    keys = (options.label_key, options.labels_key, "cats")
    forms = [key for key in keys if key in data and key not in spans]
    _at_most_one(forms, where, "categories")
    _count_others(data, [*spans, *forms], options, tally)
    label, labels, cats = (data[key] if key in forms else None for key in keys)
    names_key = options.labels_key
    if isinstance(label, list):  # as doccano writes categories
        label, labels, names_key = None, label, options.label_key
    return Record(
        where,
        text=text,
        second=second,
        label=None if label is None else name_of(label, where, options.label_key),
        labels=None if labels is None else _names(labels, where, names_key),
        cats=None if cats is None else _numbers(cats, where),
        value=_value(data[options.value_key], where, options.value_key) if has_value(data, options) else None,
        spans=entities(data[spans[0]], text, where, spans[0], tally) if spans else None,
    )


def _count_others(data: dict[str, object], used: Sequence[str], options: Options, tally: Tally) -> None:
    """Count the keys that are not used."""
    texts = [options.first_key, options.second_key] if is_pair(data, options) else [options.text_key]
    values = [options.value_key] if has_value(data, options) else []
    tally.ignored.update(key for key in data if key not in (*texts, *used, *values))


def _text(data: dict[str, object], where: str, key: str, options: Options) -> str:
    if key not in data:
        raise data_error(
            where,
            found=f"no text under {key!r}, only the keys {brief(list(data))}",
            expected=f"a string under {key!r}, or two under {options.first_key!r} and {options.second_key!r}",
            fix="name the key that holds the text with text_key (--text-key), or a pair's keys with first_key and "
            "second_key",
        )
    text = data[key]
    if not isinstance(text, str):
        raise data_error(
            where, found=f"{key!r}: {brief(text)}", expected="a string", fix="put the text in double quotes"
        )
    if not text.strip():
        raise data_error(where, found="an empty text", expected="some characters", fix="delete this record")
    return encodable(text, where, key)


def _at_most_one(keys: Sequence[str], where: str, what: str) -> None:
    if len(keys) > 1:
        raise data_error(
            where,
            found=f"{what} under {' and '.join(map(repr, keys))}",
            expected="one of them",
            fix="keep one and delete the other",
        )


def _names(value: object, where: str, key: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise data_error(
            where,
            found=f"{key!r}: {brief(value)}",
            expected="a list of names",
            fix=f'write it as {{"{key}": ["NAME", …]}}; for one category use label_key (--label-key)',
        )
    return tuple(dict.fromkeys(name_of(item, where, key) for item in value))


def _numbers(value: object, where: str) -> dict[str, float]:
    good = isinstance(value, dict) and all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in value.values())
    if not isinstance(value, dict) or not good:
        raise data_error(
            where,
            found=f"'cats': {brief(value)}",
            expected="an object of names with numbers from 0 to 1",
            fix='write it as {"cats": {"NAME": 1.0, …}}',
        )
    return {name_of(name, where, "cats"): float(number) for name, number in value.items()}


def _value(value: object, where: str, key: str) -> float:
    return finite(
        value, where, key, fix=f'write it as {{"{key}": 3.5}}, without quotes; leave it out where it is not known'
    )
