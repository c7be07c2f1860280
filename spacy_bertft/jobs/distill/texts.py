"""`spacy-bertft.WithUnlabelled.v1`: annotated texts, and others that are learned from teachers alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.training import Example

from spacy_bertft.jobs.convert.corpus import is_stored
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.evaluate import stream_examples
from spacy_bertft.jobs.pretraining.texts import kind_of_file, read_documents, text_files
from spacy_bertft.signatures import with_settings

_Corpus = Callable[[Language], Iterable[Example]]


@with_settings(Options)
def create_with_unlabelled(
    unlabelled: list[str], annotated: _Corpus | None = None, **settings: Any
) -> Callable[[Language], Iterator[Example]]:
    """Create a corpus reader of annotated texts, followed by unlabelled ones.

    unlabelled: files of texts. Of .txt, also compressed (.txt.gz, .txt.xz), each line is a text. Of all that `bertft
        convert` reads, and of .spacy, each record is one, and its annotations are left out. A folder means the files in
        it that are .txt, .jsonl or .spacy.
    annotated: the reader of annotated texts; None: there are none.
    settings: how the unlabelled files are read, the fields of `Options`.
    """
    options = Options(**settings)

    def read(nlp: Language) -> Iterator[Example]:
        yield from annotated(nlp) if annotated is not None else ()
        yield from unlabelled_examples(nlp, [Path(path) for path in unlabelled], options)

    return read


def unlabelled_examples(nlp: Language, paths: Sequence[Path], options: Options) -> Iterator[Example]:
    """Examples of the texts in files and folders, without annotation."""
    for path in paths:
        in_folder = path.is_dir() and not is_stored(path)
        for file in text_files([path]) if in_folder else [path]:
            yield from _of_file(nlp, file, options)


def _of_file(nlp: Language, path: Path, options: Options) -> Iterator[Example]:
    kind, packing = kind_of_file(path) or ("", "")
    if kind != ".txt" and not packing:
        for example in stream_examples(nlp, path, options):
            yield Example(example.predicted, example.predicted.copy())
        return
    for document in read_documents([path], text_key=options.text_key):
        for text in document if kind == ".txt" else ["\n".join(document)]:
            yield Example(nlp.make_doc(text), nlp.make_doc(text))
