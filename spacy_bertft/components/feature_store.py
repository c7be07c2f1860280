"""Storage for features between the encoder and the heads that read them. They never outlive their Doc."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from spacy.tokens import Doc

from spacy_bertft.types import Features, Rows


@dataclass(slots=True)
class Published:
    """One Doc's place in a batch of features, and the readers that have not read it yet."""

    features: Features
    place: int  # in the batch
    waiting: set[int]  # ids of readers
    kept: bool  # stays after all have read it


_published: WeakKeyDictionary[Doc, dict[str, Published]] = WeakKeyDictionary()


def publish(encoder: str, docs: Sequence[Doc], features: Features, *, readers: Iterable[int], keep: bool) -> None:
    """Store the features of a batch of Docs under the encoder's name."""
    readers = frozenset(readers)
    if not readers and not keep:
        return
    for place, doc in enumerate(docs):
        entries = _published.setdefault(doc, {})
        entries.pop(encoder, None)  # so that the newest is the last
        entries[encoder] = Published(features, place, set(readers), keep)


def find(doc: Doc, encoder: str | None) -> Published | None:
    """The features published for a Doc by an encoder. encoder: its name; None: the last one that published."""
    entries = _published.get(doc)
    if not entries:
        return None
    return entries.get(encoder) if encoder is not None else next(reversed(entries.values()))


def mark_read(doc: Doc, reader: int) -> None:
    """Record that a reader is done with a Doc, and drop features that no reader waits for."""
    entries = _published.get(doc, {})
    for encoder, entry in list(entries.items()):
        entry.waiting.discard(reader)
        if not entry.waiting and not entry.kept:
            del entries[encoder]
    if not entries:
        _published.pop(doc, None)


def drop(docs: Iterable[Doc]) -> None:
    """Drop the features of Docs that leave the pipeline, except those that are kept."""
    for doc in docs:
        entries = _published.get(doc, {})
        for encoder in [name for name, entry in entries.items() if not entry.kept]:
            del entries[encoder]
        if not entries:
            _published.pop(doc, None)


def withdraw(docs: Iterable[Doc], hidden: Rows) -> None:
    """Remove the published features of Docs that have these hidden rows."""
    for doc in docs:
        entries = _published.get(doc, {})
        for encoder in [name for name, entry in entries.items() if entry.features.hidden is hidden]:
            del entries[encoder]
