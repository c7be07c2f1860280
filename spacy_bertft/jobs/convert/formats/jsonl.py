"""JSON Lines: one object per line, {"text": …} with "label", "labels" or "cats", "value", and "spans" or "entities".

A pair is {"first": …, "second": …} with "label", "labels" or "cats", and "value". A file may also hold all objects in
one array. Prodigy's tasks, doccano's exports and Docs as JSON are such objects too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spacy_bertft.jobs.convert import foreign, json_items
from spacy_bertft.jobs.convert.annotated import Annotated
from spacy_bertft.jobs.convert.format import Format, Sample
from spacy_bertft.jobs.convert.formats.prodigy import Tasks, is_task
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Record
from spacy_bertft.jobs.convert.rows import Rows
from spacy_bertft.jobs.convert.tally import Tally


def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
    """Yield a Record for each object; a key whose value is null counts as absent.

    Prodigy's answers that are not accepted are counted, and yield no Record.
    """
    rows = Rows(foreign.layout_of(path, options), options, tally)
    tasks = Tasks(rows, options, tally)
    for where, data in json_items.records(path, options, tally):
        if is_task(data, options):
            yield from tasks.records(data, where)
        else:
            yield rows.record(data, where)
    yield from tasks.end()
    rows.end(str(path))


def write(texts: Sequence[Annotated], path: Path, tally: Tally) -> None:
    """Write texts as this module reads them."""
    json_items.write_lines(path, map(_object, texts))


def _object(one: Annotated) -> dict[str, Any]:
    data: dict[str, Any] = {"text": one.text} if one.second is None else {"first": one.text, "second": one.second}
    if one.spans is not None:
        data["spans"] = [{"start": span.start, "end": span.end, "label": span.label} for span in one.spans]
    if one.cats is not None:
        data["cats"] = dict(one.cats)
    if one.value is not None:
        data["value"] = one.value
    return data


def _fits(sample: Sample) -> bool:
    keys = {sample.options.text_key, sample.options.first_key, sample.options.tokens_key, "context"}
    return any(keys & data.keys() or json_items.is_ner_annotator(data) for data in sample.records)


FORMAT = Format(
    "jsonl",
    "JSON Lines",
    fits=_fits,
    read=read,
    endings=(".jsonl", ".ndjson"),
    write=write,
    ending=".jsonl",
    holds=frozenset({"entities", "overlaps", "categories", "numbers", "values", "pairs"}),
)
