"""The JSON that spaCy 2 was trained on: documents of paragraphs of sentences of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert import json_items
from spacy_bertft.jobs.convert.format import Format, Sample
from spacy_bertft.jobs.convert.iob import Decoder, Tag, parse_tag
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Record, brief, encodable, finite, name_of
from spacy_bertft.jobs.convert.sentences import EXPECTED_TAG, Sentence, record_of
from spacy_bertft.jobs.convert.tally import Tally

_SHAPE = '[{"id": 0, "paragraphs": [{"raw": "…", "sentences": [{"tokens": [{"orth": "…", "ner": "O"}]}], "cats": []}]}]'
_FIX = "bring the file into the form that spaCy 2 reads"
_USED = {"orth", "space", "ner", "id"}
_UNKNOWN = ("-", "", None)  # tags of tokens without annotation
_OUTSIDE = Tag("O")


def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
    """Yield a Record for each paragraph. Its text is `raw`, or else the tokens."""
    decoder = Decoder()
    for at_document, document in json_items.items(path, expected=f"a JSON array of documents, {_SHAPE}"):
        for where, paragraph in _objects(document, "paragraphs", at_document):
            yield _record(paragraph, where, decoder, tally)
    tally.repair(decoder.repaired, str(path))


def _record(paragraph: dict[str, Any], where: str, decoder: Decoder, tally: Tally) -> Record:
    sentences = [_sentence(one, place, decoder, tally) for place, one in _objects(paragraph, "sentences", where)]
    _place(paragraph.get("raw"), sentences, where)
    cats = {}
    for place, one in _objects(paragraph, "cats", where) if paragraph.get("cats") else ():
        name = name_of(one.get("label"), place, "label")
        cats[name] = finite(one.get("value"), place, "value", fix="write a number from 0 to 1")
    made = record_of(sentences)
    annotated = any(len(one.missing) < len(one.words) for one in sentences)
    return Record(
        where,
        words=made.words,
        spaces=made.spaces,
        spans=made.spans if annotated else None,
        missing=made.missing,
        cats=cats or None,
    )


def _sentence(data: dict[str, Any], where: str, decoder: Decoder, tally: Tally) -> Sentence:
    found = Sentence(where)
    tags: list[Tag] = []
    for place, token in _objects(data, "tokens", where):
        word, name = token.get("orth"), token.get("ner")
        tag = _OUTSIDE if name in _UNKNOWN else parse_tag(name) if isinstance(name, str) else None
        if not isinstance(word, str) or not word or tag is None:
            raise data_error(
                place,
                found=brief(token),
                expected=f"a token under 'orth', and its tag under 'ner': {EXPECTED_TAG}, or '-'",
                fix=_FIX,
            )
        if name in _UNKNOWN:
            found.missing.append(len(tags))
        found.words.append(encodable(word, place, "orth"))
        found.spaces.append(bool(token.get("space", True)))
        tags.append(tag)
        tally.ignored.update(key for key in token if key not in _USED)
    found.spans = decoder.decode(tags)
    return found


def _place(raw: object, sentences: list[Sentence], where: str) -> None:
    """Take the spaces after the tokens from the raw text. Raises DataError if the tokens are not in it."""
    if not isinstance(raw, str):
        return
    at = len(raw) - len(raw.lstrip(" "))
    for sentence in sentences:
        for i, word in enumerate(sentence.words):
            if not raw.startswith(word, at):
                raise data_error(
                    where,
                    found=f"the token {brief(word)}, but {brief(raw[at : at + len(word)])} in 'raw'",
                    expected="tokens that make up the text, with at most one space between them",
                    fix="delete 'raw' from this paragraph, or correct the tokens",
                )
            at += len(word)
            sentence.spaces[i] = raw.startswith(" ", at)
            at += sentence.spaces[i]
    if raw[at:].strip():
        raise data_error(
            where,
            found=f"{brief(raw[at:])} in 'raw' after the last token",
            expected="tokens that make up the text",
            fix="delete 'raw' from this paragraph, or add the tokens",
        )


def _objects(data: object, key: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    items = data.get(key) if isinstance(data, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items) or not items:
        raise data_error(
            where,
            found=f"{key!r}: {brief(items)}",
            expected=f"a list of objects under {key!r}, as in {_SHAPE}",
            fix=_FIX,
        )
    return ((f"{where}, {key}[{i}]", item) for i, item in enumerate(items))


def _fits(sample: Sample) -> bool:
    paragraphs = sample.records[0].get("paragraphs") if sample.records else None
    return (
        isinstance(paragraphs, list)
        and bool(paragraphs)
        and isinstance(paragraphs[0], dict)
        and "sentences" in paragraphs[0]
    )


FORMAT = Format("spacy-json", "spaCy 2 JSON", fits=_fits, read=read)
