"""The first reading of all inputs: it finds errors before anything is written, and the categories of all texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from spacy_bertft.errors import DataError, data_error
from spacy_bertft.jobs.convert.format import ReadFile
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Record, check_disjoint
from spacy_bertft.jobs.convert.tally import Tally
from spacy_bertft.jobs.text_files import no_records

_MAX_CHARACTERS = 10_000_000  # of a text; its spaCy tokens take up to a gigabyte


class Progress(Protocol):
    """Wraps the records of one file as they are read; `tqdm.tqdm` is one."""

    def __call__(self, records: Iterable[Record], /, *, desc: str, total: int | None) -> Iterable[Record]:
        """Yield `records` unchanged; `desc` says what is done, `total` how many there are, if known."""


def no_progress(records: Iterable[Record], /, *, desc: str, total: int | None) -> Iterable[Record]:
    """A Progress that shows nothing."""
    return records


@dataclass(frozen=True)
class Survey:
    """Labels and record counts of all inputs."""

    labels: tuple[str, ...]  # every `label` and `labels`, sorted
    records: Mapping[Path, int]  # in each input


def survey(inputs: Sequence[tuple[Path, ReadFile]], options: Options, wrap: Progress) -> Survey:
    """Read all inputs once. Raises DataError for what a reader refuses, and for records that don't fit together."""
    labels: set[str] = set()
    counts: dict[Path, int] = {}
    forms: dict[str, str] = {}  # label, labels or cats -> where it was first seen
    for source, read in inputs:
        count, tally = 0, Tally(strict=options.strict)
        for record in wrap(read(source, options, tally), desc=f"read {source.name}", total=None):
            _check_length(record)
            if not options.span_group:
                check_disjoint(record)
            count += 1
            labels.update(record.chosen)
            if record.form is not None:
                forms.setdefault(record.form, record.where)
            if len(forms) > 1:
                first, second = forms
                raise data_error(
                    record.where,
                    found=f"categories given as {second!r}, but as {first!r} at {forms[first]}",
                    expected="one form in all inputs, since only 'label' is exclusive",
                    fix="write all records in the same form, or convert the files in separate calls",
                )
        if count == 0:
            raise _none_accepted(source, tally.rejected) if tally.rejected else no_records(source)
        counts[source] = count
    return Survey(tuple(sorted(labels)), counts)


def _check_length(record: Record) -> None:
    """Raise DataError for a text whose tokens would take gigabytes."""
    words = sum(map(len, record.words)) + len(record.words) - 1
    found = max(len(record.text), len(record.second or ""), words)
    if found > _MAX_CHARACTERS:
        raise data_error(
            record.where,
            found=f"a text of {found:,} characters",
            expected=f"at most {_MAX_CHARACTERS:,}",
            fix="split it into texts of a few pages, or lower merge_sentences (--merge-sentences)"
            if record.words
            else "split it into texts of a few pages",
        )


def _none_accepted(path: Path, rejected: int) -> DataError:
    return data_error(
        str(path),
        found=f"no accepted answer among {rejected:,}",
        expected="at least one text whose annotation was accepted or submitted",
        fix="annotate more, or leave the file out; of Prodigy's rejected entities, keep the spans with "
        "incorrect_group (--incorrect-group)",
    )
