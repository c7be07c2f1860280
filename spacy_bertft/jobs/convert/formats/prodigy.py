"""Prodigy's tasks with their answers, as `prodigy db-out` writes them: which are gold, and for which annotation.

In binary interfaces, the annotator was asked for one suggested entity at a time: all answers for a text make one
Record, whose other tokens are missing annotation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert import foreign, json_items
from spacy_bertft.jobs.convert.annotated import Annotated
from spacy_bertft.jobs.convert.format import Format, Sample
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Entity, Record, brief
from spacy_bertft.jobs.convert.rows import Rows
from spacy_bertft.jobs.convert.tally import Tally

_ANSWERS = ("accept", "reject", "ignore")
_HASHES = {"_input_hash", "_task_hash"}
# Keys about how a task was shown and answered, but not keys with other annotation (relations, arcs).
_OWN = _HASHES | {
    "_view_id", "_session_id", "_annotator_id", "_timestamp", "_is_binary", "accept", "answer", "config", "html",
    "meta", "options", "path", "priority", "score", "style", "tokens", "version",
}  # fmt: skip
_ABOUT_LABELS = ("classification", "choice")  # interfaces where spans are only shown
_MARKED = ("ner_manual", "spans_manual")  # where all spans are marked; Prodigy leaves the key out if there are none
_SPAN = ("start", "end", "label")
_KEPT = {*_SPAN, "text"}


@dataclass
class _Asked:
    """The answers for the suggested entities of one text. spans: each suggestion, and whether it was accepted."""

    where: str
    spans: dict[Entity, set[bool]] = field(default_factory=dict)
    tasks: int = 0


class Tasks:
    """Makes records of the tasks of one file."""

    def __init__(self, rows: Rows, options: Options, tally: Tally) -> None:
        self._rows = rows
        self._options = options
        self._tally = tally
        self._asked: dict[str, _Asked] = {}  # by text

    def records(self, data: dict[str, Any], where: str) -> Iterator[Record]:
        """Yield the Record of a task; none if it was not accepted, or if it is about one of several suggestions.

        Other rejections are not gold: they don't say which label would be right, or what is wrong with the spans.
        """
        answer = _answer(data, where)
        if _is_about_one_entity(data) and data.get("spans") and answer != "ignore":
            self._collect(data, where, answer)
            return
        task = _gold(data, where, self._options) if answer == "accept" else None
        if task is None:
            self._tally.rejected += 1
            return
        record = self._rows.record(task, where, about_spans=data.get("_view_id") not in _ABOUT_LABELS)
        yield dataclasses.replace(record, partial=_is_about_one_entity(data))

    def _collect(self, data: dict[str, Any], where: str, answer: str) -> None:
        record = self._rows.record(_bare_task(data, self._options), where)
        asked = self._asked.setdefault(record.text, _Asked(where))
        asked.tasks += 1
        if answer == "accept":  # to the label of the span, which some interfaces repeat as one of the text
            labels = {*record.chosen, *(record.cats or ())} - {entity.label for entity in record.spans or ()}
            self._tally.drop("categories beside a suggested entity", where, len(labels))
        for entity in record.spans or ():
            asked.spans.setdefault(entity, set()).add(answer == "accept")

    def end(self) -> Iterator[Record]:
        """Yield the records of the suggested entities. Call it after the last task."""
        for text, asked in self._asked.items():
            ordered = sorted(asked.spans.items(), key=lambda item: (item[0].start, item[0].end))
            yes, no, both = (
                tuple(entity for entity, answers in ordered if answers == wanted)
                for wanted in ({True}, {False}, {True, False})
            )
            self._tally.drop("spans that were accepted and rejected", asked.where, len(both))
            incorrect = no if self._options.incorrect_group else ()
            if yes or incorrect:
                self._tally.rejected += len(no) - len(incorrect)
                yield Record(asked.where, text=text, spans=yes, partial=True, incorrect=incorrect)
            else:
                self._tally.rejected += asked.tasks


def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
    """Yield the records of a file of tasks. Raises DataError for an object that is no task."""
    rows = Rows(foreign.layout_of(path, options), options, tally)
    tasks = Tasks(rows, options, tally)
    for where, data in json_items.records(path, options, tally):
        if not is_task(data, options):
            raise data_error(
                where,
                found=f"an object without an answer or a hash, only the keys {brief(list(data))}",
                expected="a task of Prodigy",
                fix="set format (--format) to jsonl",
            )
        yield from tasks.records(data, where)
    yield from tasks.end()
    rows.end(str(path))


def is_task(data: dict[str, Any], options: Options) -> bool:
    """Whether a record is a task of Prodigy: it has an answer, or its hashes."""
    if "answer" in _own_keys(options):
        return False
    return bool(_HASHES & data.keys()) or data.get("answer") in _ANSWERS


def _is_about_one_entity(data: dict[str, Any]) -> bool:
    """Whether the annotator was asked for one suggested entity, so that there may be others."""
    return data.get("_view_id") == "ner" or (data.get("_is_binary") is True and bool(data.get("spans")))


def _answer(data: dict[str, Any], where: str) -> str:
    answer = data.get("answer", "accept")
    if answer not in _ANSWERS:
        raise data_error(
            where,
            found=f"'answer': {brief(answer)} in a task of Prodigy",
            expected="accept, reject or ignore",
            fix="correct it, or delete this record",
        )
    return str(answer)


def _bare_task(data: dict[str, Any], options: Options) -> dict[str, Any]:
    """A task without the keys about how it was shown."""
    record = {key: value for key, value in data.items() if key not in _OWN or key in _own_keys(options)}
    if isinstance(record.get("spans"), list):
        record["spans"] = [_bare(span) for span in record["spans"]]
    return record


def _gold(data: dict[str, Any], where: str, options: Options) -> dict[str, Any] | None:
    """Turn an accepted task into one of our records; None if it was left without its single choice."""
    record = _bare_task(data, options)
    if data.get("_view_id") in _MARKED:
        record.setdefault("spans", [])
    if isinstance(data.get("options"), list):
        return _chosen(data, record, where, options)
    return record


def _own_keys(options: Options) -> set[str]:
    """The keys that the options name; Prodigy's tokens are objects, and never those of the options."""
    named = {name: value for name, value in vars(options).items() if name.endswith("_key")}
    return {str(value) for name, value in named.items() if name not in ("tokens_key", "tags_key")}


def _bare(span: Any) -> Any:
    whole = isinstance(span, dict) and set(_SPAN) <= span.keys()
    return {key: span[key] for key in span if key in _KEPT} if whole else span


def _chosen(data: dict[str, Any], record: dict[str, Any], where: str, options: Options) -> dict[str, Any] | None:
    """The record with its choices: `labels`, or `label` if the interface allowed only one."""
    choices = data.get("accept", [])
    choices = [choices] if isinstance(choices, str | int) else choices
    if not isinstance(choices, list):
        raise data_error(
            where, found=f"'accept': {brief(choices)}", expected="a list of the options' ids", fix="correct it"
        )
    ids = [option.get("id") for option in data["options"] if isinstance(option, dict)]
    for choice in choices:
        if choice not in ids:
            raise data_error(
                where,
                found=f"the choice {brief(choice)}",
                expected=f"one of the options, {brief(ids)}",
                fix="correct 'accept', or add the option",
            )
    config = data.get("config")
    if not isinstance(config, dict) or config.get("choice_style") != "single":
        return {**record, options.labels_key: choices}
    if len(choices) > 1:
        raise data_error(
            where,
            found=f"{len(choices)} choices, {brief(choices)}",
            expected='one, since "choice_style" is "single"',
            fix="keep one, or delete this record",
        )
    return {**record, options.label_key: choices[0]} if choices else None


# --- writing


def write(texts: Sequence[Annotated], path: Path, tally: Tally) -> None:
    """Write tasks that `prodigy db-in` imports as accepted ones. Prodigy makes their hashes."""
    labels = sorted({label for one in texts for label in one.cats or ()})
    json_items.write_lines(path, (_task(one, labels) for one in texts))


def _task(one: Annotated, labels: Sequence[str]) -> dict[str, Any]:
    task: dict[str, Any] = {"text": one.text}
    if one.spans is not None:
        firsts = {token.start: i for i, token in enumerate(one.tokens)}
        lasts = {token.end: i for i, token in enumerate(one.tokens)}
        task["tokens"] = [
            {"text": token.text, "start": token.start, "end": token.end, "id": i, "ws": token.space}
            for i, token in enumerate(one.tokens)
        ]
        task["spans"] = [
            {
                "start": span.start,
                "end": span.end,
                "token_start": firsts[span.start],
                "token_end": lasts[span.end],
                "label": span.label,
            }
            for span in one.spans
        ]
    if one.cats is not None:
        task["options"] = [{"id": label, "text": label} for label in labels]
        task["accept"] = one.chosen
    return {**task, "answer": "accept"}


def _fits(sample: Sample) -> bool:
    return bool(sample.records) and all(is_task(data, sample.options) for data in sample.records)


FORMAT = Format(
    "prodigy",
    "Prodigy",
    fits=_fits,
    read=read,
    write=write,
    ending=".jsonl",
    holds=frozenset({"entities", "overlaps", "categories"}),
)
