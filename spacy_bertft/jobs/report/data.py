"""The texts of the report, by file, and what is known of the texts that the pipeline was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Example

from spacy_bertft.components.doc_texts import texts_of
from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.errors import BertftError
from spacy_bertft.jobs.convert.tally import Misaligned, Tally
from spacy_bertft.jobs.evaluate import read_examples
from spacy_bertft.types import Ints

_AT_ONCE = 256  # texts to split into subwords


@dataclass(frozen=True, slots=True)
class Texts:
    """B annotated texts, and the file that each is from."""

    examples: tuple[Example, ...]
    sources: tuple[str, ...]  # names of files
    source_of: Ints  # (B,)
    n_entities: int  # gold ones, those that fit no tokens included
    n_misaligned: int  # gold entities that don't begin and end with tokens of the pipeline
    misaligned: tuple[Misaligned, ...]  # some of them


def read_texts(nlp: Language, paths: Sequence[Path]) -> Texts:
    """Read one or several files, or folders of .spacy files, whatever `bertft evaluate` takes."""
    files = [file for path in paths for file in _files(path)]
    tallies = [Tally() for _ in files]
    parts = [read_examples(nlp, file, tally=tally) for file, tally in zip(files, tallies, strict=True)]
    examples = tuple(eg for part in parts for eg in part)
    n_kept = sum(len(eg.reference.ents) for eg in examples)
    n_fitting = sum(_n_fitting(eg) for eg in examples)
    lost = sum(tally.misaligned for tally in tallies)  # by the reader: they are not in the Docs
    return Texts(
        examples=examples,
        sources=_short_names(files),
        source_of=np.repeat(np.arange(len(files)), [len(part) for part in parts]),
        n_entities=n_kept + lost,
        n_misaligned=n_kept - n_fitting + lost,
        misaligned=tuple(one for tally in tallies for one in tally.examples),
    )


def _files(path: Path) -> list[Path]:
    """The .spacy files in a folder; otherwise the path itself, for whose absence the reader has an error."""
    return (sorted(path.rglob("*.spacy")) if path.is_dir() else []) or [path]


def _short_names(files: Sequence[Path]) -> tuple[str, ...]:
    """The names of the files, with folders where names alone are not distinct."""
    names = [file.name for file in files]
    return tuple(names if len(set(names)) == len(names) else [str(file) for file in files])


def _n_fitting(eg: Example) -> int:
    if not eg.reference.ents or [token.idx for token in eg.reference] == [token.idx for token in eg.predicted]:
        return len(eg.reference.ents)
    return len(eg.get_aligned_ents_and_ner()[0])


# --- lengths


@dataclass(frozen=True, slots=True)
class Lengths:
    """The lengths of B texts, and how much the encoder reads at once."""

    counts: Ints  # (B,)
    unit: str  # "subwords", or "tokens" if the pipeline has no encoder component of ours
    window: int | None  # subwords of a text in one window


def lengths_of(nlp: Language, docs: Sequence[Doc]) -> Lengths:
    """Count the subwords of texts."""
    pipe = next((pipe for _, pipe in nlp.pipeline if isinstance(pipe, EncoderPipe)), None)
    if pipe is None:
        return Lengths(np.array([len(doc) for doc in docs], dtype=np.int64), "tokens", None)
    encoder = pipe.encoder
    parts = [
        encoder.splitter.split(texts_of(docs[start : start + _AT_ONCE])).counts
        for start in range(0, len(docs), _AT_ONCE)
    ]
    return Lengths(np.concatenate(parts), "subwords", encoder.window - encoder.n_special)


# --- the training texts


@dataclass(frozen=True, slots=True)
class Training:
    """What the training texts contained."""

    path: str
    n_texts: int
    words: frozenset[str]  # lower-cased
    mentions: frozenset[str]  # texts of entities and spans, lower-cased
    labels: Counter[str]  # entities and spans by label, and texts by category
    texts: frozenset[str]


def read_training(nlp: Language, given: Sequence[Path] | None) -> Training | str:
    """Read the training texts, or those that the pipeline's config names. Returns why there are none.

    Raises the reader's error for files that the user gave.
    """
    if given:
        return _training(nlp, given)
    named = nlp.config.get("paths", {}).get("train")
    if not named:
        return "The pipeline's config names no training texts; give them with --train."
    path = Path(str(named))
    if not path.exists():
        return f"The pipeline's config names {path} for training, which is not there; give it with --train."
    try:
        return _training(nlp, [path])
    except BertftError as error:
        return f"The training texts that the pipeline's config names can't be read; give them with --train. ({error})"


def _training(nlp: Language, paths: Sequence[Path]) -> Training:
    words: set[str] = set()
    mentions: set[str] = set()
    labels: Counter[str] = Counter()
    texts: set[str] = set()
    n_texts = 0
    for doc in (doc for path in paths for file in _files(path) for doc in _gold_docs(nlp, file)):
        n_texts += 1
        texts.add(doc.text)
        words.update(words_of(doc))
        for span in spans_of(doc):
            mentions.add(span.text.lower())
            labels[span.label_] += 1
        labels.update(label for label, value in doc.cats.items() if value > 0.5)
    shown = ", ".join(map(str, paths))
    return Training(shown, n_texts, frozenset(words), frozenset(mentions), labels, frozenset(texts))


def _gold_docs(nlp: Language, file: Path) -> Iterator[Doc]:
    """The gold Docs of a file. Those of .spacy are read without splitting their texts into tokens again."""
    if file.suffix == ".spacy" and file.is_file():
        try:
            yield from DocBin().from_disk(file).get_docs(nlp.vocab)
        except Exception:
            read_examples(nlp, file)  # raises an error that says what is wrong
            raise
    else:
        yield from (eg.reference for eg in read_examples(nlp, file))


def words_of(doc: Doc) -> list[str]:
    """The words of a text, lower-cased, without punctuation and numbers."""
    return [token.lower_ for token in doc if token.is_alpha]


def spans_of(doc: Doc) -> list[Any]:
    """The entities of a Doc, and the spans with labels in its span groups."""
    groups = [span for group in doc.spans.values() for span in group if span.label_]
    return [*doc.ents, *groups]
