"""JSON Lines: one object a line, {"text": …} with "label", "labels" or "cats", "value", and "spans" or "entities".

Of a pair {"first": …, "second": …} with "label", "labels" or "cats", and "value".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert.options import Options, has_value, is_pair
from spacy_bertft.jobs.convert.records import Entity, Record, brief, encodable, finite
from spacy_bertft.jobs.convert.tally import Tally
from spacy_bertft.jobs.text_files import JSON_LINES_FIX, lines, parse_json

_SPAN_KEYS = ("start", "end", "label")
_SPAN_FORM = '{"start": 0, "end": 5, "label": "PERSON"} or [0, 5, "PERSON"]'


def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
    """Yield a Record for each line; a key whose value is null counts as absent."""
    for number, line in lines(path):
        if not line.strip():
            tally.skipped += 1
            continue
        where = f"{path}:{number}"
        data = {key: value for key, value in _object(line, where).items() if value is not None}
        pair = is_pair(data, options)
        texts = {options.first_key, options.second_key} if pair else {options.text_key, "spans", "entities"}
        used = {*texts, options.label_key, options.labels_key, "cats"}
        if has_value(data, options):
            used.add(options.value_key)
        tally.ignored.update(key for key in data if key not in used)
        yield _record(data, where, options, tally)


def _object(line: str, where: str) -> dict[str, object]:
    data = parse_json(line, where, expected="one JSON object", fix=JSON_LINES_FIX)
    if not isinstance(data, dict):
        raise data_error(
            where,
            found=f"a JSON {type(data).__name__}, {brief(data)}",
            expected='one JSON object such as {"text": "…"}',
            fix="write each record as an object on one line of its own (JSON Lines)",
        )
    return data


def _record(data: dict[str, object], where: str, options: Options, tally: Tally) -> Record:
    pair = is_pair(data, options)
    text = _text(data, where, options.first_key if pair else options.text_key, options)
    second = _text(data, where, options.second_key, options) if pair else None
    forms = [key for key in (options.label_key, options.labels_key, "cats") if key in data]
    _at_most_one(forms, where, "categories")
    spans = [key for key in ("spans", "entities") if key in data and not pair]
    _at_most_one(spans, where, "entities")
    label, labels, cats = (data.get(key) for key in (options.label_key, options.labels_key, "cats"))
    return Record(
        where,
        text=text,
        second=second,
        label=None if label is None else _name(label, where, options.label_key),
        labels=None if labels is None else _names(labels, where, options.labels_key),
        cats=None if cats is None else _numbers(cats, where),
        value=_value(data[options.value_key], where, options.value_key) if has_value(data, options) else None,
        spans=_entities(data[spans[0]], text, where, spans[0], tally) if spans else None,
    )


def _text(data: dict[str, object], where: str, key: str, options: Options) -> str:
    if key not in data:
        raise data_error(
            where,
            found=f"no text under {key!r}, only the keys {brief(list(data))}",
            expected=f"a string under {key!r}, or two under {options.first_key!r} and {options.second_key!r}",
            fix="name the key that holds the text with text_key (--text-key), those of a pair with first_key and "
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


def _name(value: object, where: str, key: str) -> str:
    if isinstance(value, (str, int)) and str(value).strip():  # bool is an int
        return encodable(str(value), where, key)
    raise data_error(
        where, found=f"{key!r}: {brief(value)}", expected="one name: a string, an integer or true/false",
        fix=f'write it as {{"{key}": "NAME"}}',
    )  # fmt: skip


def _names(value: object, where: str, key: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise data_error(
            where,
            found=f"{key!r}: {brief(value)}",
            expected="a list of names",
            fix=f'write it as {{"{key}": ["NAME", …]}}; for one category use label_key (--label-key)',
        )
    return tuple(dict.fromkeys(_name(item, where, key) for item in value))


def _numbers(value: object, where: str) -> dict[str, float]:
    good = isinstance(value, dict) and all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in value.values())
    if not isinstance(value, dict) or not good:
        raise data_error(
            where,
            found=f"'cats': {brief(value)}",
            expected="an object of names with numbers from 0 to 1",
            fix='write it as {"cats": {"NAME": 1.0, …}}',
        )
    return {_name(name, where, "cats"): float(number) for name, number in value.items()}


def _value(value: object, where: str, key: str) -> float:
    return finite(
        value, where, key, fix=f'write it as {{"{key}": 3.5}}, without quotes; leave it out where it is not known'
    )


def _entities(value: object, text: str, where: str, key: str, tally: Tally) -> tuple[Entity, ...]:
    if not isinstance(value, list):
        raise data_error(
            where,
            found=f"{key!r}: {brief(value)}",
            expected="a list",
            fix=f"write each entity as {_SPAN_FORM}",
        )
    found = sorted(
        (_entity(item, text, where, key, tally) for item in value),
        key=lambda entity: (entity.start, entity.end),
    )
    for first, second in pairwise(found):
        if second.start < first.end:
            raise data_error(
                where,
                found=f"overlapping entities {_show(first, text)} and {_show(second, text)}",
                expected="entities without a common character",
                fix="keep one of them",
            )
    return tuple(found)


def _show(entity: Entity, text: str) -> str:
    piece = brief(text[entity.start : entity.end], limit=40)
    return f"[{entity.start}, {entity.end}, {entity.label!r}] {piece}"


def _entity(item: object, text: str, where: str, key: str, tally: Tally) -> Entity:
    if isinstance(item, dict):
        tally.ignored.update({f"{key}.{name}" for name in item if name not in _SPAN_KEYS})
        item = [item.get(name) for name in _SPAN_KEYS]
    if not (isinstance(item, list) and len(item) == 3 and all(type(offset) is int for offset in item[:2])):
        raise data_error(
            where,
            found=f"{key!r}: {brief(item)}",
            expected=_SPAN_FORM,
            fix="give start, end and label of each entity",
        )
    start, end, label = item
    if not 0 <= start < end <= len(text):
        raise data_error(
            where,
            found=f"an entity from {start} to {end}",
            expected=f"0 <= start < end <= {len(text)}, the length of the text",
            fix="count in characters (not bytes or UTF-16 units), from 0, with the end exclusive",
        )
    return _trim(Entity(start, end, _name(label, where, f"{key}.label")), text, where, tally)


def _trim(entity: Entity, text: str, where: str, tally: Tally) -> Entity:
    piece = text[entity.start : entity.end]
    if not piece.strip():
        raise data_error(
            where,
            found=f"an entity of white space only, {entity.start} to {entity.end}",
            expected="at least one other character",
            fix="delete this entity or mend its offsets",
        )
    start = entity.end - len(piece.lstrip())
    end = entity.start + len(piece.rstrip())
    tally.trimmed += (start, end) != (entity.start, entity.end)
    return Entity(start, end, entity.label)
