"""What the scores of components mean: how they are shown, and whether more is better.

Tables, reports and comparisons read it here, so that a component with scores of another kind needs no change there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScoreKind:
    """How a score is shown, and what a better one is."""

    unit: str  # what is shown: "points" (a share times 100), "error" (as it is)
    factor: float  # score -> what is shown
    more_is_better: bool

    def shown(self, score: float) -> float:
        """The score in its unit."""
        return score * self.factor

    def worse_by(self, before: float, after: float) -> float:
        """How much worse the second of two shown scores is, in points; below 0 if it is better.

        Of an error, whose size depends on what is measured, it is the growth in hundredths of the error before.
        """
        if self.more_is_better:
            return before - after
        return 100.0 * (after - before) / max(abs(before), 1e-9)


POINTS = ScoreKind("points", 100.0, more_is_better=True)
ERROR = ScoreKind("error", 1.0, more_is_better=False)

_kinds: dict[str, ScoreKind] = {}


def declare_scores(kinds: Mapping[str, ScoreKind]) -> None:
    """Say what scores mean, by their names. Those that nobody declares are POINTS, as all of spaCy's are."""
    _kinds.update(kinds)


def titled(name: str) -> str:
    """The name of a score for a table of points, which says so where it is something else."""
    kind = kind_of(name)
    return name if kind is POINTS else f"{name} ({kind.unit}, {'more' if kind.more_is_better else 'less'} is better)"


def kind_of(name: str) -> ScoreKind:
    """What a score means. name: as in `nlp.evaluate`, or of a part of it, such as "ents_per_type.PERSON.f"."""
    return _kinds.get(name, POINTS)
