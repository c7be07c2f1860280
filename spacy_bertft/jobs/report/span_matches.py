"""Gold and predicted spans of a text, matched one to one: exact, partial, wrong type, missed, invented."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from spacy.tokens import Span
from spacy.training import Example

Kind = Literal["exact", "partial", "wrong type", "missed", "invented"]
KINDS: tuple[Kind, ...] = ("exact", "partial", "wrong type", "missed", "invented")


class Found(NamedTuple):
    """A span in tokens of the gold Doc."""

    start: int
    end: int
    label: str
    score: float | None = None  # of a predicted one, in [0, 1], if its component gives one


@dataclass(frozen=True, slots=True)
class Match:
    """A gold span and the predicted one that stands for it; one of them is None if it is missed or invented."""

    kind: Kind
    gold: Found | None
    predicted: Found | None


def match(gold: Sequence[Found], predicted: Sequence[Found]) -> list[Match]:
    """Match the spans of a text, as in MUC's scoring (Chinchor & Sundheim, 1993, MUC-5 evaluation metrics).

    Equal spans first. Among the others, those that overlap: of one label first ("partial"), then of two labels,
    whatever their boundaries ("wrong type"); the larger the common part, the earlier. Each span is matched once.
    """
    places: dict[tuple[int, int, str], list[int]] = defaultdict(list)
    for number, span in enumerate(gold):
        places[span[:3]].append(number)
    matches, gold_left, left = [], set(range(len(gold))), []
    for number, span in enumerate(predicted):
        if places[span[:3]]:
            place = places[span[:3]].pop(0)
            gold_left.discard(place)
            matches.append(Match("exact", gold[place], span))
        else:
            left.append(number)
    free = set(left)
    for _, number, place in sorted(_overlaps(gold, sorted(gold_left), predicted, left)):
        if number in free and place in gold_left:
            free.discard(number)
            gold_left.discard(place)
            same = gold[place].label == predicted[number].label
            matches.append(Match("partial" if same else "wrong type", gold[place], predicted[number]))
    matches += [Match("missed", gold[place], None) for place in sorted(gold_left)]
    matches += [Match("invented", None, predicted[number]) for number in sorted(free)]
    return matches


def _overlaps(
    gold: Sequence[Found], places: Iterable[int], predicted: Sequence[Found], numbers: Iterable[int]
) -> Iterator[tuple[tuple[bool, float], int, int]]:
    """The pairs that overlap, with a key that sorts the best first: (key, predicted, gold).

    A dict of tokens finds them: a long text has thousands of spans, too many to compare each with each.
    """
    of_token: dict[int, list[int]] = defaultdict(list)
    for place in places:
        for token in range(gold[place].start, gold[place].end):
            of_token[token].append(place)
    for number in numbers:
        span = predicted[number]
        common: dict[int, int] = defaultdict(int)
        for token in range(span.start, span.end):
            for place in of_token.get(token, ()):
                common[place] += 1
        for place, size in common.items():
            union = span.end - span.start + gold[place].end - gold[place].start - size
            yield (gold[place].label != span.label, -size / union), number, place


def on_gold_tokens(eg: Example, spans: Iterable[Span], scores: dict[tuple[int, int, str], float]) -> list[Found]:
    """Predicted spans on the tokens of the gold Doc, aligned as spaCy's scorers do.

    scores: by first token, token after the last and label, in the predicted Doc.
    """
    aligned = eg.alignment.x2y
    found = []
    for span in spans:
        tokens = aligned[span.start : span.end]
        if len(tokens):
            score = scores.get((span.start, span.end, span.label_))
            found.append(Found(int(tokens[0]), int(tokens[-1]) + 1, span.label_, score))
    return found
