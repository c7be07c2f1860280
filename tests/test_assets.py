"""The sample messages are what assets/README.md says they are."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import spacy

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "support"
SPLITS = ("train", "dev", "test")
CATEGORIES = {"account", "billing", "delivery", "feedback", "product_question", "refund", "technical"}
TAGS = {"angry", "business", "callback", "repeat_contact", "thankful", "urgent"}
LABELS = {"DATE", "LOCATION", "MONEY", "ORDER_ID", "ORG", "PERSON", "PRODUCT"}

Message = dict[str, Any]


def read(split: str) -> list[Message]:
    lines = (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    return [json.loads(line) for line in lines]


MESSAGES = {split: read(split) for split in SPLITS}
ALL = [message for messages in MESSAGES.values() for message in messages]


def trigrams(text: str) -> frozenset[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return frozenset(tuple(words[start : start + 3]) for start in range(len(words) - 2)) or frozenset([tuple(words)])


def test_there_are_at_least_450_messages():
    assert len(ALL) >= 450


def test_every_message_has_the_four_keys_in_order():
    assert {tuple(message) for message in ALL} == {("text", "category", "tags", "spans")}


def test_texts_are_trimmed_and_none_is_repeated():
    texts = [message["text"] for message in ALL]
    assert all(text and text == text.strip() for text in texts)
    assert len(set(texts)) == len(texts)


def test_spans_are_inside_the_text_trimmed_in_order_and_apart():
    for message in ALL:
        text, spans = message["text"], message["spans"]
        for span in spans:
            assert set(span) == {"start", "end", "label"}
            assert 0 <= span["start"] < span["end"] <= len(text), text
            piece = text[span["start"] : span["end"]]
            assert piece == piece.strip(), piece
        assert all(first["end"] <= second["start"] for first, second in pairwise(spans)), text


def test_spans_begin_and_end_with_a_token():
    nlp = spacy.blank("en")
    for message in ALL:
        doc = nlp.make_doc(message["text"])
        for span in message["spans"]:
            assert doc.char_span(span["start"], span["end"]) is not None, message["text"][span["start"] : span["end"]]


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_has_exactly_the_known_names(split):
    messages = MESSAGES[split]
    assert {message["category"] for message in messages} == CATEGORIES
    assert {tag for message in messages for tag in message["tags"]} == TAGS
    assert {span["label"] for message in messages for span in message["spans"]} == LABELS


def test_tags_are_sorted_and_not_repeated():
    assert all(message["tags"] == sorted(set(message["tags"])) for message in ALL)


@pytest.mark.parametrize("split", SPLITS)
def test_each_category_is_a_tenth_to_a_fifth_of_a_split(split):
    counts = Counter(message["category"] for message in MESSAGES[split])
    assert all(0.10 <= count / len(MESSAGES[split]) <= 0.20 for count in counts.values()), counts


@pytest.mark.parametrize("split", SPLITS)
def test_lengths_are_mixed(split):
    lengths = [len(message["text"].split()) for message in MESSAGES[split]]
    for at_least, below in ((0, 15), (15, 30), (30, 60), (60, 1000)):
        share = sum(at_least <= length < below for length in lengths) / len(lengths)
        assert share >= 0.1, (at_least, below, share)


def test_no_message_is_nearly_one_of_another_split():
    grams = [(split, message["text"], trigrams(message["text"])) for split in SPLITS for message in MESSAGES[split]]
    for place, (split, text, own) in enumerate(grams):
        for other_split, other_text, other in grams[:place]:
            if split != other_split:
                shared = len(own & other) / min(len(own), len(other))
                assert shared <= 0.25, (shared, text, other_text)
