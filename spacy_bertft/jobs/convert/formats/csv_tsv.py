"""CSV and TSV with a header line: a column for the text or two for a pair, and one for the label, labels or value.

With columns for start and end, each row is an entity with its label.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert import foreign, span_rows
from spacy_bertft.jobs.convert.format import Format, Sample
from spacy_bertft.jobs.convert.options import Options, has_value, is_pair
from spacy_bertft.jobs.convert.records import Record, brief, finite
from spacy_bertft.jobs.convert.tally import Tally
from spacy_bertft.jobs.text_files import lines

_FIELD_LIMIT = 2**31 - 1  # the csv module's default, 131,072 characters, is less than a long document
_QUOTES_FIX = "double each quote inside a quoted field, or set quotes=False (--no-quotes) if quotes mean nothing here"


def read(path: Path, options: Options, tally: Tally, *, delimiter: str) -> Iterator[Record]:
    """Yield a Record for each row; labels and numbers are stripped of white space, the text is kept as it is.

    In a table of entities, all rows of a text make one Record.
    """
    table = _table(path, options, tally, delimiter)
    first = next(table, None)
    if first is None:
        return
    rows = chain([first], table)
    bounds = span_rows.bounds_of(first[1], options)
    if bounds:
        yield from span_rows.read(rows, bounds, options, tally)
    else:
        yield from (_record(row, where, options, tally) for where, row in rows)


def _table(path: Path, options: Options, tally: Tally, delimiter: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows after the header: the position of each, and its cells by column."""
    header: list[str] | None = None
    for number, row in _rows(path, options, delimiter):
        where = f"{path}:{number}"
        if not row:
            tally.skipped += 1
        elif header is None:
            header = _header(row, where, options)
        else:
            if len(row) != len(header):
                raise data_error(
                    where,
                    found=f"{len(row)} columns, {brief(row)}",
                    expected=f"{len(header)}, as in the header",
                    fix="put fields that contain the separator in double quotes; if it ends here, it may be cut off",
                )
            cells = dict(zip(header, row, strict=True))
            if not all(cells[key].strip() for key in _text_keys(header, options)):
                raise data_error(where, found="an empty text", expected="some characters", fix="delete this row")
            yield where, cells


def _rows(path: Path, options: Options, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows, each with the number of its first line."""
    text = (line for _, line in lines(path))
    reader = csv.reader(
        text,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if options.quotes else csv.QUOTE_NONE,
        strict=True,
    )
    while True:
        number = reader.line_num + 1
        before = csv.field_size_limit(_FIELD_LIMIT)  # process-wide, so it is restored before other code runs
        try:
            row = next(reader, None)
        except csv.Error as err:
            raise data_error(
                f"{path}:{number}",
                found=f"a row that can't be split into columns ({err})",
                expected="columns separated by commas (.csv) or tabs (.tsv)",
                fix=_QUOTES_FIX,
            ) from None
        finally:
            csv.field_size_limit(before)
        if row is None:
            return
        # A text that merely begins with a quote would swallow rows up to the next quote.
        if delimiter == "\t" and any("\n" in field and "\t" in field for field in row):
            raise data_error(
                f"{path}:{number}",
                found=f"a quoted field with tabs and line breaks in it, up to line {reader.line_num}",
                expected="a quote at the beginning of a field to be closed at its end",
                fix=_QUOTES_FIX,
            )
        yield number, row


def _header(row: list[str], where: str, options: Options) -> list[str]:
    columns = [name.strip() for name in row]
    found = f"the columns {brief(columns, limit=200)}"
    if not all(key in columns for key in _text_keys(columns, options)):
        raise data_error(
            where,
            found=found,
            expected=f"a header with {options.text_key!r} in it, or for pairs {options.first_key!r} and "
            f"{options.second_key!r}, split by commas (.csv) or tabs (.tsv)",
            fix="add a header line, or name the text column with text_key (--text-key), or a pair's columns with "
            "first_key and second_key",
        )
    categories = [key for key in (options.label_key, options.labels_key) if key in columns]
    if len(categories) > 1 or not (categories or has_value(columns, options)):
        raise data_error(
            where,
            found=found,
            expected=f"one column {options.label_key!r} (one category), {options.labels_key!r} (several) or "
            f"{options.value_key!r} (a number)",
            fix="name the right column with label_key (--label-key), labels_key (--labels-key) or value_key "
            "(--value-key)",
        )
    if len(set(columns)) < len(columns):
        raise data_error(where, found=found, expected="different names", fix="rename the columns that share a name")
    span_rows.check_columns(columns, where, options)
    return columns


def _text_keys(columns: Collection[str], options: Options) -> list[str]:
    return [options.first_key, options.second_key] if is_pair(columns, options) else [options.text_key]


def _record(row: dict[str, str], where: str, options: Options, tally: Tally) -> Record:
    keys = _text_keys(row, options)
    used = {*keys, options.label_key, options.labels_key, *([options.value_key] if has_value(row, options) else ())}
    tally.ignored.update(name for name in row if name not in used)
    texts = [row[key] for key in keys]
    return Record(
        where,
        text=texts[0],
        second=texts[1] if len(texts) > 1 else None,
        label=_label(row[options.label_key], where) if options.label_key in row else None,
        labels=_labels(row[options.labels_key], where, options) if options.labels_key in row else None,
        value=_value(row[options.value_key], where, options.value_key) if has_value(row, options) else None,
    )


def _labels(cell: str, where: str, options: Options) -> tuple[str, ...]:
    foreign.check_cell(cell, where)
    names = (name.strip() for name in cell.split(options.label_separator))
    return tuple(dict.fromkeys(filter(None, names)))


def _label(cell: str, where: str) -> str:
    foreign.check_cell(cell, where)
    label = cell.strip()
    if not label:
        raise data_error(where, found="an empty label", expected="a category", fix="fill it in, or delete this row")
    return label


def _value(cell: str, where: str, key: str) -> float:
    try:
        # float reads 1_5 as 15, which no table means.
        value: float | str = cell if "_" in cell else float(cell)
    except ValueError:
        value = cell
    return finite(value, where, key, fix="write it with a decimal point, such as 3.5, or delete this row")


def _fits(sample: Sample, *, delimiter: str) -> bool:
    """Whether the first line is a header with a column for the text, or for both of a pair."""
    first = next((line for line in sample.lines if line.strip()), "")
    columns = [name.strip().strip('"') for name in first.split(delimiter)]
    return len(columns) > 1 and all(key in columns for key in _text_keys(columns, sample.options))


CSV = Format("csv", "CSV", fits=partial(_fits, delimiter=","), read=partial(read, delimiter=","), endings=(".csv",))
TSV = Format("tsv", "TSV", fits=partial(_fits, delimiter="\t"), read=partial(read, delimiter="\t"), endings=(".tsv",))
