"""The windows of a run: the split into training and held-out windows, and batches with corrupted subwords."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.masked_lm import Batch
from spacy_bertft.errors import DataError
from spacy_bertft.jobs.pretraining.cache import Cache
from spacy_bertft.jobs.pretraining.config import ObjectiveSettings, Settings
from spacy_bertft.jobs.pretraining.masking import Corrupted, Corruption, corrupt, vocabulary_of
from spacy_bertft.jobs.pretraining.sampling import (
    Stretches,
    neighbour_windows,
    pair_stretch,
    plain_windows,
    stretch,
)
from spacy_bertft.text.batches import bucket, pack, window_lengths
from spacy_bertft.types import Ints, Packed, Windows

_SPLIT_SEED = 2**31 - 1
_MAX_HELD_OUT = 2048  # windows
# Minimum budget of subwords per forward pass: each pass adds a gradient as large as the embeddings, so a CPU profits
# from longer passes than in prediction.
_BUDGET = 2048


def split_windows(cache: Cache, encoder: Encoder, settings: Settings) -> tuple[Stretches, Stretches]:
    """Split all windows at random into training windows and held-out windows."""
    pairs = settings.objective.next_sentence
    size = encoder.pair_size if pairs else encoder.window - encoder.n_special
    cut = pair_stretch if pairs or settings.corpus.join else stretch
    every = cut(np.asarray(cache.text_ends), np.asarray(cache.document_ends), size=size)
    n_held_out = min(_MAX_HELD_OUT, max(1, round(settings.corpus.held_out * len(every))))
    if len(every) < 2 * n_held_out:
        raise DataError(
            f"The corpus gives {len(every)} windows of up to {settings.training.window} subwords. Expected enough to "
            "train on some and evaluate on others. Add texts."
        )
    generator = np.random.default_rng([settings.training.seed, _SPLIT_SEED])
    held_out = np.sort(generator.choice(len(every), n_held_out, replace=False))
    train = np.delete(np.arange(len(every)), held_out)
    return _take(every, train), _take(every, held_out)


class BatchMaker:
    """Makes batches of a corpus for an encoder: windows with some subwords to predict."""

    def __init__(
        self, cache: Cache, encoder: Encoder, objective: ObjectiveSettings, batch_subwords: int | None = None
    ) -> None:
        """batch_subwords: per forward pass; None: by device."""
        self._cache = cache
        self._encoder = encoder
        self._pairs = objective.next_sentence
        self._batch_subwords = batch_subwords
        self._vocabulary = vocabulary_of(encoder)
        self._counts: Ints = np.asarray(cache.counts)
        self._corruption = Corruption(
            objective.rate, objective.masked, objective.random, objective.whole_words, objective.draw
        )

    def make(self, stretches: Stretches, chosen: Ints, generator: np.random.Generator) -> list[Batch]:
        """Corrupt the chosen windows, and group them by length into parts within the budget."""
        windows, is_next = self._windows(stretches, chosen, generator)
        specials = self._encoder.specials
        engine = self._encoder.engine()
        budget = self._batch_subwords or max(engine.budget, _BUDGET)
        groups = bucket(window_lengths(windows, specials), budget=budget, padded=engine.padded)
        # Corrupted as a whole, so that the division into parts changes nothing.
        packed = pack(self._cache.ids, windows, np.concatenate(groups), specials)
        corrupted = corrupt(packed.ids, self._corruption, self._vocabulary, self._counts, generator)
        return _parts(replace(packed, ids=corrupted.ids), corrupted, groups, is_next)

    def _windows(
        self, stretches: Stretches, chosen: Ints, generator: np.random.Generator
    ) -> tuple[Windows, Ints | None]:
        """A window per chosen stretch; for two segments, also whether the second follows the first."""
        if not self._pairs:
            return plain_windows(stretches, chosen), None
        text_ends = np.asarray(self._cache.text_ends)
        return neighbour_windows(stretches, chosen, text_ends, size=self._encoder.pair_size, generator=generator)


def _parts(packed: Packed, corrupted: Corrupted, groups: Sequence[Ints], is_next: Ints | None) -> list[Batch]:
    """Split a batch into `groups` of windows, which are packed one after the other. is_next: (W,), before packing."""
    found = []
    window = row = 0
    for group in groups:
        lengths = packed.lengths[window : window + len(group)]
        rows = slice(row, row + int(lengths.sum()))
        chosen = slice(*np.searchsorted(corrupted.rows, [rows.start, rows.stop]))
        found.append(
            Batch(
                Packed(
                    packed.ids[rows],
                    packed.positions[rows],
                    lengths,
                    None if packed.segments is None else packed.segments[rows],
                ),
                corrupted.rows[chosen] - row,
                corrupted.targets[chosen],
                None if is_next is None else is_next[group],
            )
        )
        window, row = window + len(group), rows.stop
    return found


def _take(stretches: Stretches, chosen: Ints) -> Stretches:
    return Stretches(stretches.starts[chosen], stretches.ends[chosen], stretches.documents[chosen])
