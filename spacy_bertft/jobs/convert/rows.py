"""Records from objects with named values, as JSON Lines and the rows of data sets hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert import foreign
from spacy_bertft.jobs.convert.iob import Decoder
from spacy_bertft.jobs.convert.options import Options, has_value, is_pair
from spacy_bertft.jobs.convert.questions import QUESTION_KEYS, question_record
from spacy_bertft.jobs.convert.records import Record, brief, encodable, entities, finite, name_of
from spacy_bertft.jobs.convert.sentences import Sentence, record_of, tags_of
from spacy_bertft.jobs.convert.tally import Tally


class Rows:
    """Makes records of the objects of one file. layout: finds the keys that hold spans."""

    def __init__(self, layout: foreign.Layout, options: Options, tally: Tally) -> None:
        self._layout = layout
        self._options = options
        self._tally = tally
        self._decoder = Decoder()

    def record(self, data: dict[str, Any], where: str, *, about_spans: bool = True) -> Record:
        """The Record of an object. about_spans: whether its spans are annotation."""
        options = self._options
        data = {key: value for key, value in data.items() if value is not None}
        if data.keys() >= QUESTION_KEYS and options.text_key not in data:
            return self._question(data, where)
        tagged = options.text_key not in data or options.tags_key in data
        if tagged and isinstance(data.get(options.tokens_key), list | tuple):
            return self._of_tokens(data, where)
        foreign.check_record(data, where, options)
        return self._of_text(data, where, self._layout.span_keys(data) if about_spans else [])

    def end(self, where: str) -> None:
        """Count the tags that had to be repaired. Call it after the last record. where: the file."""
        self._tally.repair(self._decoder.repaired, where)

    def _question(self, data: dict[str, Any], where: str) -> Record:
        self._tally.ignored.update(key for key in data if key not in {*QUESTION_KEYS, "id", "answers", "title"})
        return question_record(data, data["context"], where, self._tally, self._options.offsets)

    def _of_tokens(self, data: dict[str, Any], where: str) -> Record:
        options = self._options
        words, tags = data[options.tokens_key], data.get(options.tags_key)
        if not (words and all(isinstance(word, str) and word for word in words)):
            raise data_error(
                where,
                found=f"{options.tokens_key!r}: {brief(words)}",
                expected="a list of tokens, none of them empty",
                fix="delete this record, or name the key of the text with text_key (--text-key)",
            )
        if not isinstance(tags, list | tuple) or len(tags) != len(words):
            raise data_error(
                where,
                found=f"{len(words)} tokens, and under {options.tags_key!r} {brief(tags)}",
                expected="a tag for each token",
                fix="name the key of the tags with tags_key (--tags-key)",
            )
        used = {options.tokens_key, options.tags_key}
        self._tally.ignored.update(key for key in data if key not in used)
        spans = self._decoder.decode(tags_of(tags, where))
        return record_of([Sentence(where, list(words), list(spans))])

    def _of_text(self, data: dict[str, Any], where: str, span_keys: Sequence[str]) -> Record:
        options, tally = self._options, self._tally
        pair = is_pair(data, options)
        text = _text(data, where, options.first_key if pair else options.text_key, options)
        second = _text(data, where, options.second_key, options) if pair else None
        spans = [] if pair else span_keys
        _at_most_one(spans, where, "entities")
        keys = (options.label_key, options.labels_key, "cats")
        forms = [key for key in keys if key in data and key not in spans]
        _at_most_one(forms, where, "categories")
        self._count_others(data, [*spans, *forms])
        label, labels, cats = (data[key] if key in forms else None for key in keys)
        names_key = options.labels_key
        if isinstance(label, list):  # as doccano writes categories
            label, labels, names_key = None, label, options.label_key
        if isinstance(cats, list):  # doccano's, of texts with intents and slots
            cats, labels, names_key = None, cats, "cats"
        value = data[options.value_key] if has_value(data, options) else None
        return Record(
            where,
            text=text,
            second=second,
            label=None if label is None else name_of(label, where, options.label_key),
            labels=None if labels is None else _names(labels, where, names_key),
            cats=None if cats is None else _numbers(cats, where),
            value=None if value is None else _value(value, where, options.value_key),
            spans=entities(data[spans[0]], text, where, spans[0], tally, options) if spans else None,
        )

    def _count_others(self, data: dict[str, Any], used: Sequence[str]) -> None:
        """Count the keys that are not used."""
        options = self._options
        texts = [options.first_key, options.second_key] if is_pair(data, options) else [options.text_key]
        values = [options.value_key] if has_value(data, options) else []
        self._tally.ignored.update(key for key in data if key not in (*texts, *used, *values))


def _text(data: dict[str, Any], where: str, key: str, options: Options) -> str:
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
