"""Data sets of Hugging Face: a folder of one, or a name on the hub (extra `datasets`).

NAME:SPLIT is one split of a data set, FOLDER:SPLIT one of a folder's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from spacy_bertft.errors import BertftError, ConfigError, data_error, how_to_install
from spacy_bertft.jobs.convert import foreign
from spacy_bertft.jobs.convert.format import Format, Sample
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Record
from spacy_bertft.jobs.convert.rows import Rows
from spacy_bertft.jobs.convert.tally import Tally

_SAVED = ("dataset_dict.json", "state.json")  # of Dataset.save_to_disk


def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
    """Yield a Record per row of one split."""
    splits = _splits(path, options)
    if len(splits) > 1:
        raise data_error(
            str(path),
            found=f"the splits {', '.join(splits)}",
            expected="one of them",
            fix=f"name it after a colon, e.g. {path}:{next(iter(splits))}",
        )
    (table,) = splits.values()
    yield from records_of(lambda: table, table.features, str(path), options, tally)


def parts(path: Path, options: Options) -> list[Path]:
    """The splits of a data set."""
    name, split = split_of(path)
    return [path] if split else [Path(f"{name}:{one}") if one else path for one in _splits(path, options)]


def split_of(path: Path) -> tuple[str, str]:
    """The name of a data set, and the split after a colon; empty if none is named."""
    name, _, split = path.as_posix().rpartition(":")
    return (name, split) if name and "/" not in split and not path.exists() else (path.as_posix(), "")


def is_split(path: Path) -> bool:
    """Whether a path is a folder with a split after a colon."""
    name, split = split_of(path)
    return bool(split) and Path(name).is_dir()


def library() -> Any:
    """The module `datasets`. Raises a ConfigError if it is not installed."""
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            "format: found a data set, but no library to read it; expected datasets to be installed; fix: "
            + how_to_install("datasets")
        ) from None
    return datasets


def records_of(rows: Any, features: Any, place: str, options: Options, tally: Tally) -> Iterator[Record]:
    """Yield a Record per row. rows: returns all rows anew; features: of the columns, or None if they are not known."""

    def named() -> Iterable[dict[str, Any]]:
        return (_named_row(row, f"{place}: row {i}", features, options) for i, row in enumerate(rows(), 1))

    made = Rows(foreign.Layout(named, options), options, tally)
    for number, row in enumerate(named(), 1):
        yield made.record(row, f"{place}: row {number}")
    made.end(place)


def _splits(path: Path, options: Options) -> dict[str, Any]:
    """Split -> its rows; of a saved data set without splits, the one name is empty."""
    name, split = split_of(path)
    datasets = library()
    folder = Path(name)
    try:
        datasets.disable_progress_bars()
        if any((folder / file).is_file() for file in _SAVED):
            found = datasets.load_from_disk(name)
        else:
            found = datasets.load_dataset(name, options.subset or None)
    except BertftError:
        raise
    except Exception as error:  # the library raises many types
        said = " ".join(str(error).split())
        raise data_error(
            str(path),
            found=f"a data set that can't be loaded ({said})",
            expected="a name on the Hugging Face hub, such as owner/name, or the folder of a data set",
            fix="correct the name; of a data set with several configurations, name one with subset (--subset)",
        ) from error
    splits = dict(found) if isinstance(found, dict) else {"": found}
    if split and split not in splits:
        raise data_error(
            str(path), found=f"no split {split!r}", expected=f"one of {', '.join(splits)}", fix="correct its name"
        )
    return {split: splits[split]} if split else splits


def _named_row(row: dict[str, Any], where: str, features: Any, options: Options) -> dict[str, Any]:
    """A row with the names of classes instead of their numbers; a number under `label_key` is the number of a text."""
    try:
        found = {key: _named(value, features[key]) for key, value in row.items()} if features else dict(row)
    except ValueError as error:
        raise data_error(
            where,
            found=f"the number of a class that has no name ({error})",
            expected="numbers of the classes in the data set's features",
            fix="correct the number, or the features",
        ) from error
    if isinstance(found.get(options.label_key), float) and options.value_key not in found:
        found[options.value_key] = found.pop(options.label_key)
    return found


def _named(value: Any, feature: Any) -> Any:
    if hasattr(feature, "int2str"):
        return feature.int2str(value) if isinstance(value, int) and value >= 0 else None  # -1: not labelled
    # A list is a feature of its own from version 4 of datasets, before that it may be a Python list of one feature.
    listed = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    inner = feature if isinstance(feature, dict) else listed
    if inner is None or value is None:
        return value
    if isinstance(value, dict) and isinstance(inner, dict):
        # A list of objects, which some versions store as an object of lists.
        nested = inner is feature
        return {k: _named(v, inner[k]) if nested else [_named(one, inner[k]) for one in v] for k, v in value.items()}
    return [_named(one, inner) for one in value]


def _fits(sample: Sample) -> bool:
    return any(name.rpartition("/")[2] in _SAVED or name.endswith(".parquet") for name in sample.names)


FORMAT = Format("datasets", "data set", fits=_fits, read=read, parts=parts)
