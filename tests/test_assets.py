"""The sample data are what assets/README.md says they are."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import correlation
from typing import Any

import pytest
import spacy

ASSETS = Path(__file__).resolve().parent.parent / "assets"
FOLDER = ASSETS / "support"
SPLITS = ("train", "dev", "test")
CATEGORIES = {"account", "billing", "delivery", "feedback", "product_question", "refund", "technical"}
TAGS = {"angry", "business", "callback", "repeat_contact", "thankful", "urgent"}
LABELS = {"DATE", "LOCATION", "MONEY", "ORDER_ID", "ORG", "PERSON", "PRODUCT"}

Message = dict[str, Any]


def read(split: str, folder: Path = FOLDER) -> list[Message]:
    lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
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


def assert_apart(texts: list[tuple[str, str]]) -> None:
    """No text (split, text) is nearly one of another split."""
    grams = [(split, text, trigrams(text)) for split, text in texts]
    for place, (split, text, own) in enumerate(grams):
        for other_split, other_text, other in grams[:place]:
            if split != other_split:
                shared = len(own & other) / min(len(own), len(other))
                assert shared <= 0.25, (shared, text, other_text)


def test_no_message_is_nearly_one_of_another_split():
    assert_apart([(split, message["text"]) for split in SPLITS for message in MESSAGES[split]])


# --- out of scope

OUT_OF_SCOPE = {split: read(split, ASSETS / "out_of_scope") for split in SPLITS}
ALL_OUT = [message for messages in OUT_OF_SCOPE.values() for message in messages]


def test_messages_out_of_scope_have_the_form_of_the_others():
    assert {tuple(message) for message in ALL_OUT} == {("text", "category", "tags", "spans")}
    assert {message["category"] for message in ALL_OUT} == {"none"}
    assert not any(message["tags"] for message in ALL_OUT)
    texts = [message["text"] for message in ALL_OUT]
    assert all(text and text == text.strip() for text in texts)
    assert len({*texts, *(message["text"] for message in ALL)}) == len(texts) + len(ALL)


def test_there_are_enough_messages_out_of_scope():
    assert {split: len(messages) for split, messages in OUT_OF_SCOPE.items()} == {"train": 60, "dev": 40, "test": 40}


def test_their_spans_are_in_order_and_begin_and_end_with_a_token():
    nlp = spacy.blank("en")
    for message in ALL_OUT:
        doc, spans = nlp.make_doc(message["text"]), message["spans"]
        for span in spans:
            assert set(span) == {"start", "end", "label"}
            assert span["label"] in LABELS
            found = doc.char_span(span["start"], span["end"])
            assert found is not None, message["text"][span["start"] : span["end"]]
            assert found.text == found.text.strip()
        assert all(first["end"] <= second["start"] for first, second in pairwise(spans)), message["text"]
    assert sum(len(message["spans"]) for message in ALL_OUT) > 100


def test_no_message_out_of_scope_is_nearly_one_of_another_split():
    # Nor one of the support desk, in whatever split: then it would not be out of scope.
    inside = [("support", message["text"]) for message in ALL]
    assert_apart(inside + [(split, message["text"]) for split in SPLITS for message in OUT_OF_SCOPE[split]])


# --- pairs


def read_pairs(split: str) -> list[list[str]]:
    with (ASSETS / "pairs" / f"{split}.tsv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    assert header == ["first", "second", "label"]
    return rows


PAIRS = {split: read_pairs(split) for split in SPLITS}
ALL_PAIRS = [pair for pairs in PAIRS.values() for pair in pairs]


def test_pairs_have_three_trimmed_columns_without_quotes_around_them():
    for pair in ALL_PAIRS:
        assert len(pair) == 3
        for text in pair:
            assert text
            assert text == text.strip()
            assert not text.startswith('"')


def test_there_are_enough_pairs():
    sizes = {split: len(pairs) for split, pairs in PAIRS.items()}
    assert sizes["train"] >= 120
    assert min(sizes["dev"], sizes["test"]) >= 40


@pytest.mark.parametrize("split", SPLITS)
def test_half_of_the_pairs_are_the_same_request(split):
    counts = Counter(label for *_, label in PAIRS[split])
    assert counts == {label: len(PAIRS[split]) // 2 for label in ("same", "different")}


def test_no_pair_is_repeated_in_either_order():
    assert len({frozenset(pair[:2]) for pair in ALL_PAIRS}) == len(ALL_PAIRS)
    assert all(first != second for first, second, _ in ALL_PAIRS)


def test_no_text_of_a_pair_is_in_two_splits():
    texts = {split: {text for pair in pairs for text in pair[:2]} for split, pairs in PAIRS.items()}
    assert sum(map(len, texts.values())) == len(set().union(*texts.values()))


def test_no_pair_is_nearly_one_of_another_split():
    assert_apart([(split, f"{first} {second}") for split in SPLITS for first, second, _ in PAIRS[split]])


@pytest.mark.parametrize("split", SPLITS)
def test_common_words_do_not_give_the_label_away(split):
    shares: dict[str, list[float]] = {"same": [], "different": []}
    for first, second, label in PAIRS[split]:
        one, other = (set(re.findall(r"\w+", text.lower())) for text in (first, second))
        shares[label].append(len(one & other) / len(one | other))
    means = {label: sum(values) / len(values) for label, values in shares.items()}
    assert means["same"] - means["different"] < 0.1, means


# --- questions


def read_questions(split: str) -> list[tuple[str, dict[str, Any]]]:
    """Contexts and their questions."""
    content = json.loads((ASSETS / "questions" / f"{split}.json").read_text(encoding="utf-8"))
    assert set(content) == {"version", "data"}
    assert all(set(article) == {"title", "paragraphs"} for article in content["data"])
    paragraphs = [paragraph for article in content["data"] for paragraph in article["paragraphs"]]
    assert all(set(paragraph) == {"context", "qas"} for paragraph in paragraphs)
    return [(paragraph["context"], question) for paragraph in paragraphs for question in paragraph["qas"]]


QUESTIONS = {split: read_questions(split) for split in SPLITS}
ALL_QUESTIONS = [one for questions in QUESTIONS.values() for one in questions]


def test_there_are_enough_questions():
    sizes = {split: len(questions) for split, questions in QUESTIONS.items()}
    assert sizes["train"] >= 120
    assert min(sizes["dev"], sizes["test"]) >= 40


def test_every_question_has_the_four_keys_and_an_id_of_its_own():
    assert {tuple(question) for _, question in ALL_QUESTIONS} == {("id", "question", "answers", "is_impossible")}
    assert len({question["id"] for _, question in ALL_QUESTIONS}) == len(ALL_QUESTIONS)
    texts = [question["question"] for _, question in ALL_QUESTIONS]
    assert all(text and text == text.strip() and "\t" not in text for text in texts)
    assert len(set(texts)) == len(texts)


def test_answers_are_trimmed_words_of_the_context_at_their_offsets():
    nlp = spacy.blank("en")
    for context, question in ALL_QUESTIONS:
        doc = nlp.make_doc(context)
        for answer in question["answers"]:
            assert set(answer) == {"text", "answer_start"}
            start, text = answer["answer_start"], answer["text"]
            span = doc.char_span(start, start + len(text))
            assert span is not None, (question["id"], text)
            assert span.text == text == text.strip(), question["id"]
            assert 1 <= len(text.split()) <= 12, question["id"]


def test_answers_of_a_question_are_different_and_one_in_train():
    for split in SPLITS:
        for _, question in QUESTIONS[split]:
            found = [(answer["text"], answer["answer_start"]) for answer in question["answers"]]
            assert len(set(found)) == len(found) <= (1 if split == "train" else 3), question["id"]


@pytest.mark.parametrize("split", SPLITS)
def test_some_questions_have_no_answer(split):
    questions = [question for _, question in QUESTIONS[split]]
    assert all(question["is_impossible"] == (not question["answers"]) for question in questions)
    assert 0.2 <= sum(question["is_impossible"] for question in questions) / len(questions) <= 0.4


def test_no_page_is_nearly_one_of_another_split():
    contexts = {(split, context) for split in SPLITS for context, _ in QUESTIONS[split]}
    assert {split: sum(one == split for one, _ in contexts) for split in SPLITS} == {"train": 14, "dev": 4, "test": 4}
    assert_apart(sorted(contexts))


# --- ratings

RATINGS = {split: read(split, ASSETS / "ratings") for split in SPLITS}
ALL_RATINGS = [review for reviews in RATINGS.values() for review in reviews]
VALUES = [half / 2 for half in range(2, 11)]


def test_there_are_enough_ratings():
    assert {split: len(reviews) for split, reviews in RATINGS.items()} == {"train": 240, "dev": 60, "test": 60}


def test_every_rating_has_the_two_keys_in_order():
    assert {tuple(review) for review in ALL_RATINGS} == {("text", "value")}


def test_values_are_half_steps_from_one_to_five_written_as_decimals():
    assert all(isinstance(review["value"], float) for review in ALL_RATINGS)
    assert {review["value"] for review in ALL_RATINGS} == set(VALUES)


@pytest.mark.parametrize("split", SPLITS)
def test_values_are_evenly_spread(split):
    counts = Counter(review["value"] for review in RATINGS[split])
    assert set(counts) == set(VALUES)
    assert max(counts.values()) - min(counts.values()) <= 1, counts


def test_there_are_forty_ratings_of_each_value():
    assert Counter(review["value"] for review in ALL_RATINGS) == dict.fromkeys(VALUES, 40)


def test_texts_of_ratings_are_trimmed_and_none_is_repeated():
    texts = [review["text"] for review in ALL_RATINGS]
    assert all(text and text == " ".join(text.split()) for text in texts)
    # Not even with other capitals, spaces or marks.
    assert len({"".join(re.findall(r"\w", text.lower())) for text in texts}) == len(texts)


def test_no_rating_is_nearly_another():
    # Each is taken for a split of its own, so that those of one file are compared as well.
    assert_apart([(review["text"], review["text"]) for review in ALL_RATINGS])


@pytest.mark.parametrize("split", SPLITS)
def test_lengths_of_ratings_are_mixed_from_3_to_45_words(split):
    lengths = [len(review["text"].split()) for review in RATINGS[split]]
    assert min(lengths) >= 3
    assert max(lengths) <= 45
    for at_least, below in ((3, 10), (10, 20), (20, 30), (30, 46)):
        share = sum(at_least <= length < below for length in lengths) / len(lengths)
        assert share >= 0.1, (at_least, below, share)


@pytest.mark.parametrize("split", SPLITS)
def test_the_length_does_not_give_the_value_away(split):
    lengths = [float(len(review["text"].split())) for review in RATINGS[split]]
    assert abs(correlation(lengths, [review["value"] for review in RATINGS[split]])) < 0.15


def test_ratings_begin_in_many_ways():
    counts = Counter(tuple(review["text"].lower().split()[:2]) for review in ALL_RATINGS)
    assert max(counts.values()) <= 5, counts.most_common(3)
