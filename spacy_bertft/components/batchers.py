"""Batches of texts of similar length, measured in the encoder's subwords."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from spacy.training import Example
from spacy.util import registry

from spacy_bertft.components.doc_texts import subword_counts
from spacy_bertft.errors import ConfigError, need_torch
from spacy_bertft.text.subwords import Splitter

# Texts are sorted by their number of subwords times a random factor of 1 - _JITTER to 1 + _JITTER.
_JITTER = 0.1


@registry.batchers("spacy-bertft.batch_by_subwords.v1")
def create_batch_by_subwords(
    tokenizer: str, size: int = 2048, min_texts: int = 8, max_texts: int = 32, buffer: int = 2048
) -> Callable[[Iterable[Example]], Iterator[list[Example]]]:
    """A batcher that puts texts of similar length together, in random order; no text is left out or repeated.

    Raises a ConfigError for sizes that contradict each other, and an EncoderError, at the first batch, if the
    tokenizer can't be loaded.

    tokenizer: the encoder's name, as in [components.encoder.model]; only its tokenizer is loaded. To write it once,
        set both to a variable in [paths]: in [training], spaCy does not know variables of [components].
    size: the most subwords in a batch, special ones not counted. A batch of min_texts texts may have more.
    min_texts, max_texts: number of texts in a batch. Learning rates keep their meaning only if this does not vary
        much. A batch has fewer than min_texts where not more are left.
    buffer: number of texts that are sorted together. A stream waits for so many.
    """
    for name, found, least, meaning in (
        ("size", size, 1, "1"),
        ("min_texts", min_texts, 1, "1"),
        ("max_texts", max_texts, min_texts, f"min_texts = {min_texts}"),
        ("buffer", buffer, max_texts, f"max_texts = {max_texts}"),
    ):
        if found < least:
            raise ConfigError(
                f"The batcher spacy-bertft.batch_by_subwords.v1 has {name} = {found}. Expected at least {meaning}. "
                "Correct it in [training.batcher]."
            )

    @functools.cache  # configs are resolved more often than batches are made
    def splitter() -> Splitter:
        need_torch("The batcher spacy-bertft.batch_by_subwords.v1")
        from spacy_bertft.encoder.loading import load_splitter

        return load_splitter(tokenizer)

    def batch_by_subwords(examples: Iterable[Example]) -> Iterator[list[Example]]:
        for held in _buffers(iter(examples), size=buffer, least=min_texts):
            batches = list(_batches(held, splitter(), size=size, min_texts=min_texts, max_texts=max_texts))
            random.shuffle(batches)
            yield from batches

    return batch_by_subwords


def _buffers(examples: Iterator[Example], *, size: int, least: int) -> Iterator[list[Example]]:
    """Lists of `size` examples; if fewer than `least` would be left for the last one, the one before has them too."""
    held = list(islice(examples, size))
    while held:
        following = list(islice(examples, least))
        if len(following) < least:
            held += following
            following = []
        yield held
        held = following + list(islice(examples, size - len(following)))


def _batches(
    examples: list[Example], splitter: Splitter, *, size: int, min_texts: int, max_texts: int
) -> Iterator[list[Example]]:
    """Batches of similar length, longest first."""
    counts = subword_counts([eg.predicted for eg in examples], splitter).tolist()
    keys = [(count + 1) * random.uniform(1 - _JITTER, 1 + _JITTER) for count in counts]
    order = sorted(range(len(examples)), key=keys.__getitem__, reverse=True)
    groups: list[list[int]] = []
    total = 0
    for place in order:
        n_texts = len(groups[-1]) if groups else max_texts
        if n_texts == max_texts or (n_texts >= min_texts and total + counts[place] > size):
            groups.append([])
            total = 0
        groups[-1].append(place)
        total += counts[place]
    if len(groups) > 1 and len(groups[-1]) < min_texts:
        groups += _shared(groups.pop(-2) + groups.pop(), min_texts=min_texts, max_texts=max_texts)
    return ([examples[place] for place in group] for group in groups)


def _shared(last: list[int], *, min_texts: int, max_texts: int) -> list[list[int]]:
    """The texts of the last two batches, of which the second has too few, in batches that have enough, if possible."""
    if len(last) <= max_texts:
        return [last]
    middle = (len(last) + 1) // 2
    middle = middle if len(last) - middle >= min_texts else min_texts
    return [last[:middle], last[middle:]]
