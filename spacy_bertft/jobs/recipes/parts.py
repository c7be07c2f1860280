"""The training and the development texts: two inputs, or one that is divided."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from spacy_bertft.errors import ConfigError
from spacy_bertft.files import replace_files
from spacy_bertft.jobs.convert.convert import convert
from spacy_bertft.jobs.convert.corpus import is_stored
from spacy_bertft.jobs.convert.held_out import DEV, DEV_SHARE, TRAIN
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.tally import Report
from spacy_bertft.jobs.writing import writing


@dataclass(frozen=True, slots=True)
class Parts:
    """Where both parts are, and how they are read.

    at      the folder where they are until they get to their places; None: they are there
    report  what was read and written, if one input was divided
    """

    train: Path
    dev: Path
    options: Options
    at: Path | None = None
    report: Report | None = None

    @property
    def readable(self) -> tuple[Path, Path]:
        """The paths to read them from."""
        return (self.train, self.dev) if self.at is None else (self.at / TRAIN, self.at / DEV)

    def of_other_formats(self) -> bool:
        """Whether spaCy's own corpus reader can't read them."""
        return self.options != Options() or not all(map(is_stored, (self.train, self.dev)))


@contextmanager
def divided(texts: Path, folder: Path, *, lang: str, options: Options, force: bool) -> Iterator[Parts]:
    """Set a fifth of some annotated texts aside for development: both parts get to `folder` if the block succeeds.

    force: replace what is there, though never the texts themselves.
    """
    targets = folder / TRAIN, folder / DEV
    there = [path for path in targets if path.exists() and (not force or path.resolve() == texts.resolve())]
    if there:
        raise ConfigError(
            f"dev: found none, and something in the place of the texts to set aside, {there[0]}; expected a free "
            "path; fix: give development texts (--dev), name a config in another folder, or replace what is there "
            "(--force)"
        )
    with TemporaryDirectory() as name:
        report = convert([texts], Path(name), lang=lang, dev_share=DEV_SHARE, **vars(options))
        counts = {path: report.parts[Path(name) / path.name] for path in targets}
        files = tuple(replace(file, target=folder) for file in report.files)
        yield Parts(*targets, Options(), Path(name), Report(files, counts))
        with writing(folder):
            replace_files(folder, {path.name: partial(shutil.copyfile, Path(name) / path.name) for path in targets})
