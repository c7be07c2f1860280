"""Decoding of IOB tags to entities. Pure: no files, no spaCy.

IOB1    I-X; B-X only where an entity directly follows another with the same label
IOB2    B-X, then I-X (also called BIO)
BILUO   B-X, I-X, L-X for the last, U-X for a single token (E and S in BIOES)
plain   X; neighbours with the same label are one entity
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_PREFIXED = re.compile(r"([BILUES])-(.+)")
# Two characters or more, the first a letter: a bare "B", "o", "_" or "3" is not a label.
_PLAIN = re.compile(r"[^\W\d_][^|]*[^|-]")


@dataclass(frozen=True)
class Tag:
    """A parsed tag: the prefix is one of B I L U for any scheme, O for outside, "" for a plain label."""

    prefix: str
    label: str = ""


_OUTSIDE = Tag("O")


def parse_tag(text: str) -> Tag | None:
    """Parse a tag; None if the text is not a tag."""
    if text == "O":
        return _OUTSIDE
    if match := _PREFIXED.fullmatch(text):
        prefix, label = match.groups()
        return Tag({"E": "L", "S": "U"}.get(prefix, prefix), label)
    return Tag("", text) if _PLAIN.fullmatch(text) else None


class Decoder:
    """Decodes the sentences of one file into entities, and counts the tags that had to be repaired.

    All schemes give the same entities and differ only in which tags are errors. So one pass is enough: each kind of
    error is counted, and the scheme, known at the end, tells which kinds apply.
    """

    def __init__(self) -> None:
        self._bad_starts = 0  # I-X or L-X that continues no entity: normal in IOB1
        self._unclosed = 0  # entities of two tokens or more without L-X, or of one without U-X: an error in BILUO
        self._free_b = False  # B-X where IOB1 has I-X
        self._closing = False  # L-X or U-X seen

    @property
    def scheme(self) -> str:
        """The scheme of all tags so far: "iob1" (also plain tags), "iob2" or "biluo"."""
        if self._closing:
            return "biluo"
        return "iob2" if self._free_b else "iob1"

    @property
    def repaired(self) -> int:
        """Number of tags so far that break the scheme."""
        return {"iob1": 0, "iob2": self._bad_starts, "biluo": self._bad_starts + self._unclosed}[self.scheme]

    def decode(self, tags: Sequence[Tag]) -> list[tuple[int, int, str]]:
        """Decode the entities of one sentence: first token, last token + 1, label."""
        found: list[tuple[int, int, str]] = []
        start, previous = 0, _OUTSIDE
        for i, tag in enumerate((*tags, _OUTSIDE)):
            opened = previous.prefix in ("B", "I", "")
            goes_on = tag.prefix in ("I", "L", "") and opened and tag.label == previous.label
            if previous.prefix != "O" and not goes_on:
                found.append((start, i, previous.label))
                self._unclosed += opened
            if not goes_on:
                start = i
                self._bad_starts += tag.prefix in ("I", "L")
            self._free_b |= tag.prefix == "B" and tag.label != previous.label
            self._closing |= tag.prefix in ("L", "U")
            previous = tag
        return found
