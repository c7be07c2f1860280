"""`spacy-bertft.Corpus.v1`: examples straight from annotated files, without converting them first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.training import Corpus, Example, dont_augment
from spacy.util import registry

from spacy_bertft.errors import DataError
from spacy_bertft.jobs.convert.docs import annotate, split
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.registry import format_of
from spacy_bertft.jobs.convert.survey import no_progress, survey
from spacy_bertft.jobs.convert.tally import Tally
from spacy_bertft.jobs.text_files import check_input, check_plain
from spacy_bertft.signatures import with_settings

_Augmenter = Callable[[Language, Example], Iterable[Example]]


@registry.readers("spacy-bertft.Corpus.v1")
@with_settings(Options)
def create_corpus(
    path: Path | None,
    augmenter: _Augmenter | None = None,
    **settings: Any,
) -> Callable[[Language], Iterator[Example]]:
    """Create a corpus reader for all formats that `bertft convert` reads, and for .spacy.

    The predicted Docs have the pipeline's tokens, and the segments of pairs and questions. The file is read again
    each time. Categories are taken from this file only: if they are not exclusive and another file has more of them,
    convert both with `bertft convert`.

    augmenter: turns each example into the examples to train on; None: use it as it is.
    settings: how the file is read, the fields of `Options`.
    """
    options = Options(**settings)

    def read(nlp: Language) -> Iterator[Example]:
        if path is None:
            raise DataError(
                "The path of a corpus is missing. Expected a file of annotated texts. Give --paths.train and "
                "--paths.dev, or set them in the config."
            )
        augment = augmenter or dont_augment
        for example in examples_of(nlp, Path(path), options):
            yield from augment(nlp, example)

    return read


def examples_of(nlp: Language, path: Path, options: Options, tally: Tally | None = None) -> Iterator[Example]:
    """Yield the examples of one input, or of a folder of .spacy files.

    tally: counts what is read from an input that is not .spacy.
    """
    if is_stored(path):
        if path.is_dir():
            check_plain(path, "*.spacy")
        else:
            check_input(path)
        yield from Corpus(path)(nlp)
        return
    tally = tally or Tally()
    tally.strict = options.strict
    format = format_of(path, options)
    labels = survey([(path, format.records)], options, no_progress).labels
    for record in format.records(path, options, Tally()):
        predicted = split(record, nlp)
        yield Example(predicted, annotate(predicted.copy(), record, labels, options, tally))


def is_stored(path: Path) -> bool:
    """Whether a path is a .spacy file or a folder with some, which spaCy's own reader takes."""
    return path.suffix == ".spacy" or (path.is_dir() and any(path.rglob("*.spacy")))
