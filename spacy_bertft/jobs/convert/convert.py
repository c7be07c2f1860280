"""`convert`: annotated files in; .spacy files, or files for other tools, and a report out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc, DocBin

from spacy_bertft.errors import ConfigError, data_error
from spacy_bertft.files import staged_files
from spacy_bertft.jobs.convert.annotated import Annotated, annotated
from spacy_bertft.jobs.convert.docs import annotate, blank, split
from spacy_bertft.jobs.convert.format import Format
from spacy_bertft.jobs.convert.held_out import DEV, TRAIN, held_out
from spacy_bertft.jobs.convert.options import Options, TargetName
from spacy_bertft.jobs.convert.plan import Job, plan, plan_together
from spacy_bertft.jobs.convert.registry import FORMATS
from spacy_bertft.jobs.convert.survey import Progress, Survey, no_progress, survey
from spacy_bertft.jobs.convert.tally import Counts, FileReport, Report, Tally
from spacy_bertft.jobs.text_files import no_records
from spacy_bertft.signatures import with_settings


@dataclass(frozen=True)
class _Conversion:
    """What all files have in common. writer: the format to write, None for .spacy files."""

    options: Options
    nlp: Language
    found: Survey
    wrap: Progress
    writer: Format | None


@with_settings(Options)
def convert(
    inputs: Sequence[Path],
    output: Path,
    *,
    lang: str = "en",
    to: TargetName = "spacy",
    dev_share: float | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Report:
    """Convert annotated files to spaCy's binary training format, or to files for annotation tools.

    Give all files of a data set (train, dev, test) in one call: each Doc then gets every category that
    occurs in any of them. Each file is read twice, most formats record by record; the Docs of one output file are held
    in memory until it is written, which is how DocBin works: split very large inputs. If anything fails, no
    file is written.

    inputs     files or folders of the formats in docs/data.md, UTF-8; names of data sets on the hub with
               format="datasets"; with `to` or `dev_share`, also .spacy files
    output     a folder, for one `<stem>.spacy` per input; for a single input also a path that
               ends in .spacy
    lang       language code of the spaCy tokenizer (not used for files that have tokens)
    to         what to write; other files than .spacy replace nothing
    dev_share  put the texts of all inputs together, and so large a share of them into dev.spacy, the others into
               train.spacy; None: keep inputs apart
    progress   wraps the records while they are read and written, e.g. `tqdm.tqdm`
    settings   how the files are read, e.g. text_key="body": the fields of `Options`
    """
    options = Options(**settings)
    wrap = progress or no_progress
    writer = _writer(to)
    if dev_share is not None and writer is not None:
        raise ConfigError(
            f"dev_share: found {dev_share:g} with to={to!r}; expected it for .spacy files only; fix: leave one out"
        )
    together = dev_share is not None
    jobs = plan_together(inputs, output, options) if together else plan(inputs, output, options, writer)
    found = survey([(job.source, job.format.records) for job in jobs if job.format is not None], options, wrap)
    conversion = _Conversion(options, blank(lang), found, wrap, writer)
    if dev_share is not None:
        return _write_parts(jobs, output, dev_share, conversion)
    targets = [job.target for job in jobs]
    with _writing(targets), staged_files(targets) as names:
        counts = [_write(job, name, conversion) for job, name in zip(jobs, names, strict=True)]
    return Report(tuple(_report(job, count) for job, count in zip(jobs, counts, strict=True)))


def _write_parts(jobs: Sequence[Job], folder: Path, share: float, conversion: _Conversion) -> Report:
    """Write the texts of all inputs, divided into training and development texts."""
    docs: list[Doc] = []
    files = []
    for job in jobs:
        tally = Tally(strict=conversion.options.strict)
        found = [doc for doc, _ in _docs(job, conversion, tally)]
        tally.docs = len(found)
        docs += found
        files.append(_report(job, tally.freeze()))
    parts = held_out(docs, share, ", ".join(str(job.source) for job in jobs))
    targets = [folder / TRAIN, folder / DEV]
    with _writing(targets), staged_files(targets) as names:
        for name, part in zip(names, parts, strict=True):
            DocBin(store_user_data=any(job.format is None for job in jobs), docs=part).to_disk(name)
    return Report(tuple(files), dict(zip(targets, map(len, parts), strict=True)))


def _writer(to: str) -> Format | None:
    known: dict[str, Format | None] = {"spacy": None}
    known.update((one.name, one) for one in FORMATS.values() if one.write is not None)
    if to not in known:
        raise ConfigError(f"to: found {to!r}; expected one of {', '.join(known)}; fix: correct the name")
    return known[to]


def _report(job: Job, counts: Counts) -> FileReport:
    return FileReport(job.source, job.target, counts, "spaCy" if job.format is None else job.format.title)


@contextmanager
def _writing(targets: Sequence[Path]) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise ConfigError(
            f"{targets[0].parent}: found an output that can't be written ({err.strerror}); "
            "expected a folder to write to; fix: check the path, its permissions and the free space"
        ) from err


def _write(job: Job, name: Path, conversion: _Conversion) -> Counts:
    """Write the texts of one input to the path `name`."""
    tally = Tally(strict=conversion.options.strict)
    if conversion.writer is None:
        docs = DocBin(store_user_data=False)
        for doc, _ in _docs(job, conversion, tally):
            docs.add(doc)
        tally.docs = len(docs)
        docs.to_disk(name)
    else:
        texts = _texts(job, conversion.writer, conversion, tally)
        tally.docs = len(texts)
        assert conversion.writer.write is not None
        conversion.writer.write(texts, name, tally)
    return tally.freeze()


def _texts(job: Job, writer: Format, conversion: _Conversion, tally: Tally) -> list[Annotated]:
    """The texts of one input, as a format other than .spacy holds them."""
    reading = Tally(strict=conversion.options.strict)
    found = (
        annotated(doc, where, conversion.options, tally, writer.holds) for doc, where in _docs(job, conversion, reading)
    )
    texts = [one for one in found if one is not None]
    if not texts:
        raise data_error(
            str(job.source),
            found=f"nothing that can be written as {writer.title}",
            expected=f"texts with {', '.join(sorted(writer.holds))}",
            fix="choose another format (--to)",
        )
    tally.add_losses(reading)
    return texts


def _docs(job: Job, conversion: _Conversion, tally: Tally) -> Iterator[tuple[Doc, str]]:
    """Yield the annotated Docs of one input, and where each is from."""
    if job.format is None:
        yield from _stored(job.source, conversion.nlp, tally)
        return
    expected = conversion.found.records[job.source]
    records = job.format.records(job.source, conversion.options, tally)
    for record in conversion.wrap(records, desc=f"write {job.target.name}", total=expected):
        tally.records += 1
        doc = annotate(split(record, conversion.nlp), record, conversion.found.labels, conversion.options, tally)
        yield doc, record.where
    if tally.records != expected:
        raise data_error(
            str(job.source),
            found=f"{expected} records at the first reading, {tally.records} at the second",
            expected="the same number",
            fix="convert the file again when nothing else writes to it",
        )


def _stored(path: Path, nlp: Language, tally: Tally) -> Iterator[tuple[Doc, str]]:
    """Yield the Docs of a .spacy file."""
    try:
        docs = list(DocBin().from_disk(path).get_docs(nlp.vocab))
    except Exception as error:  # zlib, msgpack and spaCy raise many types
        raise data_error(
            str(path),
            found=f"a file that can't be read ({type(error).__name__})",
            expected="a .spacy file, as `bertft convert` writes it",
            fix="make it again",
        ) from error
    if not docs:
        raise no_records(path)
    for number, doc in enumerate(docs, 1):
        tally.records += 1
        tally.entities.update(ent.label_ for ent in doc.ents)
        tally.categories.update({category: score >= 0.5 for category, score in doc.cats.items()})
        yield doc, f"{path}: text {number}"
