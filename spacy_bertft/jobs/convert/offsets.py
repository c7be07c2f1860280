"""Offsets that count other units than characters: UTF-16 units, as JavaScript and Java do, or bytes of UTF-8. Pure."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping
from itertools import accumulate

from spacy_bertft.jobs.convert.options import Unit

# Unit -> how many a character takes.
_WIDTHS: Mapping[Unit, Callable[[str], int]] = {
    "characters": lambda character: 1,
    "utf16": lambda character: 1 + (ord(character) > 0xFFFF),
    "bytes": lambda character: len(character.encode("utf-8", "surrogatepass")),
}
NAMES: Mapping[Unit, str] = {"characters": "characters", "utf16": "UTF-16 units", "bytes": "bytes of UTF-8"}
OTHERS: tuple[Unit, ...] = ("utf16", "bytes")  # than characters
# Tools write the line breaks of a span as spaces or as the two characters \n, or leave them out.
_SPACE = re.compile(r"\\n|\s+")


def in_characters(text: str, start: int, end: int, unit: Unit) -> tuple[int, int] | None:
    """Turn offsets in a unit into characters; None if one of them is outside the text or inside a character."""
    if unit == "characters" or text.isascii():
        return (start, end) if 0 <= start <= end <= len(text) else None
    places = [0, *accumulate(map(_WIDTHS[unit], text))]
    found = [bisect_left(places, offset) for offset in (start, end)]
    whole = all(
        0 <= place < len(places) and places[place] == offset for place, offset in zip(found, (start, end), strict=True)
    )
    return (found[0], found[1]) if whole and start <= end else None


def unit_of(text: str, start: int, end: int, covered: str | None) -> Unit | None:
    """The unit other than characters in which offsets fit a text; None if they fit in none.

    covered: the text between the offsets; None if it is not known.
    """
    for unit in OTHERS:
        found = None if text.isascii() else in_characters(text, start, end, unit)
        if found and (covered is None or same(text[slice(*found)], covered)):
            return unit
    return None


def same(one: str, other: str) -> bool:
    """Whether two texts are equal apart from white space."""
    return one == other or _SPACE.sub("", one) == _SPACE.sub("", other)
