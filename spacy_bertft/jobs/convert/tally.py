"""Counts of a conversion: `Tally` while it runs, `Report` when it is done."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from spacy_bertft.errors import data_error

MAX_EXAMPLES = 5
# How to combine two files' numbers that are not summed.
_COMBINE: dict[str, Callable[[Any, Any], Any]] = {"lowest": min, "highest": max}


@dataclass(frozen=True)
class Misaligned:
    """An entity that begins or ends inside a token, and the texts of the tokens that it touches."""

    where: str
    text: str
    label: str
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Counts:
    """Counts of one file, or of all files.

    records, docs   read and written; always equal
    entities        label -> entities written
    categories      category -> Docs that have it (a value of 0.5 or more)
    misaligned      entities that don't align with tokens, left as missing annotation; `examples` has the first five
    trimmed         entities and answers that had white space at an edge
    answered        questions with an answer; `unanswered` without one, `widened` with an answer that begins or ends
                    inside a token
    valued          Docs with a value; `value_sum`, `lowest` and `highest` are over their values
    dropped         kind of annotation that can't be kept -> how many were left out, e.g. discontinuous spans
    other_units     unit -> misaligned entities that would align if their offsets counted it
    incorrect       rejected spans that were kept as such, see Options.incorrect_group
    repaired        tags that can't follow the one before, read as the start of a new entity
    rejected        Prodigy's answers that are not gold: rejected, ignored, or without a choice; and what other tools'
                    users skipped or did not annotate or curate
    skipped         lines without a record: blank (JSONL, CSV), comments and -DOCSTART- (CoNLL)
    ignored         key or column that isn't used -> records that have it
    """

    records: int = 0
    docs: int = 0
    entities: Mapping[str, int] = field(default_factory=dict)
    categories: Mapping[str, int] = field(default_factory=dict)
    misaligned: int = 0
    examples: tuple[Misaligned, ...] = ()
    trimmed: int = 0
    answered: int = 0
    unanswered: int = 0
    widened: int = 0
    valued: int = 0
    value_sum: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf
    dropped: Mapping[str, int] = field(default_factory=dict)
    other_units: Mapping[str, int] = field(default_factory=dict)
    incorrect: int = 0
    repaired: int = 0
    rejected: int = 0
    skipped: int = 0
    ignored: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FileReport:
    """Counts of what was read from `source` and written to `target`. format: what the source was read as."""

    source: Path
    target: Path
    counts: Counts
    format: str = ""


@dataclass(frozen=True)
class Report:
    """One `FileReport` for each input, in the order of the inputs.

    parts: the texts in each file written, where these hold texts of all inputs.
    """

    files: tuple[FileReport, ...]
    parts: Mapping[Path, int] = field(default_factory=dict)

    @property
    def total(self) -> Counts:
        """The sum over all files."""
        tally = Tally()
        for file in self.files:
            tally.add(file.counts)
        return tally.freeze()


@dataclass
class Tally:
    """Mutable `Counts`, which the readers and the writer update."""

    records: int = 0
    docs: int = 0
    entities: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    misaligned: int = 0
    examples: list[Misaligned] = field(default_factory=list)
    trimmed: int = 0
    answered: int = 0
    unanswered: int = 0
    widened: int = 0
    valued: int = 0
    value_sum: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf
    dropped: Counter[str] = field(default_factory=Counter)
    other_units: Counter[str] = field(default_factory=Counter)
    incorrect: int = 0
    repaired: int = 0
    rejected: int = 0
    skipped: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    strict: bool = False  # whether a loss is an error

    def drop(self, kind: str, where: str, count: int = 1) -> None:
        """Count annotation that can't be kept. kind: what it is, in the plural."""
        if count:
            self.check_loss(f"{kind} ({count})", where)
            self.dropped[kind] += count

    def repair(self, count: int, where: str) -> None:
        """Count tags that can't follow the one before."""
        if count:
            self.check_loss(f"tags that can't follow the one before ({count})", where)
            self.repaired += count

    def check_loss(self, found: str, where: str) -> None:
        """Raise DataError if losses are errors. found: what would be lost."""
        if self.strict:
            raise data_error(
                where,
                found=found,
                expected="nothing that can't be kept, since strict is set",
                fix="correct the annotation, or leave strict out (--strict) to have losses counted",
            )

    def add_value(self, value: float) -> None:
        """Count a Doc with a value."""
        self.valued += 1
        self.value_sum += value
        self.lowest = min(self.lowest, value)
        self.highest = max(self.highest, value)

    def add_losses(self, reading: Tally) -> None:
        """Add what another tally counted, except what is counted again when it is written."""
        again = ("entities", "categories", "docs", "valued", "value_sum", "lowest", "highest")
        counts = {one.name: getattr(reading.freeze(), one.name) for one in fields(Counts) if one.name not in again}
        self.add(Counts(**counts))

    def add(self, counts: Counts) -> None:
        """Add the numbers of one file."""
        for name, value in vars(counts).items():
            total = getattr(self, name)
            if isinstance(total, Counter):
                total.update(value)  # keeps names that have a count of 0, which += would drop
            else:
                setattr(self, name, _COMBINE.get(name, operator.iadd)(total, value))

    def freeze(self) -> Counts:
        """The current counts, with names sorted."""
        return Counts(**{one.name: _frozen(getattr(self, one.name)) for one in fields(Counts)})


def _frozen(value: Any) -> Any:
    match value:
        case Counter():
            return dict(sorted(value.items()))
        case list():
            return tuple(value[:MAX_EXAMPLES])
    return value
