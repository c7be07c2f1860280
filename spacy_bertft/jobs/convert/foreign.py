"""Files made for other tools or tasks: where their entities are, and errors for forms that can't be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from spacy_bertft.errors import DataError, data_error
from spacy_bertft.jobs.convert import json_items
from spacy_bertft.jobs.convert.options import Options, is_pair
from spacy_bertft.jobs.convert.records import brief
from spacy_bertft.jobs.convert.tally import Tally

_SPAN_KEYS = ("spans", "entities")
_TAG_KEYS = ("ner_tags", "tags", "ner", "labels")
_OTHER_KEYS = ("annotations", "annotation", "completions", "ner_tags")
_RECORD = 'records such as {"text": "…", "spans": [{"start": 0, "end": 5, "label": "PERSON"}]}, one per line'
# The first bytes of files of other kinds, what they are, and what to do.
_SIGNATURES = (
    (b"PK\x03\x04", "a ZIP or an Excel file that was cut off", "export or download it again"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "save the table as CSV (.csv), in UTF-8"),
    (b"\x1f\x8b", "a file compressed by gzip", "unpack it with gunzip"),
    (b"%PDF", "a PDF file", "annotate its text in one of the tools in docs/data.md"),
    (b"{\\rtf", "a file of rich text", "save it as plain text, in UTF-8"),
    (b"#FORMAT=WebAnno TSV", "a file of WebAnno TSV", "export from INCEpTION as UIMA CAS XMI instead"),
)


class Layout:
    """Finds the keys that hold entities in the records of one file. objects: reads them all.

    doccano writes entities and categories under the same key; the other records tell which of them an empty list
    stands for. Docs as JSON (`doc.to_json`) have their entities under "ents".
    """

    def __init__(self, objects: Callable[[], Iterable[Any]], options: Options) -> None:
        self.objects = objects
        self.label_keys = (options.label_key, options.labels_key)

    def span_keys(self, data: Mapping[str, Any]) -> list[str]:
        """The keys of a record that hold entities."""
        found = ["ents"] if _is_doc(data) else [key for key in _SPAN_KEYS if key in data]
        return found + [
            key for key in self.label_keys if isinstance(data.get(key), list) and self._are_spans(data[key])
        ]

    def _are_spans(self, items: list[Any]) -> bool:
        return _has_spans(items) if items else self._empty_are_spans

    @cached_property
    def _empty_are_spans(self) -> bool:
        """Whether the first non-empty list in the file holds entities."""
        try:
            for data in self.objects():
                lists = [data.get(key) for key in self.label_keys]
                for items in lists:
                    if items and isinstance(items, list):
                        return _has_spans(items)
        except DataError:  # the reader reports it when it gets there
            pass
        return False


def layout_of(path: Path, options: Options) -> Layout:
    """The layout of a file of JSON records."""
    return Layout(lambda: (data for _, data in json_items.records(path, options, Tally())), options)


def _has_spans(items: list[Any]) -> bool:
    return any(isinstance(item, list | dict) for item in items)


def _is_doc(data: Mapping[str, Any]) -> bool:
    """Whether a record is a Doc as JSON, whose "spans" are span groups by name."""
    ents = data.get("ents")
    ours = "entities" in data or isinstance(data.get("spans"), list)
    return isinstance(ents, list) and all(isinstance(ent, dict) and "start" in ent for ent in ents) and not ours


def check_record(data: Mapping[str, Any], where: str, options: Options) -> None:
    """Raise DataError for a record that looks like another tool's or task's and would be only partly read."""
    if is_pair(data, options):
        return
    annotated = {*_SPAN_KEYS, "ents", "cats", options.label_key, options.labels_key, options.value_key} & data.keys()
    error = None
    if options.text_key not in data:
        error = _other_task(data, where) or _other_form(data, where)
    elif not annotated:
        error = _other_form(data, where)
    elif options.label_key in data and all(type(data.get(key)) is int for key in ("start", "end")):
        error = data_error(
            where,
            found=f"'start' and 'end' beside {options.label_key!r}, one entity of the text",
            expected=_RECORD,
            fix="put all entities of a text in one record, under 'spans'; if they are something else, rename the keys",
        )
    if error is not None:
        raise error


def _other_task(data: Mapping[str, Any], where: str) -> DataError | None:
    """The error for a record in a known form of another tool or task; None if it isn't in one."""
    first = _first(data.get("data"))
    forms = (
        (isinstance(data.get("data"), dict), "an export of Label Studio", "label-studio"),
        ("sentences" in _first(data.get("paragraphs")), "the JSON that spaCy 2 was trained on", "spacy-json"),
        ("paragraphs" in first or "qas" in _first(data.get("paragraphs")), "questions in the form of SQuAD", "squad"),
    )
    for there, found, name in forms:
        if there:
            fix = f"set format (--format) to {name}, or leave it out, to have it found"
            return data_error(where, found=found, expected=_RECORD, fix=fix)
    return None


def _other_form(data: Mapping[str, Any], where: str) -> DataError | None:
    """The error for annotations in an unsupported form; None if there are none."""
    tags = next((key for key in _TAG_KEYS if isinstance(data.get(key), list)), None)
    words = next((key for key in ("tokens", "words") if isinstance(data.get(key), list)), None)
    if tags and words:
        return data_error(
            where,
            found=f"{words!r} and {tags!r}, as in data sets of Hugging Face",
            expected="tokens and tags under the keys that the options name",
            fix=f"name them with tokens_key and tags_key (--tokens-key {words} --tags-key {tags})",
        )
    other = next((key for key in _OTHER_KEYS if data.get(key)), None)
    if other:
        return data_error(
            where,
            found=f"{other!r}: {brief(data[other])}, annotations in a form that is not read",
            expected=_RECORD,
            fix="write entities under 'spans', and categories under 'label' or 'labels'",
        )
    return None


def _first(items: Any) -> Mapping[str, Any]:
    """The first object in a list; an empty one if there is none."""
    return items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else {}


def check_cell(cell: str, where: str) -> None:
    """Raise DataError for a table cell with JSON for a category, as Label Studio writes spans and several choices."""
    if cell.lstrip().startswith(("[{", '{"')):
        try:
            json.loads(cell)
        except (ValueError, RecursionError):
            return
        raise data_error(
            where,
            found="a table exported from Label Studio",
            expected="plain names of categories",
            fix="export from Label Studio as JSON or JSON-MIN, which are read as they are",
        )


def check_kind(head: bytes, path: Path) -> None:
    """Raise DataError for a file of a kind that holds no annotated text. head: its beginning."""
    for signature, found, fix in _SIGNATURES:
        if head.startswith(signature):
            raise data_error(str(path), found=found, expected="a file of annotated texts", fix=fix)
