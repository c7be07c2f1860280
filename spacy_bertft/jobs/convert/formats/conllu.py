"""CoNLL-U with entities in the last column (MISC): NER=B-PER, as several corpora and taggers write them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert.format import Format, Sample
from spacy_bertft.jobs.convert.iob import Decoder, Tag, parse_tag
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Record, brief
from spacy_bertft.jobs.convert.sentences import EXPECTED_TAG, Sentence, merged
from spacy_bertft.jobs.convert.tally import Tally
from spacy_bertft.jobs.text_files import lines

_COLUMNS = 10
_ID = re.compile(r"(\d+)(?:([-.])(\d+))?")
_KEYS = ("NER", "ner", "NE", "name")  # of MISC; "Entity" holds coreference in brackets
_OUTSIDE = Tag("O")


@dataclass
class _Words:
    """The lines of a sentence. tokens: those of the text; a token may be several words (1-2 del -> de + el)."""

    where: str = ""
    tags: dict[int, Tag] = field(default_factory=dict)  # number of a word -> tag
    tagged: set[int] = field(default_factory=set)  # words whose tag is in the file
    of_tokens: dict[int, Tag] = field(default_factory=dict)  # first word of a token of several words -> the token's tag
    tokens: list[tuple[int, int, str, bool]] = field(default_factory=list)  # first and last word, form, space after


def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
    """Yield a Record per sentence, or per `merge_sentences` sentences; none continues past a "# newdoc"."""
    decoder = Decoder()
    yield from merged(_sentences(path, decoder, tally), options)
    tally.repair(decoder.repaired, str(path))


def _sentences(path: Path, decoder: Decoder, tally: Tally) -> Iterator[Sentence | None]:
    """Yield the sentences, and None where a document begins."""
    found, any_tag = _Words(), False
    for number, ended in lines(path):
        line = ended.rstrip("\r\n")
        if line.startswith("#"):
            tally.skipped += 1
            if line.startswith("# newdoc"):
                yield None
        elif line.strip():
            any_tag |= _add(line, f"{path}:{number}", found)
        elif found.tokens:
            yield _sentence(found, decoder, tally)
            found = _Words()
    if found.tokens:
        yield _sentence(found, decoder, tally)
    if not any_tag:
        raise data_error(
            str(path),
            found="CoNLL-U without entities",
            expected=f"a tag in the last column, under one of {', '.join(_KEYS)}, such as NER=B-PER",
            fix="add the entities to the file",
        )


def _add(line: str, where: str, found: _Words) -> bool:
    """Add a line to its sentence; returns whether it has a tag."""
    columns = line.split("\t")
    number = _ID.fullmatch(columns[0])
    if len(columns) != _COLUMNS or number is None or not columns[1]:
        raise data_error(
            where,
            found=brief(line),
            expected=f"{_COLUMNS} columns separated by tabs: a number, a token, and so on",
            fix="correct this line; if the file is a table of tokens and tags, set format (--format) to conll",
        )
    first, between, last = number.groups()
    if between == ".":  # a word that is not in the text
        return False
    found.where = found.where or where
    misc = dict(part.partition("=")[::2] for part in columns[9].split("|"))
    name = next((misc[key] for key in _KEYS if key in misc), None)
    inside = found.tokens and int(first) <= found.tokens[-1][1]  # a word of a token
    if between == "-" or not inside:
        found.tokens.append((int(first), int(last or first), columns[1], misc.get("SpaceAfter") != "No"))
    tag = parse_tag(name) if name else _OUTSIDE
    if tag is None:
        raise data_error(where, found=f"the tag {brief(name)}", expected=EXPECTED_TAG, fix="correct it")
    (found.of_tokens if between == "-" else found.tags)[int(first)] = tag
    if name is not None and between != "-":
        found.tagged.add(int(first))
    return name is not None


def _apply_tags_of_tokens(found: _Words, tally: Tally) -> None:
    """Give the tag of a token of several words to the whole of it, as Stanza means it, unless its words have tags."""
    for first, last, _, _ in found.tokens:
        tag = found.of_tokens.get(first, _OUTSIDE)
        if tag.prefix == _OUTSIDE.prefix:
            continue
        words = range(first, last + 1)
        if found.tagged.isdisjoint(words):
            for word in words:
                found.tags.pop(word, None)
            found.tags[first] = tag
        else:
            tally.drop("tags of tokens whose words have tags", found.where)


def _sentence(found: _Words, decoder: Decoder, tally: Tally) -> Sentence:
    """A sentence of the tokens of the text; an entity that begins or ends inside a token becomes the whole of it."""
    _apply_tags_of_tokens(found, tally)
    numbers = sorted(found.tags)
    token_of = {word: i for i, (first, last, _, _) in enumerate(found.tokens) for word in range(first, last + 1)}
    spans: list[tuple[int, int, str]] = []
    for start, end, label in decoder.decode([found.tags[number] for number in numbers]):
        first, last = token_of[numbers[start]], token_of[numbers[end - 1]]
        if spans and first < spans[-1][1]:
            tally.drop("entities that share a token with the one before", found.where)
        else:
            spans.append((first, last + 1, label))
    return Sentence(found.where, [form for _, _, form, _ in found.tokens], spans, [one[3] for one in found.tokens])


def _fits(sample: Sample) -> bool:
    first = next((line for line in sample.lines if line.strip() and not line.startswith("#")), "")
    columns = first.split("\t")
    return len(columns) == _COLUMNS and _ID.fullmatch(columns[0]) is not None


FORMAT = Format("conllu", "CoNLL-U", fits=_fits, read=read, endings=(".conllu",))
