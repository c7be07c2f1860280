"""Logits -> the best valid entity spans with a score each.

Tags of a scheme are numbered: 0 is O (outside), then for each label its prefixes in the scheme's order, so that a
label added later adds tags at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spacy_bertft.text.alignment import ramps
from spacy_bertft.types import Floats, Ints

Scheme = Literal["bio", "biluo", "io", "iob1"]
PREFIXES: dict[str, str] = {"bio": "BI", "biluo": "BILU", "io": "I", "iob1": "BI"}
# Prefixes of inside tags, which may only follow an open tag of their label, and prefixes of open tags. In "iob1", an
# entity begins with I, or with B right after another one of its label (Ramshaw & Marcus, 1995).
_INSIDE = {"bio": "I", "biluo": "IL", "io": "", "iob1": "B"}
_OPENS = {"bio": "BI", "biluo": "BI", "io": "I", "iob1": "BI"}


def n_tags(scheme: Scheme, n_labels: int) -> int:
    """The number of tags: O, and the scheme's prefixes for each label."""
    return 1 + n_labels * len(PREFIXES[scheme])


@dataclass(frozen=True, slots=True)
class Tagging:
    """The tags of labels in a scheme, and the allowed transitions between tags."""

    scheme: Scheme
    tags: tuple[str, ...]  # (L,) "O", "B-PERSON", …
    label: Ints  # (L,) label of each tag, -1 for O
    inside: NDArray[np.bool_]  # (L,) may only follow an open tag of its label
    is_open: NDArray[np.bool_]  # (L,) may be followed by an inside tag of its label
    must_close: NDArray[np.bool_]  # (L,) must be followed by one

    @classmethod
    def of(cls, labels: Sequence[str], scheme: Scheme) -> Tagging:
        """Number the tags of `labels`."""
        kinds = PREFIXES[scheme]
        tags = ("O", *(f"{kind}-{label}" for label in labels for kind in kinds))
        label = np.array([-1, *np.repeat(np.arange(len(labels)), len(kinds))], dtype=np.int64)
        kind = np.array([tag[0] for tag in tags])
        is_open = np.isin(kind, list(_OPENS[scheme]))
        never = np.zeros(len(tags), dtype=bool)
        inside = np.isin(kind, list(_INSIDE[scheme]))
        return cls(scheme, tags, label, inside, is_open, is_open if scheme == "biluo" else never)

    def may_follow(self, before: Ints, after: Ints) -> NDArray[np.bool_]:
        """Whether each tag of `after` may follow the one of `before` in the same place."""
        continues = self.is_open[before] & self.inside[after] & (self.label[before] == self.label[after])
        allowed: NDArray[np.bool_] = continues | ~(self.must_close[before] | self.inside[after])
        return allowed

    def openers(self) -> Ints:
        """For each inside tag, the only tags it may follow: the two open tags of its label. (inside tags, 2)."""
        open_tags = self.is_open.nonzero()[0].reshape(-1, 2) if self.inside.any() else np.zeros((0, 2), dtype=np.int64)
        return open_tags[self.label[self.inside]]


@dataclass(frozen=True, slots=True)
class Entities:
    """Entities of B sequences, in order."""

    sequence: Ints  # (E,)
    starts: Ints  # (E,) first token in its sequence
    ends: Ints  # (E,) token after the last
    labels: Ints  # (E,)
    scores: Floats  # (E,) in [0, 1]


def decode(logits: Floats, counts: Ints, tagging: Tagging) -> Entities:
    """Decode the entities from the best valid sequence of tags of each text.

    logits: (T, L); counts: (B,) tokens of each text.

    If the greedy sequence is valid, it is the best one; otherwise the Viterbi algorithm searches the valid ones
    (Forney, The Viterbi algorithm, 1973). An entity's score is the lowest probability of its tags.
    """
    tags = logits.argmax(axis=1) if len(logits) else np.zeros(0, dtype=np.int64)
    invalid = _invalid(tags, counts, tagging)
    if len(invalid):
        rows = np.isin(np.repeat(np.arange(len(counts)), counts), invalid)
        tags[rows] = viterbi(logits[rows], counts[invalid], tagging)
    return _entities(tags, _probability_of(tags, logits), counts, tagging)


def viterbi(logits: Floats, counts: Ints, tagging: Tagging) -> Ints:
    """For each text the valid sequence of tags with the highest sum of logits. -> (T,).

    logits: (T, L); counts: (B,) tokens of each text, none 0. All texts advance together, token by token. A tag that is
    not an inside tag may follow every tag that need not be closed, so all such tags share the best predecessor: the
    time is linear in L, not quadratic.
    """
    order = np.argsort(-counts, kind="stable")  # so that texts with tokens left always come first
    lengths = counts[order]
    starts = (np.cumsum(counts) - counts)[order]
    openers = tagging.openers()
    best = np.where(tagging.inside, -np.inf, logits[starts])  # (B, L)
    back: list[Ints] = []
    for place in range(1, lengths[0]):
        going = int(np.searchsorted(-lengths, -place))  # texts longer than `place`
        closed = np.where(tagging.must_close, -np.inf, best[:going])
        before = np.repeat(closed.argmax(axis=1)[:, None], best.shape[1], axis=1)  # (going, L)
        of_openers = best[:going, openers]  # (going, inside tags, 2)
        before[:, tagging.inside] = np.where(of_openers[..., 0] >= of_openers[..., 1], *openers.T)
        reached = np.take_along_axis(best[:going], before, axis=1)
        # If no predecessor is allowed, argmax still returns one; the score must be -inf.
        reached[:, ~tagging.inside] = closed.max(axis=1, keepdims=True)
        back.append(before)
        best[:going] = reached + logits[starts[:going] + place]
    tag = np.where(tagging.must_close, -np.inf, best).argmax(axis=1)  # (B,) of each text's last token
    tags = np.empty(len(logits), dtype=np.int64)
    tags[starts + lengths - 1] = tag
    for place in range(lengths[0] - 1, 0, -1):
        going = len(back[place - 1])
        tag[:going] = back[place - 1][np.arange(going), tag[:going]]
        tags[starts[:going] + place - 1] = tag[:going]
    return tags


def _invalid(tags: Ints, counts: Ints, tagging: Tagging) -> Ints:
    """The texts (indices in B) whose tags break a rule."""
    if not len(tags):
        return np.zeros(0, dtype=np.int64)
    text = np.repeat(np.arange(len(counts)), counts)  # (T,)
    first = ramps(counts) == 0
    last = np.append(first[1:], True)
    bad = (first & tagging.inside[tags]) | (last & tagging.must_close[tags])
    bad[1:] |= ~first[1:] & ~tagging.may_follow(tags[:-1], tags[1:])
    return np.unique(text[bad])


def _probability_of(tags: Ints, logits: Floats) -> Floats:
    """Softmax probability (T,) of each chosen tag."""
    if not len(tags):
        return np.zeros(0, dtype=np.float32)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    chosen: Floats = shifted[np.arange(len(tags)), tags] / shifted.sum(axis=1)
    return chosen


def _entities(tags: Ints, probability: Floats, counts: Ints, tagging: Tagging) -> Entities:
    text = np.repeat(np.arange(len(counts)), counts)  # (T,)
    place = ramps(counts)  # (T,)
    label = tagging.label[tags]  # (T,)
    first = place == 0
    opens = np.array([tag[0] in "BU" for tag in tagging.tags])[tags]
    changed = np.append(True, label[1:] != label[:-1]) if len(tags) else np.zeros(0, dtype=bool)
    begins = (label >= 0) & (opens | first | changed)
    (starts,) = begins.nonzero()
    # An entity ends where the next token is outside, in another text, or begins another entity.
    goes_on = np.append((label[1:] >= 0) & ~begins[1:], False) if len(tags) else np.zeros(0, dtype=bool)
    (lasts,) = ((label >= 0) & ~goes_on).nonzero()
    inside = label >= 0
    # Each inside token is in exactly one entity, so without the outside tokens the entities are contiguous.
    scores = np.minimum.reduceat(probability[inside], begins[inside].nonzero()[0]) if len(starts) else probability[:0]
    return Entities(text[starts], place[starts], place[lasts] + 1, label[starts], scores)
