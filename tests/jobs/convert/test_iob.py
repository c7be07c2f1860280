from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_bertft.jobs.convert.iob import Decoder, Tag, parse_tag

Spans = list[tuple[int, int, str]]


def decode(*sentences: str) -> tuple[list[Spans], Decoder]:
    decoder = Decoder()
    found = []
    for sentence in sentences:
        tags = [parse_tag(tag) for tag in sentence.split()]
        assert None not in tags
        found.append(decoder.decode(tags))
    return found, decoder


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("iob2", "B-A I-A O B-A B-B I-B"),
        ("iob1", "I-A I-A O I-A I-B I-B"),
        ("biluo", "B-A L-A O U-A B-B L-B"),
        ("biluo", "B-A E-A O S-A B-B E-B"),
    ],
)
def test_all_schemes_give_the_same(scheme, tags):
    (found,), decoder = decode(tags)
    assert found == [(0, 2, "A"), (3, 4, "A"), (4, 6, "B")]
    assert (decoder.scheme, decoder.repaired) == (scheme, 0)


def test_plain_tags():
    (found,), decoder = decode("AA AA O AA BB")
    assert found == [(0, 2, "AA"), (3, 4, "AA"), (4, 5, "BB")]
    assert decoder.repaired == 0


def test_iob1_begins_with_b_between_neighbours_of_a_label():
    (found,), decoder = decode("I-A B-A I-A O")
    assert found == [(0, 1, "A"), (1, 3, "A")]
    assert (decoder.scheme, decoder.repaired) == ("iob1", 0)


@pytest.mark.parametrize(
    ("tags", "found", "repaired"),
    [
        ("B-A O I-A", [(0, 1, "A"), (2, 3, "A")], 1),  # I after O
        ("B-A I-B I-B", [(0, 1, "A"), (1, 3, "B")], 1),  # another label
        ("U-A O B-A O", [(0, 1, "A"), (2, 3, "A")], 1),  # never closed
        ("U-A I-A L-A", [(0, 1, "A"), (1, 3, "A")], 1),  # after a closed one
        ("B-A L-A L-A", [(0, 2, "A"), (2, 3, "A")], 1),
    ],
)
def test_invalid_transitions_begin_an_entity(tags, found, repaired):
    (spans,), decoder = decode(tags)
    assert spans == found
    assert decoder.repaired == repaired


def test_an_entity_ends_with_its_sentence():
    found, decoder = decode("O B-A", "I-A O")
    assert found == [[(1, 2, "A")], [(0, 1, "A")]]
    assert decoder.repaired == 1


@pytest.mark.parametrize("text", ["", "o", "B", "I", "S", "B-", "_", "-", "3", "I|O", "x|PER"])
def test_what_is_no_tag(text):
    assert parse_tag(text) is None


def test_labels_may_hold_hyphens():
    assert parse_tag("B-creative-work") == Tag("B", "creative-work")
    assert parse_tag("creative-work") == Tag("", "creative-work")


@st.composite
def entities(draw: st.DrawFn) -> tuple[int, Spans]:
    at, found = 0, []
    for gap, length, label in draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from(["AA", "BB"])), max_size=6)
    ):
        found.append((at + gap, at + gap + length, label))
        at += gap + length
    return at + draw(st.integers(0, 2)), found


def encode(length: int, spans: Spans, scheme: str) -> list[Tag]:
    tags = [Tag("O")] * length
    for n, (start, end, label) in enumerate(spans):
        tags[start:end] = [Tag("I", label)] * (end - start)
        touches = n and spans[n - 1][1:] == (start, label)
        if scheme != "iob1" or touches:
            tags[start] = Tag("B", label)
        if scheme == "biluo":
            tags[end - 1] = Tag("U" if end - start == 1 else "L", label)
    return tags


@given(st.lists(entities(), max_size=4), st.sampled_from(["iob1", "iob2", "biluo"]))
def test_round_trip(sentences, scheme):
    decoder = Decoder()
    for length, spans in sentences:
        assert decoder.decode(encode(length, spans, scheme)) == spans
    assert decoder.repaired == 0


@given(st.lists(st.sampled_from([Tag("O"), *(Tag(p, x) for p in "BILU" for x in "XY")])))
def test_any_tags_give_entities_that_cover_what_is_tagged(tags):
    found = Decoder().decode(tags)
    covered = [i for start, end, _ in found for i in range(start, end)]
    assert covered == [i for i, tag in enumerate(tags) if tag.prefix != "O"]
    assert all(tags[i].label == label for start, end, label in found for i in range(start, end))
