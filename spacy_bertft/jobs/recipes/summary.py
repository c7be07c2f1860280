"""What annotated texts hold: how many, how long, which labels. `bertft init` chooses its settings by this."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise

import numpy as np
from spacy.tokens import Doc, Span
from spacy.training import Example

from spacy_bertft.components.doc_texts import subword_counts
from spacy_bertft.components.doc_values import VALUE_KEY, value_of
from spacy_bertft.components.pairs import SEGMENTS_KEY
from spacy_bertft.tasks.scorers import ANSWERS_KEY
from spacy_bertft.text.subwords import Splitter
from spacy_bertft.types import Ints

_TEXTS = 256  # in memory at a time
_RESERVED_GROUPS = (SEGMENTS_KEY, ANSWERS_KEY, VALUE_KEY)


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of annotated texts.

    texts        hashes of the B texts
    lengths      (B,) subwords of each text, without special ones
    pairs        texts with two segments
    entities     label -> entities
    touching     entities that begin right after another one of their label, or after white space that follows it
    categorised  texts with categories
    categories   category -> texts that have it (0.5 or more)
    exclusive    whether each text with categories has exactly one
    spans        key of doc.spans -> label -> spans
    span_sizes   key of doc.spans -> tokens of a span -> spans
    questions    texts with annotated answers, or annotated as having none
    values       texts with a number
    """

    texts: tuple[int, ...]
    lengths: Ints
    pairs: int = 0
    entities: Counter[str] = field(default_factory=Counter)
    touching: int = 0
    categorised: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    exclusive: bool = True
    spans: dict[str, Counter[str]] = field(default_factory=dict)
    span_sizes: dict[str, Counter[int]] = field(default_factory=dict)
    questions: int = 0
    values: int = 0

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.texts)


def summarise(examples: Iterable[Example], splitter: Splitter) -> Summary:
    """Count what a stream of annotated texts holds; a few hundred texts are in memory at a time."""
    texts: list[int] = []
    lengths: list[Ints] = []
    counts: Counter[str] = Counter()
    entities: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    spans: dict[str, Counter[str]] = {}
    sizes: dict[str, Counter[int]] = {}
    for docs in _parts(eg.reference for eg in examples):
        lengths.append(subword_counts(docs, splitter))
        for doc in docs:
            texts.append(hash(doc.text))
            counts.update(_kinds(doc))
            entities.update(ent.label_ for ent in doc.ents)
            categories.update({label: value >= 0.5 for label, value in doc.cats.items()})
            for key in doc.spans.keys() - set(_RESERVED_GROUPS):
                spans.setdefault(key, Counter()).update(span.label_ for span in doc.spans[key])
                sizes.setdefault(key, Counter()).update(len(span) for span in doc.spans[key])
    return Summary(
        tuple(texts),
        np.concatenate([np.zeros(0, dtype=np.int64), *lengths]),
        pairs=counts["pair"],
        entities=entities,
        touching=counts["touching"],
        categorised=counts["categorised"],
        categories=categories,
        exclusive=not counts["several"],
        spans=spans,
        span_sizes=sizes,
        questions=counts["question"],
        values=counts["value"],
    )


def _parts(docs: Iterable[Doc]) -> Iterator[list[Doc]]:
    stream = iter(docs)
    while part := list(islice(stream, _TEXTS)):
        yield part


def _kinds(doc: Doc) -> Iterator[str]:
    """What a Doc counts for."""
    if SEGMENTS_KEY in doc.spans:
        yield "pair"
    if doc.cats:
        yield "categorised"
        if sum(value >= 0.5 for value in doc.cats.values()) != 1:
            yield "several"
    if ANSWERS_KEY in doc.spans:
        yield "question"
    if value_of(doc) is not None:
        yield "value"
    for one, two in pairwise(doc.ents):
        if _touch(one, two):
            yield "touching"


def _touch(one: Span, two: Span) -> bool:
    """Whether nothing but white space is between two entities of a label."""
    return one.label == two.label and all(token.is_space for token in one.doc[one.end : two.start])
