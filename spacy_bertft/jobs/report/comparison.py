"""Two pipelines on the same texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from spacy_bertft.jobs.report.heads import Judged
from spacy_bertft.jobs.report.measures import Score
from spacy_bertft.jobs.report.statistics import Difference, Floats, paired_difference

_SHOWN = 8  # texts of each kind


@dataclass(frozen=True, slots=True)
class Compared:
    """A head of both pipelines."""

    name: str
    rows: tuple[tuple[Score, Difference], ...]
    n_texts: int
    n_better: int  # texts that only this pipeline got right; for numbers, those where it is nearer
    n_worse: int
    better: tuple[int, ...]  # the numbers of some of these texts in the data
    worse: tuple[int, ...]


def compare(one: Sequence[Judged], other: Sequence[Judged], *, seed: int = 0) -> Iterator[Compared | str]:
    """Compare heads of one kind, by name where there are several. Yields a sentence for a head without counterpart."""
    left = list(other)
    for head in one:
        alike = [its for its in left if its.unit == head.unit]
        its = next((its for its in alike if its.name == head.name), alike[0] if len(alike) == 1 else None)
        if its is None:
            yield f"The other pipeline has no head like {head.name} ({head.factory})."
            continue
        left.remove(its)
        yield _compared(head, its, seed)


def _compared(head: Judged, its: Judged, seed: int) -> Compared | str:
    common, mine, theirs = np.intersect1d(head.texts, its.texts, return_indices=True)
    if not len(common):
        return f"No text has gold annotation for {head.name} in both pipelines: their labels differ."
    titles = {score.title for score in its.scores}
    rows = tuple(
        (score, paired_difference(head.sums[mine], its.sums[theirs], score.of, seed=seed))
        for score in head.scores
        if score.title in titles and not score.title.startswith("F-score of ")
    )
    errors = _errors(head)[mine], _errors(its)[theirs]
    better, worse = common[errors[0] < errors[1]], common[errors[0] > errors[1]]
    shown = (tuple(part[:_SHOWN].tolist()) for part in (better, worse))
    return Compared(head.name, rows, len(common), len(better), len(worse), *shown)


def _errors(head: Judged) -> Floats:
    """How wrong each text is: with labels and answers 0 or 1, with numbers the distance."""
    if head.unit == "numbers":
        return np.asarray(head.sums[:, 6], np.float64)
    wrong = head.of_labels[:, :, 1:].any(axis=(1, 2)) if head.labels else head.sums[:, 1] == 0
    return np.asarray(wrong, np.float64)
