"""Files made for other tools or tasks: where their entities are, and errors for forms that can't be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from spacy_bertft.errors import DataError, data_error
from spacy_bertft.jobs.convert.options import Options, is_pair
from spacy_bertft.jobs.convert.records import brief
from spacy_bertft.jobs.text_files import lines

_SPAN_KEYS = ("spans", "entities")
_LABEL_STUDIO_FIX = (
    "export from Label Studio as CONLL2003 for entities, or as CSV for categories, and name the category's column "
    "with label_key (--label-key)"
)
_CONLL_FIX = (
    "write a CoNLL file (.conll): a token and the name of its tag per line, a blank line between sentences; the names "
    "of numbered tags are in the dataset's features"
)
_TAG_KEYS = ("ner_tags", "tags", "ner", "labels")
_OTHER_KEYS = ("annotations", "annotation", "completions", "ner_tags")
_RECORD = 'records such as {"text": "…", "spans": [{"start": 0, "end": 5, "label": "PERSON"}]}, one per line'


class Layout:
    """Finds the keys that hold entities in the records of one JSONL file.

    doccano writes entities and categories under the same key; the other records tell which of them an empty list
    stands for. Docs as JSON (`doc.to_json`) have their entities under "ents".
    """

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
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
        for _, line in lines(self.path):
            try:
                data = json.loads(line)
            except (ValueError, RecursionError):  # the reader reports it when it gets there
                continue
            lists = [data.get(key) for key in self.label_keys] if isinstance(data, dict) else []
            for items in lists:
                if items and isinstance(items, list):
                    return _has_spans(items)
        return False


def _has_spans(items: list[Any]) -> bool:
    return any(isinstance(item, list | dict) for item in items)


def _is_doc(data: Mapping[str, Any]) -> bool:
    """Whether a record is a Doc as JSON, whose "spans" are span groups by name."""
    ents = data.get("ents")
    ours = "entities" in data or isinstance(data.get("spans"), list)
    return isinstance(ents, list) and all(isinstance(ent, dict) and "start" in ent for ent in ents) and not ours


def from_pair(data: Any, options: Options) -> Any:
    """Turn a [text, annotations] pair, spaCy 2's training data, into a record; return anything else as it is."""
    return {options.text_key: data[0], **data[1]} if _is_annotated_text(data) else data


def _is_annotated_text(data: Any) -> bool:
    return isinstance(data, list) and len(data) == 2 and isinstance(data[0], str) and isinstance(data[1], dict)


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
    if isinstance(data.get("data"), dict) and {"annotations", "completions"} & data.keys():
        return _label_studio(where)
    if "sentences" in _first(data.get("paragraphs")):
        return data_error(
            where,
            found="'paragraphs' of 'sentences', the JSON that spaCy 2 was trained on",
            expected=_RECORD,
            fix="make a .spacy file of it with `python -m spacy convert FILE.json FOLDER`",
        )
    if "paragraphs" in _first(data.get("data")) or "qas" in _first(data.get("paragraphs")):
        return data_error(
            where,
            found="paragraphs with questions, as in SQuAD",
            expected=_RECORD,
            fix="convert the whole file, one JSON object, with format (--format) squad",
        )
    if {"question", "context"} <= data.keys():
        return data_error(
            where,
            found="'question' and 'context', a record for question answering",
            expected=_RECORD,
            fix='write a .json file in the form of SQuAD, {"data": [{"paragraphs": [{"context": "…", "qas": […]}]}]}',
        )
    return None


def _other_form(data: Mapping[str, Any], where: str) -> DataError | None:
    """The error for annotations in an unsupported form; None if there are none."""
    tags = next((key for key in _TAG_KEYS if isinstance(data.get(key), list)), None)
    words = next((key for key in ("tokens", "words") if isinstance(data.get(key), list)), None)
    if tags and words:
        return data_error(
            where,
            found=f"{words!r} and {tags!r}, as in data sets of Hugging Face",
            expected="a text, and entities by character offsets",
            fix=_CONLL_FIX,
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


def _label_studio(where: str) -> DataError:
    """The error for an export of Label Studio."""
    return data_error(where, found="an export of Label Studio", expected=_RECORD, fix=_LABEL_STUDIO_FIX)


def check_json(content: Any, where: str, options: Options) -> None:
    """Raise DataError for the content of a .json file in a known form other than SQuAD."""
    if isinstance(content, dict) and isinstance(content.get("annotations"), list) and "classes" in content:
        raise _lines_wanted(where, "the JSON of an NER Annotator", "jq -c '.annotations[]'")
    first = content[0] if isinstance(content, list) and content else content
    if _is_annotated_text(first):
        raise _lines_wanted(where, "a list of texts with annotations, as spaCy 2 was trained on", "jq -c '.[]'")
    if not isinstance(first, dict) or (first is content and "data" in first):
        return
    if options.text_key in first:
        if first is content:
            fix = "set format (--format) to jsonl if it has one record per line (JSON Lines)"
            raise data_error(where, found="one record", expected="one JSON object in the form of SQuAD", fix=fix)
        raise _lines_wanted(where, "a list of records", "jq -c '.[]'")
    if error := _other_task(first, where) or _other_form(first, where):
        raise error


def _lines_wanted(where: str, found: str, command: str) -> DataError:
    return data_error(
        where,
        found=found,
        expected="JSON Lines (.jsonl), one record per line; .json is SQuAD",
        fix=f"write each on its own line, e.g. with {command} FILE.json > FILE.jsonl",
    )


def check_cell(cell: str, where: str) -> None:
    """Raise DataError for a table cell with JSON for a category, as Label Studio writes spans and several choices."""
    if cell.lstrip().startswith(("[{", '{"')):
        try:
            json.loads(cell)
        except (ValueError, RecursionError):
            return
        raise _label_studio(where)
