"""Prodigy's tasks with their answers, as `prodigy db-out` writes them: which are gold, and for which annotation."""

from __future__ import annotations

import dataclasses
from typing import Any

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import brief

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


def is_task(data: dict[str, Any], options: Options) -> bool:
    """Whether a record is a task of Prodigy: it has an answer, or its hashes."""
    if "answer" in _own_keys(options):
        return False
    return bool(_HASHES & data.keys()) or data.get("answer") in _ANSWERS


def is_about_one_entity(data: dict[str, Any]) -> bool:
    """Whether the annotator was asked for one suggested entity, so that there may be others."""
    return data.get("_view_id") == "ner" or (data.get("_is_binary") is True and bool(data.get("spans")))


def gold(data: dict[str, Any], where: str, options: Options) -> dict[str, Any] | None:
    """Turn a task into one of our records; None if it was rejected, ignored, or left without its single choice.

    Rejections are not gold: they don't say which label would be right, or what is wrong with the spans.
    """
    answer = data.get("answer", "accept")
    if answer not in _ANSWERS:
        raise data_error(
            where,
            found=f"'answer': {brief(answer)} in a task of Prodigy",
            expected="accept, reject or ignore",
            fix="correct it, or delete this record",
        )
    if answer != "accept":
        return None
    record = {key: value for key, value in data.items() if key not in _OWN or key in _own_keys(options)}
    if data.get("_view_id") in _MARKED:
        record.setdefault("spans", [])
    if isinstance(record.get("spans"), list):
        record["spans"] = [_bare(span) for span in record["spans"]]
    if isinstance(data.get("options"), list):
        return _chosen(data, record, where, options)
    return record


def _own_keys(options: Options) -> set[str]:
    """The keys that the options name."""
    return {str(value) for name, value in dataclasses.asdict(options).items() if name.endswith("_key")}


def only_shows_spans(data: dict[str, Any]) -> bool:
    """Whether a task's spans were only shown to the annotator, who answered for a label."""
    return data.get("_view_id") in _ABOUT_LABELS


def _bare(span: Any) -> Any:
    whole = isinstance(span, dict) and set(_SPAN) <= span.keys()
    return {key: span[key] for key in _SPAN} if whole else span


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
