"""All formats, and which of them an input has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from spacy_bertft.errors import ConfigError, DataError, data_error
from spacy_bertft.jobs.convert import archives, foreign, json_items
from spacy_bertft.jobs.convert.format import Format, Sample
from spacy_bertft.jobs.convert.formats import (
    brat,
    conll,
    conllu,
    csv_tsv,
    datasets,
    doccano,
    inception,
    jsonl,
    label_studio,
    parquet,
    prodigy,
    spacy_json,
    squad,
)
from spacy_bertft.jobs.convert.options import FormatName, Options
from spacy_bertft.jobs.convert.records import Record, brief
from spacy_bertft.jobs.convert.tally import Tally
from spacy_bertft.jobs.text_files import check_input

# In the order in which they are tried: a format comes after those that it would take as its own.
_ALL = (
    label_studio.FORMAT,
    prodigy.FORMAT,
    spacy_json.FORMAT,
    squad.FORMAT,
    inception.FORMAT,
    doccano.FORMAT,
    jsonl.FORMAT,
    parquet.FORMAT,
    brat.FORMAT,
    datasets.FORMAT,
    conllu.FORMAT,
    csv_tsv.CSV,
    csv_tsv.TSV,
    conll.FORMAT,
)
FORMATS: Mapping[FormatName, Format] = {one.name: one for one in _ALL}


def format_of(path: Path, options: Options) -> Format:
    """The format of an input: the one that the options name, or else the one that its content has.

    Raises DataError for an input that is not there, empty, or of none of the formats.
    """
    if is_data_set(path, options):
        return datasets.FORMAT
    sample = Sample(path, options)
    if not sample.names:
        check_input(path)
    found = _fitting(sample)
    if _has_texts_in_zip(sample, options, found):
        return archives.in_zip(path, lambda inside: format_of(inside, options))
    if options.format != "auto":
        return _forced(FORMATS[options.format], found)
    return found or _by_ending(sample)


def recognised(path: Path, options: Options) -> bool:
    """Whether a file or folder has the content of one of the formats, or names a data set. Raw text has not."""
    return is_data_set(path, options) or archives.is_zip(path) or _fitting(Sample(path, options)) is not None


def _fitting(sample: Sample) -> Format | None:
    return next((one for one in _ALL if one.fits(sample)), None)


def _has_texts_in_zip(sample: Sample, options: Options, found: Format | None) -> bool:
    """Whether an input is a ZIP to look into. INCEpTION's are read as they are."""
    own = inception.FORMAT.name
    return archives.is_zip(sample.path) and options.format != own and (found is None or found.name != own)


def _forced(chosen: Format, found: Format | None) -> Format:
    """The format that the options name. Its errors say if the content looks like another one, `found`."""
    if found is None or found is chosen:
        return chosen

    def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
        try:
            yield from chosen.read(path, options, tally)
        except DataError as error:
            raise DataError(
                f"{error}; or set format (--format) to {found.name}, since the file looks like {found.title}, or leave "
                "it out"
            ) from None

    return replace(chosen, read=read)


def is_data_set(path: Path, options: Options) -> bool:
    """Whether a path that does not exist names a data set on the hub, or one split of a folder's."""
    return not path.exists() and (options.format == "datasets" or datasets.is_split(path))


def _by_ending(sample: Sample) -> Format:
    """The format that a file's name suggests. Its content doesn't tell, so the reader will say what is wrong."""
    path = sample.path
    if sample.names:
        raise data_error(
            str(path),
            found=f"a folder with {brief(sample.names[:5])}",
            expected="a file; or a folder of brat (.txt and .ann), of INCEpTION (.xmi) or of a data set (.parquet)",
            fix=f"name the files in it, e.g. {path}/train.jsonl",
        )
    foreign.check_kind(sample.head, path)
    found = next((one for one in _ALL if path.suffix.lower() in one.endings), None)
    if found is None:
        raise _unknown(sample)
    return found


def _unknown(sample: Sample) -> DataError | ConfigError:
    names = ", ".join(FORMATS)
    if _is_json(sample):
        json_items.document(sample.path, expected="one JSON value")  # raises an error if the file is broken
        keys = brief(list(sample.records[0]), limit=120) if sample.records else "no objects"
        return data_error(
            str(sample.path),
            found=f"JSON of an unknown form, with {keys}",
            expected=f"one of the formats {names}",
            fix="name the key of the text with text_key (--text-key), or set format (--format) to what it is",
        )
    first = next((line for line in sample.lines if line.strip()), "")
    return ConfigError(
        f"{sample.path}: found content of an unknown format, which begins with {brief(first)}; expected one of "
        f"{names}; fix: set format (--format) to what it is"
    )


def _is_json(sample: Sample) -> bool:
    """Whether a file holds one JSON value, by its name."""
    return sample.path.suffix.lower() == ".json"
