"""Texts with errors, as HTML."""

from __future__ import annotations

import re

import spacy

from spacy_bertft import pair_doc
from spacy_bertft.jobs.report.error_texts import error_text
from spacy_bertft.jobs.report.heads import Mark, Mistake

NLP = spacy.blank("xx")


def drawn(text, gold=(), predicted=(), **settings):
    mistake = Mistake(4, 0.9, "wrong", tuple(gold), tuple(predicted))
    return error_text(NLP(text), mistake, source="dev.jsonl", **settings)


def plain(markup):
    return " ".join(re.sub(r"<[^>]+>", " ", markup).split())


def test_gold_and_predicted_spans():
    found = drawn("Anna met Bob", [Mark(0, 4, "PER", "missed")], [Mark(9, 12, "PER 0.90", "right")])
    assert found.number == 5
    assert plain(found.gold) == "Anna PER · missed met Bob"
    assert plain(found.predicted) == "Anna met Bob PER 0.90"
    assert '<mark class="entity missed">' in found.gold


def test_labels_and_texts_are_escaped():
    found = drawn("<b>Anna</b>", [Mark(3, 7, "<i>", "missed")])
    assert "<b>" not in found.gold
    assert "<i>" not in found.gold
    assert "&lt;b&gt;" in found.gold
    assert drawn("<b>Anna</b>").text == "&lt;b&gt;Anna&lt;/b&gt;"


def test_long_texts_are_cut_around_the_error_at_words():
    text = "word " * 500 + "Anna " + "word " * 500
    found = drawn(text, [Mark(2500, 2504, "PER", "missed"), Mark(0, 4, "X", "right")])
    assert re.fullmatch(r"… (word )+Anna PER · missed( word)+ …", plain(found.gold))
    assert len(plain(found.gold)) < 400
    assert len(drawn(text).text) < 450


def test_a_long_text_without_spaces_is_cut_too():
    found = drawn("x" * 5000, [Mark(2500, 2504, "A", "missed")])
    assert plain(found.gold).startswith("… xxx")
    assert len(plain(found.gold)) < 400


def test_spans_that_overlap_are_drawn_below_each_other():
    text = "word " * 100 + "the old town of Bern"
    marks = [Mark(500, 520, "A", "right"), Mark(508, 520, "B", "missed"), Mark(516, 520, "C", "partial")]
    found = drawn(text, marks)
    assert '<div class="spans"' in found.gold
    for label in ("A", "B · missed", "C · partial"):
        assert f">{label}</span>" in found.gold
    assert "background:var(--k-missed)" in found.gold
    assert "word word the" in plain(found.gold)
    # Each label is under the first word of its span.
    assert re.search(r'<span class="token"[^>]*>town (?:(?!class="token").)*B · missed', found.gold)


def test_the_direction_of_the_script():
    assert "direction: rtl" in drawn("שלום עולם", [Mark(0, 4, "A", "missed")], direction="rtl").gold


def test_both_texts_of_a_pair():
    doc = pair_doc(NLP, "first & one", "second")
    found = error_text(doc, Mistake(0, None, ""), source="")
    assert found.text == 'first &amp; one<span class="between">⟷</span>second'


def test_the_text_between_overlapping_spans_keeps_its_spaces():
    found = drawn("I don't know Anna Berg. (Yes!)", [Mark(13, 22, "A", "right"), Mark(18, 22, "B", "right")])
    assert "I don't know <span" in found.gold.replace("&#x27;", "'")
    assert re.search(r"</span>\. \(Yes!\) </div>", found.gold)
    assert re.search(r'class="token"[^>]*>Anna <.*class="token"[^>]*>Berg<', found.gold)
