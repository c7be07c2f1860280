"""doccano's exports: JSON Lines with spans or categories under one key.

{"text": …, "label": [[0, 3, "PERSON"]]}          sequence labelling; "labels" before version 1
{"text": …, "entities": [{"start_offset": 0, …}]}  sequence labelling with relations
{"text": …, "label": ["sports"]}                   classification
{"text": …, "entities": [[0, 3, "X"]], "cats": []} intents and slots
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert import foreign, json_items
from spacy_bertft.jobs.convert.annotated import Annotated, count_unknown
from spacy_bertft.jobs.convert.format import Format, Sample
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Record, brief
from spacy_bertft.jobs.convert.rows import Rows
from spacy_bertft.jobs.convert.tally import Tally

_KEYS = ("label", "labels", "entities", "annotations", "cats")
_TOLD_BY = ("Comments", "username", "annotation_approver")
_OWN = {"id", "doc_id", "meta", "metadata", "username", "annotator", "annotation_approver", "Comments", "comments"}


def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
    """Yield a Record for each text. Relations are counted as dropped."""
    rows = Rows(foreign.layout_of(path, options), options, tally)
    for where, data in json_items.records(path, options, tally):
        _check_types(data, where)
        tally.drop("relations", where, len(data.get("relations") or ()))
        own = {"relations", *_OWN} - {options.text_key, options.label_key, options.labels_key}
        yield rows.record({key: _bare(value) for key, value in data.items() if key not in own}, where)
    rows.end(str(path))


def _check_types(data: dict[str, Any], where: str) -> None:
    """Raise DataError for tasks of Prodigy, relations that are no list, and labels as the ids of doccano's database."""
    if "_task_hash" in data:
        raise data_error(
            where,
            found="a task of Prodigy",
            expected="a text of doccano",
            fix="set format (--format) to prodigy, or leave it out, to have it found",
        )
    if not isinstance(data.get("relations") or [], list):
        raise data_error(
            where, found=f"'relations': {brief(data['relations'])}", expected="a list", fix="export from doccano again"
        )
    ids = [one["label"] for one in _items(data, "annotations") if isinstance(one, dict) and "label" in one]
    if ids:
        raise data_error(
            where,
            found=f"'annotations' whose labels are ids, such as {brief(ids[0])}",
            expected="the names of the labels",
            fix="export from doccano as JSONL (in old versions: JSONL, Text label)",
        )


def _bare(value: Any) -> Any:
    """A value without the ids of spans."""
    if not isinstance(value, list):
        return value
    return [{k: v for k, v in one.items() if k != "id"} if isinstance(one, dict) else one for one in value]


def write(texts: Sequence[Annotated], path: Path, tally: Tally) -> None:
    """Write JSONL that doccano imports: for sequence labelling, for classification, or for intents and slots."""
    spans, cats = (any(getattr(one, name) is not None for one in texts) for name in ("spans", "cats"))
    if spans:
        count_unknown(texts, tally, what="entities")
    if cats or not spans:
        count_unknown(texts, tally, what="categories")
    json_items.write_lines(path, (_object(one, spans=spans, cats=cats) for one in texts))


def _object(one: Annotated, *, spans: bool, cats: bool) -> dict[str, Any]:
    found = [[span.start, span.end, span.label] for span in one.spans or ()]
    if spans and cats:
        return {"text": one.text, "entities": found, "cats": one.chosen}
    return {"text": one.text, "label": found if spans else one.chosen}


def _fits(sample: Sample) -> bool:
    return any(_is_of_doccano(data, sample.options) for data in sample.records)


def _is_of_doccano(data: dict[str, Any], options: Options) -> bool:
    if not isinstance(data.get(options.text_key), str):
        return False
    lists = [data[key] for key in _KEYS if isinstance(data.get(key), list)]
    if any(isinstance(one, dict) and "start_offset" in one for items in lists for one in items):
        return True
    triples = any(isinstance(one, list) and len(one) == 3 for key in ("label", "labels") for one in _items(data, key))
    return triples or isinstance(data.get("label"), list) or (bool(lists) and not data.keys().isdisjoint(_TOLD_BY))


def _items(data: dict[str, Any], key: str) -> list[Any]:
    items = data.get(key)
    return items if isinstance(items, list) else []


FORMAT = Format(
    "doccano",
    "doccano",
    fits=_fits,
    read=read,
    write=write,
    ending=".jsonl",
    holds=frozenset({"entities", "overlaps", "categories"}),
)
