"""Sentences of tokens with entities, and the records made of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert.iob import Tag, parse_tag
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Entity, Record, brief

EXPECTED_TAG = "O, B-LABEL, I-LABEL (also L, U, E, S) or a plain LABEL"


@dataclass
class Sentence:
    """A sentence. spans: first token, last token + 1, label. spaces: whether one follows a token, by default yes."""

    where: str
    words: list[str] = field(default_factory=list)
    spans: list[tuple[int, int, str]] = field(default_factory=list)
    spaces: list[bool] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)  # tokens without annotation


def merged(sentences: Iterable[Sentence | None], options: Options) -> Iterator[Record]:
    """Yield a Record per `merge_sentences` sentences; none continues past a None, where a document begins."""
    group: list[Sentence] = []
    for sentence in sentences:
        if sentence is not None:
            group.append(sentence)
        if group and (sentence is None or len(group) == options.merge_sentences):
            yield record_of(group)
            group = []
    if group:
        yield record_of(group)


def record_of(group: Sequence[Sentence]) -> Record:
    """The Record of one or several sentences."""
    words = tuple(word for sentence in group for word in sentence.words)
    given = any(one.spaces for one in group)
    spaces = tuple(space for one in group for space in one.spaces or [True] * len(one.words))
    spaces = (*spaces[:-1], False) if given else spaces
    starts, at = [], 0  # of each word, in characters
    for word, space in zip(words, spaces, strict=True):
        starts.append(at)
        at += len(word) + space
    spans: list[Entity] = []
    missing: list[tuple[int, int]] = []
    first = 0
    for sentence in group:
        for start, end, label in sentence.spans:
            last = first + end - 1
            spans.append(Entity(starts[first + start], starts[last] + len(words[last]), label))
        missing += [(starts[first + i], starts[first + i] + len(words[first + i])) for i in sentence.missing]
        first += len(sentence.words)
    return Record(
        group[0].where, words=words, spaces=spaces if given else (), spans=tuple(spans), missing=tuple(missing)
    )


def tags_of(names: Sequence[object], where: str) -> list[Tag]:
    """Parse the tags of a list. Raises DataError for anything else, such as numbers."""
    found = [parse_tag(name) if isinstance(name, str) else None for name in names]
    for name, tag in zip(names, found, strict=True):
        if tag is None:
            raise data_error(
                where,
                found=f"the tag {brief(name)}",
                expected=EXPECTED_TAG,
                fix="name the key of the tags with tags_key (--tags-key); numbers stand for names that only the data "
                "set itself has: convert its folder, a .parquet file or its name on the hub (--format datasets)",
            )
    return [tag for tag in found if tag]
