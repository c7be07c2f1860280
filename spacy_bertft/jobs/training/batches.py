"""The batches of a run, in an order that a resumed run continues."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from spacy.language import Language
from spacy.tokens import Span
from spacy.training import Example
from torch import Tensor

from spacy_bertft.errors import DataError
from spacy_bertft.learning.state import TensorsByName, load_random_state, random_state

Corpus = Callable[[Language], Iterable[Example]]
Batcher = Callable[[Iterable[Example]], Iterable[Iterable[Example]]]


class Batches:
    """Yields an epoch's number and a batch, as spaCy's training does: all texts are shuffled before each epoch.

    Shuffling, batching and augmenting draw from random generators of their own, which start as the global ones are now.
    So the batches don't depend on what training draws between them, and an epoch can be repeated up to any place in it.
    The next batch is always drawn in advance, so that `last` is known.

    make_batcher: a new batcher, since the sizes of its batches may grow throughout the run.
    max_epochs: 0: no limit; -1: the corpus is a stream, which is read again for each epoch without being shuffled.
    """

    def __init__(self, nlp: Language, corpus: Corpus, make_batcher: Callable[[], Batcher], *, max_epochs: int) -> None:
        self._nlp, self._corpus, self._make_batcher = nlp, corpus, make_batcher
        self._max_epochs = max_epochs
        self._taken = 0
        self._generators = _generators()
        with self._own_generators():
            self._examples = list(corpus(nlp)) if max_epochs >= 0 else []
        if max_epochs >= 0 and not self._examples:
            raise DataError("The training corpus holds no texts. Expected annotated texts. Check paths.train.")
        with self._own_generators():
            self._begun = random_state()
        self._begin()

    def _begin(self) -> None:
        """Go to the start of the run."""
        self._order, self._batcher = list(range(len(self._examples))), self._make_batcher()
        self._start(epoch=0)

    def _start(self, *, epoch: int) -> None:
        """Begin an epoch with the current order and generators."""
        self._epoch, self._drawn = epoch, 0
        with self._own_generators():
            self._stream = iter(self._batcher(self._shuffled()))
        self._next = self._draw()

    def _shuffled(self) -> Iterable[Example]:
        if self._max_epochs < 0:
            return self._corpus(self._nlp)
        random.shuffle(self._order)
        return [self._examples[place] for place in self._order]

    def _draw(self) -> list[Example] | None:
        with self._own_generators():
            batch = next(self._stream, None)
        self._drawn += batch is not None
        return None if batch is None else list(batch)

    @property
    def last(self) -> bool:
        """Whether there is no batch left."""
        if self._next is None and self._drawn and self._epoch + 1 != self._max_epochs:
            self._start(epoch=self._epoch + 1)
        return self._next is None

    def __iter__(self) -> Iterator[tuple[int, list[Example]]]:
        return self

    def __next__(self) -> tuple[int, list[Example]]:
        if self.last:
            raise StopIteration
        batch, epoch = self._next, self._epoch
        assert batch is not None
        self._taken += 1
        self._next = self._draw()
        return epoch, batch

    # --- resuming

    def state(self) -> TensorsByName:
        """Where the next batch is."""
        return {**self._begun, "data/taken": torch.tensor(self._taken)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue after the batches that had been taken: all of them are drawn again, which is cheap."""
        with self._own_generators():
            load_random_state(state)
            self._begun = random_state()
        self._begin()
        self._taken = 0
        for _ in range(int(state["data/taken"])):
            next(self)

    def fingerprint(self) -> str:
        """A hash of the training texts and their entities, categories and spans, in the order of the corpus.

        Of a stream, nothing is known in advance.
        """
        digest = blake2b(digest_size=16)
        for doc in (eg.reference for eg in self._examples):
            spans = [(key, _places(group)) for key, group in sorted(doc.spans.items())]
            digest.update(repr((doc.text, _places(doc.ents), sorted(doc.cats.items()), spans)).encode())
        return digest.hexdigest()

    @contextmanager
    def _own_generators(self) -> Iterator[None]:
        """Inside, the global random generators are those of the batches."""
        outer = _generators()
        _set_generators(self._generators)
        try:
            yield
        finally:
            self._generators = _generators()
            _set_generators(outer)


def _places(spans: Iterable[Span]) -> list[tuple[int, int, str]]:
    return [(span.start, span.end, span.label_) for span in spans]


def _generators() -> tuple[Any, Any, Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_generators(states: tuple[Any, Any, Tensor]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
