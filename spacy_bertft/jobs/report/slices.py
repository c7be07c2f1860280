"""A head's main score on parts of the texts: by length, words unseen in training, label frequency, file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc
from spacy.training import Example

from spacy_bertft.jobs.report.data import Lengths, Texts, Training, words_of
from spacy_bertft.jobs.report.heads import Judged
from spacy_bertft.jobs.report.measures import MICRO_F, Score, recall
from spacy_bertft.jobs.report.statistics import Floats, Interval, interval

_PARTS = 4  # of the texts, by length
_NAMED = 8  # labels of one frequency
_SHARES = ((0.0, "all words seen"), (0.1, "up to 10 % unseen"), (0.25, "10 to 25 % unseen"), (1.0, "over 25 % unseen"))
_COUNTS = ((0, "never"), (9, "1 to 9 times"), (99, "10 to 99 times"), (999, "100 to 999 times"))
_MENTIONS = ("seen in training", "other, of seen words", "with an unseen word")


@dataclass(frozen=True, slots=True)
class Part:
    """The score of a part of the data."""

    title: str
    n: int
    score: Interval
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Slices:
    """One way to divide the data. Without parts, `why` says what is missing."""

    title: str
    score: Score
    of: str  # what `n` counts
    parts: tuple[Part, ...] = ()
    why: str = ""


def slices_of(
    head: Judged, texts: Texts, lengths: Lengths, training: Training | str, *, seed: int = 0
) -> Iterator[Slices]:
    """All ways to divide the texts of a head."""
    main = head.scores[0]
    yield Slices("Length", main, "texts", _by_length(head, lengths, seed))
    docs = [texts.examples[number].reference for number in head.texts]
    if isinstance(training, str):
        yield Slices("Words unseen in training", main, "texts", why=training)
    else:
        yield Slices("Words unseen in training", main, "texts", _by_unseen(head, docs, training, seed))
        if head.matches:
            found_again = Score("Recall", recall)
            rows = _by_mention(head, texts.examples, training, seed)
            yield Slices(f"Gold {head.unit}", found_again, f"gold {head.unit}", rows)
    if head.labels:
        of_labels = Score(f"{MICRO_F.title} of these labels", MICRO_F.of)
        parts = () if isinstance(training, str) else _by_frequency(head, training, seed)
        why = training if isinstance(training, str) else ""
        if len(parts) == 1:
            why, parts = f"All labels that occur here occurred {parts[0].title} in training.", ()
        yield Slices("Label frequency in training", of_labels, "labels", parts, why)
    if len(texts.sources) > 1:
        sources = texts.source_of[head.texts]
        parts = _parts(head, ((name, sources == number) for number, name in enumerate(texts.sources)), seed)
        yield Slices("File", main, "texts", parts)


def _parts(head: Judged, masks: Iterator[tuple[str, NDArray[np.bool_]]], seed: int) -> tuple[Part, ...]:
    return tuple(
        Part(title, int(mask.sum()), interval(head.sums[mask], head.scores[0].of, seed=seed))
        for title, mask in masks
        if mask.any()
    )


def _by_length(head: Judged, lengths: Lengths, seed: int) -> tuple[Part, ...]:
    counts = lengths.counts[head.texts]
    edges = np.unique(np.quantile(counts, np.linspace(0, 1, _PARTS + 1), method="inverted_cdf").astype(np.int64))
    place = np.searchsorted(edges[1:], counts) if len(edges) > 1 else np.zeros(len(counts), dtype=np.int64)

    def masks() -> Iterator[tuple[str, NDArray[np.bool_]]]:
        for number in np.unique(place):
            mask = place == number
            low, high = counts[mask].min(), counts[mask].max()
            yield f"{low:,} to {high:,} {lengths.unit}" if low < high else f"{low:,} {lengths.unit}", mask

    return _parts(head, masks(), seed)


def _by_unseen(head: Judged, docs: Sequence[Doc], training: Training, seed: int) -> tuple[Part, ...]:
    shares = np.array([_share_unseen(doc, training) for doc in docs])
    place = np.searchsorted([limit for limit, _ in _SHARES], shares)
    return _parts(head, ((title, place == number) for number, (_, title) in enumerate(_SHARES)), seed)


def _share_unseen(doc: Doc, training: Training) -> float:
    words = words_of(doc)
    return sum(word not in training.words for word in words) / len(words) if words else 0.0


def _by_mention(head: Judged, examples: Sequence[Example], training: Training, seed: int) -> tuple[Part, ...]:
    """Recall of gold spans that were spans in training, of others that have only seen words, and of the rest."""
    counts = np.zeros((len(head.texts), len(_MENTIONS), 3))
    for row, number, of_text in zip(counts, head.texts, head.matches, strict=True):
        for one in of_text:
            if one.gold is not None:
                span = examples[number].reference[one.gold.start : one.gold.end]
                seen = all(token.lower_ in training.words for token in span if token.is_alpha)
                place = 0 if span.text.lower() in training.mentions else 1 if seen else 2
                row[place, 0 if one.kind == "exact" else 2] += 1
    return tuple(
        Part(title, int(counts[:, place].sum()), interval(counts[:, place], recall, seed=seed))
        for place, title in enumerate(_MENTIONS)
        if counts[:, place].any()
    )


def _by_frequency(head: Judged, training: Training, seed: int) -> tuple[Part, ...]:
    counts = np.array([training.labels[label] for label in head.labels])
    place = np.searchsorted([limit for limit, _ in _COUNTS], counts)
    titles = [*(title for _, title in _COUNTS), "1,000 times or more"]
    parts = []
    for number, title in enumerate(titles):
        chosen = place == number
        sums: Floats = head.of_labels[:, chosen].reshape(len(head.sums), -1)
        if chosen.any() and sums.any():
            names = [label for label, mine in zip(head.labels, chosen, strict=True) if mine]
            shown = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
            parts.append(Part(title, len(names), interval(sums, MICRO_F.of, seed=seed), shown))
    return tuple(parts)
