"""Which subwords stay, and which layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.shrink.vocabulary import Vocabulary
from spacy_bertft.types import Ints

_UNUSED = "[unused"  # BERT's spare rows, which were not trained


@dataclass(frozen=True)
class Plan:
    """What to keep of an encoder."""

    min_count: int = 1  # occurrences in the corpus that a subword needs
    max_size: int | None = None  # subwords in all, special ones included; None: no limit
    min_size: int = 0  # subwords in all: if the corpus uses fewer, those that are common elsewhere fill up
    characters: bool = True  # also keep single characters, so that unseen words can be spelled
    layers: int | tuple[int, ...] | None = None  # how many, evenly spaced, or which, from 0; None: all

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ConfigError(
                f"min_count is {self.min_count}. Expected 1 or more: the occurrences that a subword needs to stay."
            )
        if self.max_size is not None and self.max_size < 1:
            raise ConfigError(f"max_size is {self.max_size}. Expected a number of subwords, 1 or more.")
        if self.min_size < 0 or (self.max_size is not None and self.min_size > self.max_size):
            most = "" if self.max_size is None else f" and at most max_size, {self.max_size}"
            raise ConfigError(f"min_size is {self.min_size}. Expected a number of subwords, 0 or more{most}.")


def choose_subwords(vocabulary: Vocabulary, counts: Ints, plan: Plan, *, also: Sequence[int] = ()) -> set[str]:
    """The subwords that stay.

    counts: (V,) how often each occurs in the corpus. also: ids that stay in any case, if they are of a subword.
    Raises a ConfigError if max_size is too small for the subwords that must stay.
    """
    ids = vocabulary.ids
    subwords = {number: subword for subword, number in ids.items()}
    kept = vocabulary.required(characters=plan.characters)
    kept.update(subwords[number] for number in also if number in subwords)
    if plan.max_size is not None and len(kept) > plan.max_size:
        raise ConfigError(
            f"max_size is {plan.max_size}, but {len(kept)} subwords must stay: special ones"
            f"{', single characters' if plan.characters else ''} and what the tokenizer rests on. Expected at least "
            f"{len(kept)}. Set a larger one{', or leave the characters out' if plan.characters else ''}."
        )
    # The commonest first; of those that are equally common, the one with the lower id.
    used = sorted(counts.nonzero()[0].tolist(), key=lambda number: (-counts[number], number))
    _add(kept, vocabulary, (subwords[number] for number in used if counts[number] >= plan.min_count), plan.max_size)
    if len(kept) < plan.min_size:
        # Tokenizers number subwords in the order in which they were learned, or of their scores: the common ones first.
        rest = (subwords[number] for number in sorted(subwords) if not subwords[number].startswith(_UNUSED))
        _add(kept, vocabulary, rest, plan.min_size)
    return kept


def _add(kept: set[str], vocabulary: Vocabulary, more: Iterable[str], most: int | None) -> None:
    """Add subwords with what they need, except those for which there is no room. most: in all."""
    for subword in more:
        needed = vocabulary.parts(subword) - kept
        if most is None or len(kept) + len(needed) <= most:
            kept |= needed


def choose_layers(n_layers: int, plan: Plan) -> tuple[int, ...]:
    """The numbers of the layers that stay, from 0. Raises a ConfigError if they are not among `n_layers`.

    Of a number, evenly spaced ones from the first to the last: 6 of 12 are 0, 2, 4, 7, 9 and 11, those that DistilBERT
    was started from (Sanh et al., 2019). 1 is the first.
    """
    wanted = plan.layers
    if wanted is None:
        return tuple(range(n_layers))
    if isinstance(wanted, int):
        _check(0 < wanted <= n_layers, f"{wanted}", n_layers)
        return tuple(round(place * (n_layers - 1) / max(wanted - 1, 1)) for place in range(wanted))
    listed = ",".join(map(str, wanted))
    _check(bool(wanted) and list(wanted) == sorted({*wanted} & {*range(n_layers)}), listed, n_layers)
    return tuple(wanted)


def _check(fits: bool, found: str, n_layers: int) -> None:
    if not fits:
        raise ConfigError(
            f"layers is {found}, of an encoder with {n_layers}. Expected a number from 1 to {n_layers}, or different "
            f"layers in ascending order, from 0 to {n_layers - 1}, such as 0,2,5."
        )
