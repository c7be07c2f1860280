"""Measured changes of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spacy_bertft.components.metric_kinds import kind_of
from spacy_bertft.errors import BertftError

# Differences by rounding alone don't count as drops.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Change:
    """A figure before and after."""

    name: str
    before: float
    after: float

    @property
    def difference(self) -> float:
        """`after` minus `before`."""
        return self.after - self.before

    @property
    def worse_by(self) -> float:
        """How much worse the score is, in points; for an error metric, in percent of `before`."""
        return kind_of(self.name).worse_by(self.before, self.after)

    @property
    def loss(self) -> str:
        """`worse_by` with its unit."""
        return f"{self.worse_by:.2f} {'points' if kind_of(self.name).more_is_better else '%'}"


@dataclass(frozen=True)
class Hidden:
    """Differences of hidden values over all subwords of `texts` texts and each window's first special token."""

    largest: float  # difference
    mean: float  # difference
    size: float  # mean absolute value before the export, to judge the differences by
    texts: int


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and how it compares with the pipeline it was made from."""

    pipeline: Path
    out: Path
    encoders: tuple[str, ...]  # names of the components
    int8: bool
    dev: Path | None  # texts of the scores; None: only hidden states and speed, on built-in texts
    tolerance: float  # points that a score may drop, or percent that an error may grow
    hidden: Hidden
    scores: tuple[Change, ...]  # as jobs/evaluate.py gives them
    label_scores: tuple[Change, ...]  # for single labels, such as "ents_per_type.PERSON.f"; these may drop
    speed: Change  # words per second, on the CPU
    size: Change  # bytes on disk

    @property
    def dropped(self) -> tuple[Change, ...]:
        """The scores that dropped by more than the tolerance."""
        return tuple(score for score in self.scores if score.worse_by > self.tolerance + _ROUNDING)


class DroppedError(BertftError):
    """Scores dropped by more than the tolerance, so nothing was written."""

    def __init__(self, report: ExportReport) -> None:
        drops = "; ".join(
            f"{score.name} {'fell' if score.difference < 0 else 'rose'} from {score.before:.2f} to {score.after:.2f}, "
            f"by {score.loss}"
            for score in report.dropped
        )
        int8 = "export without --int8 (that changes next to nothing), " if report.int8 else ""
        super().__init__(
            f"The exported pipeline is worse on {report.dev}: {drops}. Expected drops of at most {report.tolerance:g} "
            f"points (--tolerance), so {report.out} was not written. To continue, {int8}train longer or on more data "
            "and export again, allow more with --tolerance, or write it as it is with --force."
        )
        self.report = report
