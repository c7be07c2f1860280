from __future__ import annotations

import json

import pytest
from convert_helpers import assert_says, jsonl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spacy_bertft.convert import convert
from spacy_bertft.errors import DataError

CONTEXT = "Anna lives in Berlin, near the old garden. Bob is no Berliner."


def squad(*questions, context=CONTEXT):
    """A file of one paragraph."""
    paragraph = {"context": context, "qas": list(questions)}
    return json.dumps({"version": "v2.0", "data": [{"title": "Anna", "paragraphs": [paragraph]}]})


def asked(*answers, question="Where?", context=CONTEXT, **more):
    """A question; answers are texts, or texts with their first characters."""
    pairs = (one if isinstance(one, tuple) else (one, context.index(one)) for one in answers)
    given = [{"text": text, "answer_start": start} for text, start in pairs]
    return {"id": "q1", "question": question, "answers": given, **more}


def answers(doc):
    return [span.text for span in doc.spans["answers"]]


def kept(doc):
    return list(doc.spans["answers"].attrs["texts"])


# --- what comes out


def test_question_and_context_are_the_segments(made):
    doc = made("a.json", squad(asked("Berlin", question=" Where does Anna live?\n"))).doc
    assert doc.text == f"Where does Anna live?\t{CONTEXT}"
    assert [span.text for span in doc.spans["segments"]] == ["Where does Anna live?", CONTEXT]


def test_the_answer_of_squad_1_is_a_span_of_the_context(made):
    question = "Is Berlin where Anna lives?"
    doc = made("a.json", squad(asked("Berlin", question=question))).doc
    (span,) = doc.spans["answers"]
    assert (span.text, span.label_) == ("Berlin", "ANSWER")
    assert span.start_char == len(question) + 1 + CONTEXT.index("Berlin")
    assert kept(doc) == ["Berlin"]


def test_several_answers_keep_their_order_and_lose_repeats(made):
    texts = ["near the old garden", "Berlin", "in Berlin", "Berlin", "near the old garden"]
    doc = made("a.json", squad(asked(*texts))).doc
    assert answers(doc) == kept(doc) == ["near the old garden", "Berlin", "in Berlin"]


def test_the_same_words_at_two_places_are_two_answers(made):
    context = "Berlin is Berlin."
    doc = made("a.json", squad(asked(("Berlin", 10), ("Berlin", 0)), context=context)).doc
    assert [span.start_char - len("Where?\t") for span in doc.spans["answers"]] == [10, 0]
    assert kept(doc) == ["Berlin", "Berlin"]


def test_an_answer_inside_a_token_gets_the_token_and_keeps_its_words(made):
    start = CONTEXT.index("Berliner")
    out = made("a.json", squad(asked(("Berlin", start), ("liner", start + 3), "Berliner"), asked("Berlin"), asked()))
    assert answers(out.docs[0]) == ["Berliner"] * 3
    assert kept(out.docs[0]) == ["Berlin", "liner", "Berliner"]
    assert out.counts.widened == 1  # questions, not answers


@pytest.mark.parametrize(
    "question",
    [
        {"question": "Who?", "answers": []},
        {"question": "Who?", "answers": [], "is_impossible": True},
        {"question": "Who?", "is_impossible": True},
        {"question": "Who?", "answers": None, "is_impossible": True},
        {"question": "Who?", "answers": [], "is_impossible": True, "plausible_answers": [{"text": "Anna"}]},
    ],
)
def test_questions_without_an_answer_have_an_empty_group(made, question):
    out = made("a.json", squad(question))
    assert answers(out.doc) == kept(out.doc) == []
    assert (out.counts.answered, out.counts.unanswered, out.counts.ignored) == (0, 1, {})


@pytest.mark.parametrize(
    "question",
    [{"question": "Who?"}, {"question": "Who?", "answers": None}, {"question": "Who?", "is_impossible": False}],
)
def test_questions_nobody_has_answered_have_no_group(made, question):
    out = made("a.json", squad(question))
    assert [*out.doc.spans] == ["segments"]
    assert (out.counts.docs, out.counts.answered, out.counts.unanswered) == (1, 0, 0)


@pytest.mark.parametrize(
    "context",
    [
        "𝔄 e\u0301 👩‍👩‍👧 Berlin",  # UTF-16 units, bytes and characters differ
        "  two spaces, \t a tab and Berlin ",
        "a line\nand another: Berlin\r\n",
        "(Berlin)",
    ],
)
def test_offsets_are_characters_of_the_context(made, context):
    doc = made("a.json", squad(asked("Berlin", context=context), context=context)).doc
    assert doc.text == f"Where?\t{context}"
    assert answers(doc) == ["Berlin"]


@pytest.mark.parametrize(("unit", "start"), [("utf16", 3), ("bytes", 5)])
def test_offsets_may_count_other_units(made, unit, start):
    context = "😀 Berlin"
    question = {**asked("Berlin", context=context), "answers": [{"text": "Berlin", "answer_start": start}]}
    content = squad(question, context=context)
    message = rf"found the answer 'Berlin', but .* at answer_start {start}; the offset fits .*fix: .*--offsets {unit}\)"
    with pytest.raises(DataError, match=message):
        made("a.json", content)
    assert answers(made("a.json", content, offsets=unit).doc) == ["Berlin"]


def test_articles_paragraphs_and_questions_stay_in_order(made):
    articles = [
        {"paragraphs": [{"context": f"{article}{place}", "qas": [{"question": q} for q in "xy"]} for place in "12"]}
        for article in "ab"
    ]
    docs = made("a.json", json.dumps({"data": articles})).docs
    assert [doc.text for doc in docs] == [f"{q}\t{a}{p}" for a in "ab" for p in "12" for q in "xy"]


def test_a_byte_order_mark_indents_and_windows_line_ends(made):
    content = json.dumps(json.loads(squad(asked("Berlin"))), indent=1).replace("\n", "\r\n")
    assert answers(made("a.JSON", b"\xef\xbb\xbf" + content.encode()).doc) == ["Berlin"]


def test_format_goes_before_the_ending(made):
    assert answers(made("a.txt", squad(asked("Berlin")), format="squad").doc) == ["Berlin"]
    assert made("a.json", jsonl({"text": "a"}), format="jsonl").doc.text == "a"


def test_a_context_over_spacys_max_length(made):
    context = "word " * 200_001 + "Berlin"
    assert answers(made("a.json", squad(asked("Berlin", context=context), context=context)).doc) == ["Berlin"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(st.sampled_from("ab .,'-\n\t\u00a0é👍")).filter(str.strip),
    st.text(st.sampled_from("ab ?'👍"), min_size=1).filter(str.strip),
    st.data(),
)
def test_answers_come_back_from_any_place(made, context, question, data):
    start = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(start + 1, len(context)))
    text = context[start:end]
    if not text.strip():
        return
    doc = made("a.json", squad(asked((text, start), question=question), context=context)).doc
    (span,) = doc.spans["answers"]
    first = len(question.strip()) + 1
    inner = first + end - len(text.lstrip()), first + start + len(text.rstrip())
    assert kept(doc) == [text.strip()]
    assert span.start_char <= inner[0] < inner[1] <= span.end_char
    assert span.start >= doc.spans["segments"][1].start
    assert all(token.idx < first + end and first + start < token.idx + len(token) for token in span)


# --- the report


def test_counts_of_files_and_of_all(tmp_path):
    train, dev = tmp_path / "train.json", tmp_path / "dev.json"
    inside = ("Berlin", CONTEXT.index("Berliner"))
    train.write_text(squad(asked("Berlin"), asked("Anna", "Bob"), asked(inside), asked(), {"question": "Who?"}))
    dev.write_text(squad(asked(inside), asked(is_impossible=True)))
    report = convert([train, dev], tmp_path / "out")
    counts = [file.counts for file in report.files] + [report.total]
    assert [(c.records, c.docs) for c in counts] == [(5, 5), (2, 2), (7, 7)]
    assert [(c.answered, c.unanswered, c.widened) for c in counts] == [(3, 1, 1), (1, 1, 1), (4, 2, 2)]
    assert report.total.categories == report.total.entities == report.total.ignored == {}


def test_other_keys_are_counted_at_each_level(made):
    question = {**asked("Berlin", is_impossible=False), "source": "x"}
    paragraph = {"context": CONTEXT, "qas": [question, question], "document_id": 3}
    data = {"version": "1.1", "data": [{"title": "t", "url": "u", "paragraphs": [paragraph]}], "licence": "MIT"}
    out = made("a.json", json.dumps(data))
    assert out.counts.ignored == {"document_id": 1, "licence": 1, "source": 2, "url": 1}


# --- errors

QUESTION = {"question": "Where?", "answers": [{"text": "Berlin", "answer_start": 14}]}
WHERE, AT = "a.json, data[0], paragraphs[0], qas[0]", "a.json, data[0], paragraphs[0], qas[0], answers[0]"


def paragraph(**content):
    return json.dumps({"data": [{"paragraphs": [content]}]})


def bad(**change):
    return squad({**QUESTION, **change})


def bad_answer(text, start):
    return bad(answers=[{"text": text, "answer_start": start}])


BAD = {
    "cut off": (squad(QUESTION)[:-5], "a.json", "invalid JSON", "cut off"),
    "deep": ("[" * 100_000, "a.json", "invalid JSON", "cut off"),
    "blank": (" \n", "a.json", "no records", "check how"),
    "list": (json.dumps([QUESTION]), "a.json", "JSON of an unknown form, with ['question', 'answers'", "--format"),
    "number": ("3", "a.json", "JSON of an unknown form, with no objects", "--format"),
    "data type": ('{"data": {"a": 1}}', "a.json", "'data': {'a': 1}", "this form"),
    "article type": ('{"data": ["a"]}', "a.json", "'data': ['a']", "this form"),
    "no paragraphs": ('{"data": [{}]}', "a.json, data[0]", "no 'paragraphs'", "this form"),
    "no questions": (paragraph(context="a"), "a.json, data[0], paragraphs[0]", "no 'qas'", "this form"),
    "no context": (paragraph(qas=[QUESTION]), "a.json, data[0], paragraphs[0]", "'context': None", "fill it in"),
    "empty context": (squad(QUESTION, context=" "), "a.json, data[0], paragraphs[0]", "'context': ' '", "fill it in"),
    "no question": (squad({"answers": []}), WHERE, "'question': None", "delete this question"),
    "empty question": (bad(question=" \n"), WHERE, "'question': ' \\n'", "delete this question"),
    "question type": (bad(question=3), WHERE, "'question': 3", "delete this question"),
    "answers type": (bad(answers="Berlin"), WHERE, "'answers': 'Berlin'", "this form"),
    "answer type": (bad(answers=["Berlin"]), WHERE, "'answers': ['Berlin']", "this form"),
    "no start": (bad(answers=[{"text": "Berlin"}]), AT, "{'text': 'Berlin'}", "first character"),
    "start as text": (bad_answer("Berlin", "14"), AT, "'answer_start': '14'", "first character"),
    "start as float": (bad_answer("Berlin", 14.0), AT, "'answer_start': 14.0", "first character"),
    "start as truth": (bad_answer("A", True), AT, "'answer_start': True", "first character"),
    "empty answer": (bad_answer(" ", 4), AT, "{'text': ' '", "first character"),
    "wrong start": (bad_answer("Berlin", 15), AT, "'Berlin', but 'erlin,' at answer_start 15; the text begins at 14",
                    "not bytes or UTF-16"),
    "negative start": (bad_answer("Berlin", -1), AT, "at answer_start -1; the text begins at 14", "from 0"),
    "behind the end": (bad_answer("Berlin", 999), AT, "but '' at answer_start 999; the text begins at 14", "from 0"),
    "nowhere": (bad_answer("Paris", 14), AT, "but 'Berli' at answer_start 14; the text is nowhere", "from 0"),
    "other case": (bad_answer("berlin", 14), AT, "the text is nowhere in the context", "from 0"),
    "both": (bad(is_impossible=True), WHERE, "the answer 'Berlin' beside is_impossible = true", "delete one"),
    "none": (bad(answers=[], is_impossible=False), WHERE, "no answers beside is_impossible = false", "leave out both"),
    "no bool": (bad(is_impossible="true"), WHERE, "'is_impossible': 'true'", "correct it"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "where", "found", "fix"), BAD.values(), ids=BAD)
def test_errors_say_where_what_and_how_to_fix(made, content, where, found, fix):
    with pytest.raises(DataError) as caught:
        made("a.json", content)
    assert_says(caught.value, f"/{where}", found, fix)
    assert len(str(caught.value)) < 700


def test_errors_name_the_question_by_its_id(made):
    with pytest.raises(DataError, match=r"a\.json: question 'q-7', answers\[0\]: found the answer 'Berlin'"):
        made("a.json", squad(asked("Anna"), asked(("Berlin", 3), id="q-7")))


def test_a_tab_in_a_question_is_an_error(made):
    with pytest.raises(DataError, match=r"a\.json: question 'q1': found a tab in the first of two texts.*a space"):
        made("a.json", squad(asked("Berlin", question="Where\tis it?")))


@pytest.mark.parametrize("content", ["", '{"data": []}', '{"data": [{"paragraphs": []}]}', squad()])
def test_no_question_is_no_data(made, content):
    with pytest.raises(DataError, match=r"a\.json: found no records"):
        made("a.json", content)


@pytest.mark.parametrize("texts", [{"context": "Berlin \ud83d"}, {"question": "Where \ud83d?"}])
def test_half_a_surrogate_pair_is_an_error(made, texts):
    one = {"question": "Where?", "context": "Berlin", **texts}
    with pytest.raises(DataError, match="half a surrogate pair"):
        made("a.json", squad(asked(("Berlin", 0), question=one["question"]), context=one["context"]))
