"""`convert`: annotated files in, .spacy files and a report out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from spacy.language import Language
from spacy.tokens import DocBin

from spacy_bertft.errors import ConfigError, DataError, data_error
from spacy_bertft.files import staged_files
from spacy_bertft.jobs.convert import conll, csv_tsv, jsonl, squad
from spacy_bertft.jobs.convert.docs import annotate, blank, split
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Record
from spacy_bertft.jobs.convert.tally import Counts, FileReport, Report, Tally
from spacy_bertft.jobs.text_files import check_input, no_records
from spacy_bertft.signatures import with_settings

Format = Literal["auto", "jsonl", "csv", "tsv", "conll", "squad"]
ReadFile = Callable[[Path, Options, Tally], Iterator[Record]]

_READERS: dict[str, ReadFile] = {
    "jsonl": jsonl.read,
    "csv": partial(csv_tsv.read, delimiter=","),
    "tsv": partial(csv_tsv.read, delimiter="\t"),
    "conll": conll.read,
    "squad": squad.read,
}
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".conll": "conll",
    ".iob": "conll",
    ".bio": "conll",
    ".json": "squad",
}
_MAX_CHARACTERS = 10_000_000  # of a text; its spaCy tokens take up to a gigabyte


class Progress(Protocol):
    """Wraps the records of one file as they are read; `tqdm.tqdm` is one."""

    def __call__(self, records: Iterable[Record], /, *, desc: str, total: int | None) -> Iterable[Record]:
        """Yield `records` unchanged; `desc` says what is done, `total` how many there are, if known."""


def no_progress(records: Iterable[Record], /, *, desc: str, total: int | None) -> Iterable[Record]:
    """A Progress that shows nothing."""
    return records


@dataclass(frozen=True)
class Job:
    """One input, its output and its reader."""

    source: Path
    target: Path
    read: ReadFile


@dataclass(frozen=True)
class Survey:
    """Labels and record counts of all inputs."""

    labels: tuple[str, ...]  # every `label` and `labels`, sorted
    records: Mapping[Path, int]  # in each input


@with_settings(Options)
def convert(
    inputs: Sequence[Path],
    output: Path,
    *,
    lang: str = "en",
    format: Format = "auto",
    progress: Progress | None = None,
    **settings: Any,
) -> Report:
    """Convert annotated files to spaCy's binary training format.

    Give all files of a data set (train, dev, test) in one call: each Doc then gets every category that
    occurs in any of them. Each file is read twice, line by line; the Docs of one output file are held in
    memory until it is written, which is how DocBin works: split very large inputs. If anything fails, no
    file is written.

    inputs    JSONL, CSV, TSV, CoNLL or SQuAD files, UTF-8
    output    a folder, for one `<stem>.spacy` per input; for a single input also a path that
              ends in .spacy
    lang      language code of the spaCy tokenizer (not used for CoNLL)
    format    "auto" goes by the file name's ending
    progress  wraps the records while they are read and written, e.g. `tqdm.tqdm`
    settings  how the files are read, e.g. text_key="body": the fields of `Options`
    """
    options = Options(**settings)
    wrap = progress or no_progress
    jobs = _plan(inputs, output, format)
    found = survey(jobs, options, wrap)
    nlp = blank(lang)
    targets = [job.target for job in jobs]
    with _writing(targets), staged_files(targets) as names:
        counts = [_write(job, name, options, nlp, found, wrap) for job, name in zip(jobs, names, strict=True)]
    files = (FileReport(job.source, job.target, count) for job, count in zip(jobs, counts, strict=True))
    return Report(tuple(files))


@contextmanager
def _writing(targets: Sequence[Path]) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise ConfigError(
            f"{targets[0].parent}: found an output that can't be written ({err.strerror}); "
            "expected a folder to write to; fix: check the path, its permissions and the free space"
        ) from err


def _write(job: Job, name: Path, options: Options, nlp: Language, found: Survey, wrap: Progress) -> Counts:
    """Write one input's Docs to the file `name`."""
    tally = Tally()
    docs = DocBin(store_user_data=False)
    expected = found.records[job.source]
    records = job.read(job.source, options, tally)
    for record in wrap(records, desc=f"write {job.target.name}", total=expected):
        tally.records += 1
        docs.add(annotate(split(record, nlp), record, found.labels, tally))
    tally.docs = len(docs)
    if not tally.records == tally.docs == expected:
        raise data_error(
            str(job.source),
            found=f"{expected} records at the first reading, {tally.records} at the second",
            expected="the same number",
            fix="convert the file again when nothing else writes to it",
        )
    docs.to_disk(name)
    return tally.freeze()


def _plan(inputs: Sequence[Path], output: Path, format: Format) -> list[Job]:
    if not inputs:
        raise ConfigError("inputs: found none; expected one file or more; fix: name the files to convert")
    jobs: dict[Path, Job] = {}
    for source in inputs:
        check_input(source)
        target = _target(source, inputs, output)
        if target in jobs:
            raise ConfigError(
                f"{source}: found a second input for {target}, after {jobs[target].source}; "
                "expected inputs with different names; fix: rename one, or convert them to different folders"
            )
        jobs[target] = Job(source, target, reader_of(source, format))
    return list(jobs.values())


def _target(source: Path, inputs: Sequence[Path], output: Path) -> Path:
    single = output.suffix == ".spacy" and not output.is_dir()
    if single and len(inputs) > 1:
        raise ConfigError(
            f"{output}: found one output file for {len(inputs)} inputs; expected a folder; "
            "fix: name a folder, which gets one .spacy file for each input"
        )
    if not single and output.exists() and not output.is_dir():
        raise ConfigError(
            f"{output}: found a file; expected a folder, or a path that ends in .spacy; fix: name another output"
        )
    target = output if single else output / f"{source.stem}.spacy"
    if target.is_dir():
        raise ConfigError(
            f"{target}: found a folder; expected to write a file there; fix: remove it or name another output"
        )
    if target.resolve() == source.resolve():
        raise ConfigError(f"{target}: found the input itself; expected another file; fix: name another output")
    return target


def reader_of(source: Path, format: Format) -> ReadFile:
    """The reader for a file's format."""
    name = _SUFFIXES.get(source.suffix.lower(), "") if format == "auto" else format
    if name in _READERS:
        return _READERS[name]
    if format != "auto":
        raise ConfigError(
            f"format: found {format!r}; expected one of {', '.join(('auto', *_READERS))}; fix: correct the name"
        )
    raise ConfigError(
        f"{source}: found a file name that ends in {source.suffix!r}; "
        f"expected one of {', '.join(_SUFFIXES)}; "
        f"fix: set format (--format) to what it is: {', '.join(_READERS)}"
    )


def survey(jobs: Sequence[Job], options: Options, wrap: Progress) -> Survey:
    """Read all inputs once, to collect the categories and to find errors before anything is written."""
    labels: set[str] = set()
    counts: dict[Path, int] = {}
    forms: dict[str, str] = {}  # label, labels or cats -> where it was first seen
    for job in jobs:
        count, tally = 0, Tally()
        for record in wrap(job.read(job.source, options, tally), desc=f"read {job.source.name}", total=None):
            _check_length(record)
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
            raise _none_accepted(job.source, tally.rejected) if tally.rejected else no_records(job.source)
        counts[job.source] = count
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
        expected="at least one",
        fix="annotate more in Prodigy, or leave the file out",
    )
