"""Offsets in other units than characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_bertft.jobs.convert.offsets import in_characters, same, unit_of

TEXT = "a😊é b"  # 1 + 2 + 1 + 1 + 1 UTF-16 units, 1 + 4 + 2 + 1 + 1 bytes


@pytest.mark.parametrize(
    ("unit", "offsets", "expected"),
    [
        ("characters", (1, 3), (1, 3)),
        ("characters", (0, 6), None),
        ("utf16", (1, 3), (1, 2)),
        ("utf16", (3, 6), (2, 5)),
        ("utf16", (2, 3), None),  # inside a character
        ("utf16", (5, 7), None),  # after the end
        ("bytes", (1, 5), (1, 2)),
        ("bytes", (5, 9), (2, 5)),
        ("bytes", (6, 9), None),
        ("bytes", (-1, 5), None),
        ("bytes", (9, 5), None),
    ],
)
def test_in_characters(unit, offsets, expected):
    assert in_characters(TEXT, *offsets, unit) == expected


@given(st.text(st.characters(exclude_categories=["Cs"])), st.data())
def test_encoders_agree(text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    sizes = {"utf16": lambda part: len(part.encode("utf-16-le")) // 2, "bytes": lambda part: len(part.encode())}
    for unit, size in sizes.items():
        assert in_characters(text, size(text[:start]), size(text[:end]), unit) == (start, end)


def test_unit_of_a_span():
    assert unit_of(TEXT, 5, 6, "b") == "utf16"
    assert unit_of(TEXT, 8, 9, "b") == "bytes"
    assert unit_of(TEXT, 8, 9, None) == "bytes"
    assert unit_of(TEXT, 5, 6, "x") is None
    assert unit_of("ascii", 9, 12, None) is None


def test_white_space_makes_no_difference():
    assert same("a\nb", "a b")
    assert same("a\nb", "a\\nb")
    assert same("a b", "ab")
    assert not same("a b", "a c")
