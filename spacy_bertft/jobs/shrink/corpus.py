"""The subwords of a corpus: how often each occurs, and how many texts have one that was dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import spacy

from spacy_bertft.components.doc_texts import STREAM_CHARACTERS, n_characters, texts_of
from spacy_bertft.jobs.convert.corpus import is_stored
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.registry import recognised
from spacy_bertft.jobs.evaluate import check_data, stream_examples
from spacy_bertft.jobs.pretraining.texts import read_documents
from spacy_bertft.text.batches import chunk
from spacy_bertft.text.subwords import Splitter, Texts
from spacy_bertft.types import Ints

_TEXTS = 256  # that are split at a time


@dataclass(frozen=True)
class Changed:
    """How many texts, and how many of their subwords, have to be split in another way."""

    texts: int
    changed_texts: int
    subwords: int  # occurrences
    kept_subwords: int

    @property
    def share_kept(self) -> float:
        """The share of occurrences whose subwords are kept, 0 to 1."""
        return self.kept_subwords / max(self.subwords, 1)

    @property
    def share_changed(self) -> float:
        """The share of texts with a dropped subword, 0 to 1."""
        return self.changed_texts / max(self.texts, 1)


def read_texts(paths: Sequence[Path], *, text_key: str = "text") -> Iterator[Texts]:
    """Yield the texts of files in batches, as an encoder gets them: of pairs and questions, each segment.

    paths: .spacy files and folders of them, files that `bertft convert` reads, and raw text as `bertft adapt` reads it.
    """
    options = Options(text_key=text_key)
    nlp = spacy.blank("xx")
    nothing = np.zeros(0, dtype=np.int64)
    for path in paths:
        check_data(path, options)
        if is_stored(path) or recognised(path, options):
            docs = (example.reference for example in stream_examples(nlp, path, options))
            for some in chunk(docs, size=_TEXTS, budget=STREAM_CHARACTERS, cost=n_characters):
                yield texts_of(some)
        else:
            lines = (text for document in read_documents([path], text_key=text_key) for text in document)
            for batch in chunk(lines, size=_TEXTS, budget=STREAM_CHARACTERS, cost=len):
                yield Texts(batch, nothing, nothing, np.zeros(len(batch), dtype=np.int64))


def count(splitter: Splitter, batches: Iterator[Texts]) -> Ints:
    """How often each subword occurs in texts, (V,) by id."""
    size = max(splitter.tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    counts = np.zeros(size, dtype=np.int64)
    for texts in batches:
        counts += np.bincount(splitter.split(texts).ids, minlength=size)
    return counts


def compare(splitter: Splitter, kept: Ints, batches: Iterator[Texts]) -> Changed:
    """How much of some texts the kept subwords cover. splitter: with the whole vocabulary; kept: ids."""
    n_texts = changed = n_subwords = n_kept = 0
    for texts in batches:
        subwords = splitter.split(texts)
        dropped = ~np.isin(subwords.ids, kept)
        text_of = np.repeat(np.arange(len(subwords.counts)), subwords.counts)
        n_texts += len(subwords.counts)
        changed += len(np.unique(text_of[dropped]))
        n_subwords += len(dropped)
        n_kept += int((~dropped).sum())
    return Changed(n_texts, changed, n_subwords, n_kept)
