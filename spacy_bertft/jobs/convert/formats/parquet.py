"""Parquet files, also those of data sets on the Hugging Face hub, whose classes have names (extra `datasets`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert.format import Format, Sample
from spacy_bertft.jobs.convert.formats import datasets
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Record
from spacy_bertft.jobs.convert.tally import Tally

_MAGIC = b"PAR1"


def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
    """Yield a Record per row; a batch of rows is in memory at a time."""
    library = datasets.library()
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    def rows() -> Iterator[dict[str, Any]]:
        with ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()

    try:
        with ParquetFile(path) as file:
            features = _features(file.schema_arrow, path, library)
        yield from datasets.records_of(rows, features, str(path), options, tally)
    except (ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise data_error(
            str(path),
            found=f"Parquet that can't be read ({said})",
            expected="a whole Parquet file",
            fix="the file may be cut off: make or download it again",
        ) from error


def _features(schema: Any, path: Path, library: Any) -> Any:
    try:
        return library.Features.from_arrow_schema(schema)
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # according to what is wrong with them
        said = " ".join(str(error).split())
        raise data_error(
            str(path),
            found=f"columns whose features can't be read ({type(error).__name__}: {said})",
            expected="columns that the library datasets knows",
            fix="upgrade datasets, or write the file again without the metadata 'huggingface'",
        ) from error


def _fits(sample: Sample) -> bool:
    return sample.head.startswith(_MAGIC)


FORMAT = Format("parquet", "Parquet", fits=_fits, read=read, endings=(".parquet",))
