"""What shrinking changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spacy_bertft.jobs.export.report import Change
from spacy_bertft.jobs.shrink.corpus import Changed


@dataclass(frozen=True)
class Shrunk:
    """One encoder, before and after."""

    name: str  # of its component; empty for an encoder outside of a pipeline
    subwords: Change  # special ones included
    layers: Change | None  # None: its config doesn't say how many
    kept_layers: tuple[int, ...] | None  # numbers of the old layers, from 0; None: all
    parameters: Change
    size: Change  # bytes on disk
    coverage: float | None  # share of the corpus's subwords that are kept, 0 to 1; None: without a corpus
    dev: Changed | None  # how the held-out texts split now; None: without any, or with the old vocabulary


@dataclass(frozen=True)
class ShrinkReport:
    """What became smaller, and how the scores changed."""

    source: str
    out: Path
    encoders: tuple[Shrunk, ...]
    dev: Path | None
    scores: tuple[Change, ...]  # as jobs/evaluate.py gives them; none for an encoder outside of a pipeline
    label_scores: tuple[Change, ...]  # of single labels
    size: Change  # bytes on disk, of all that was written

    @property
    def train_again(self) -> bool:
        """Whether layers were dropped: the rest was not trained to work without them."""
        return any(one.layers is not None and one.layers.after < one.layers.before for one in self.encoders)
