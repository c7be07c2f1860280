"""The kinds of scores of components: how they are shown, and whether higher is better.

Tables, reports and comparisons look kinds up here, so that a component with another kind needs no change there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScoreKind:
    """How a score is shown, and whether higher is better."""

    unit: str  # when shown: "points" (a fraction times 100), "error" (unchanged)
    factor: float  # shown value / score
    more_is_better: bool

    def shown(self, score: float) -> float:
        """The score in its unit."""
        return score * self.factor

    def worse_by(self, before: float, after: float) -> float:
        """How much worse a shown score is than the one before, in points; negative if it is better.

        For an error, whose scale depends on the data, it is the increase in percent of the error before.
        """
        if self.more_is_better:
            return before - after
        return 100.0 * (after - before) / max(abs(before), 1e-9)


POINTS = ScoreKind("points", 100.0, more_is_better=True)
ERROR = ScoreKind("error", 1.0, more_is_better=False)

_kinds: dict[str, ScoreKind] = {}


def declare_scores(kinds: Mapping[str, ScoreKind]) -> None:
    """Register the kinds of scores by name. Undeclared scores are POINTS, as all of spaCy's are."""
    _kinds.update(kinds)


def titled(name: str) -> str:
    """The name of a score for a table of points, with its unit and direction if it is not in points."""
    kind = kind_of(name)
    return name if kind is POINTS else f"{name} ({kind.unit}, {'higher' if kind.more_is_better else 'lower'} is better)"


def kind_of(name: str) -> ScoreKind:
    """The kind of a score. name: as in `nlp.evaluate`, or of a nested score, such as "ents_per_type.PERSON.f"."""
    return _kinds.get(name, POINTS)
