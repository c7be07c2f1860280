from __future__ import annotations

import re
from pathlib import Path

import pytest
from convert_helpers import ents, iobs, jsonl

from spacy_bertft.convert import convert
from spacy_bertft.errors import DataError

HASHES = {"_input_hash": 1, "_task_hash": 2}
SPAN = {"start": 0, "end": 3, "label": "PER", "token_start": 0, "token_end": 0}
TOKENS = [{"text": "Ada", "start": 0, "end": 3, "id": 0, "ws": True}]
OPTIONS = [{"id": "home", "text": "At home"}, {"id": "work", "text": "At work"}]


def task(text, answer, **others):
    return {"text": text, **HASHES, "meta": {}, "_view_id": "ner_manual", "_timestamp": 3, "answer": answer, **others}


@pytest.mark.parametrize("others", [{}, HASHES])
def test_only_accepted_answers_are_gold(made, others):
    records = [
        {"text": f"Ada {answer}", "spans": [SPAN], "answer": answer} for answer in ("accept", "reject", "ignore")
    ]
    out = made("a.jsonl", jsonl(*({**record, **others} for record in records)))
    assert out.doc.text == "Ada accept"
    assert ents(out.doc) == [("Ada", "PER")]
    assert (out.counts.rejected, out.counts.skipped, out.counts.docs) == (2, 0, 1)


def test_prodigys_own_keys_are_no_unused_ones(made):
    out = made("a.jsonl", jsonl(task("Ada ran", "accept", spans=[{**SPAN, "source": "x", "rank": 1}], tokens=TOKENS)))
    assert out.counts.ignored == {}
    assert iobs(out.doc) == ["B-PER", "O"]
    assert made("a.jsonl", jsonl(task("Ada", "accept", spans=[], relations=[], id=3))).counts.ignored == {
        "id": 1,
        "relations": 1,
    }


def test_elsewhere_they_are_unused(made):
    out = made("a.jsonl", jsonl({"text": "Ada", "tokens": TOKENS, "meta": {}, "answer": "yes"}))
    assert out.counts.ignored == {"answer": 1, "meta": 1, "tokens": 1}


@pytest.mark.parametrize("view", ["ner_manual", "spans_manual"])
def test_where_nothing_was_marked_there_are_no_entities(made, view):
    assert iobs(made("a.jsonl", jsonl(task("Nobody ran", "accept", _view_id=view))).doc) == ["O", "O"]
    assert iobs(made("a.jsonl", jsonl(task("Nobody ran", "accept", _view_id="text"))).doc) == ["", ""]


def test_a_yes_to_one_entity_says_nothing_of_the_other_tokens(made):
    suggestions = (
        task("Ada met Bob", "accept", spans=[SPAN], _view_id="ner"),
        task("Ada met Bob", "accept", spans=[SPAN], _is_binary=True),
    )
    for record in suggestions:
        assert iobs(made("a.jsonl", jsonl(record)).doc) == ["B-PER", "", ""]


def test_a_no_to_a_label_is_no_gold(made):
    records = [task(text, answer, label=label, _view_id="classification", spans=[SPAN])
               for text, answer, label in (("Ada 1", "accept", "home"), ("Ada 2", "reject", "home"),
                                           ("Ada 3", "accept", "work"))]  # fmt: skip
    out = made("a.jsonl", jsonl(*records))
    assert [doc.cats for doc in out.docs] == [{"home": 1.0, "work": 0.0}, {"home": 0.0, "work": 1.0}]
    assert out.counts.rejected == 1
    assert out.counts.ignored == {"spans": 2}  # shown to the annotator, who answered for the label
    assert [doc.has_annotation("ENT_IOB") for doc in out.docs] == [False, False]


def test_choices_are_labels(made):
    chosen = (("a", ["home", "work"]), ("b", []), ("c", ["home"]))
    records = [task(text, "accept", options=OPTIONS, accept=accept, _view_id="choice") for text, accept in chosen]
    out = made("a.jsonl", jsonl(*records, task("d", "reject", options=OPTIONS, accept=["work"])))
    assert [doc.cats for doc in out.docs] == [
        {"home": 1.0, "work": 1.0}, {"home": 0.0, "work": 0.0}, {"home": 1.0, "work": 0.0}
    ]  # fmt: skip
    assert (out.counts.rejected, out.counts.ignored) == (1, {})


@pytest.mark.parametrize("accept", [["work"], "work"])
def test_a_single_choice_is_one_exclusive_label(made, accept):
    style = {"options": OPTIONS, "config": {"choice_style": "single"}}
    records = [task("a", "accept", accept=accept, **style), task("b", "accept", accept=[], **style)]
    out = made("a.jsonl", jsonl(*records, {"text": "c", "label": "home"}))  # "label" is the same form
    assert [doc.cats for doc in out.docs] == [{"home": 0.0, "work": 1.0}, {"home": 1.0, "work": 0.0}]
    assert out.counts.rejected == 1  # "b": nothing was chosen


def test_a_key_that_options_name_is_theirs(made):
    records = [{"text": "a", "answer": "accept"}, {"text": "b", "answer": "reject"}]
    out = made("a.jsonl", jsonl(*records), label_key="answer")
    assert [doc.cats for doc in out.docs] == [{"accept": 1.0, "reject": 0.0}, {"accept": 0.0, "reject": 1.0}]


def suggestion(answer, start, end, label, text="Ada met Bob"):
    """A task of ner.teach."""
    span = {"start": start, "end": end, "text": text[start:end], "rank": 0, "label": label, "score": 0.5,
            "source": "model", "input_hash": 1}  # fmt: skip
    return task(text, answer, spans=[span], _view_id="ner", _task_hash=hash((start, label)))


def test_the_answers_for_one_text_are_one_text(made):
    answers = (
        suggestion("accept", 0, 3, "PER"),
        suggestion("reject", 8, 11, "ORG"),
        suggestion("accept", 8, 11, "PER"),
        suggestion("ignore", 4, 7, "PER"),
    )
    out = made("a.jsonl", jsonl(*answers))
    assert ents(out.doc) == [("Ada", "PER"), ("Bob", "PER")]
    assert iobs(out.doc)[1] == ""
    assert (out.counts.rejected, out.counts.incorrect) == (2, 0)


def test_rejected_spans_are_kept_if_asked(made):
    answers = (suggestion("accept", 0, 3, "PER"), suggestion("reject", 8, 11, "ORG"))
    out = made("a.jsonl", jsonl(*answers, suggestion("reject", 0, 3, "X", "Eve ran")), incorrect_group="wrong")
    first, second = out.docs
    assert (ents(first), iobs(first)) == ([("Ada", "PER")], ["B-PER", "", ""])
    assert [[(span.text, span.label_) for span in doc.spans["wrong"]] for doc in (first, second)] == [
        [("Bob", "ORG")],
        [("Eve", "X")],
    ]
    assert iobs(second) == ["", ""]
    assert (out.counts.rejected, out.counts.incorrect) == (0, 2)


def test_spans_that_were_accepted_and_rejected_are_dropped(made):
    answers = [suggestion(answer, 0, 3, "PER") for answer in ("accept", "reject")]
    out = made("a.jsonl", jsonl(*answers, suggestion("accept", 8, 11, "PER")))
    assert ents(out.doc) == [("Bob", "PER")]
    assert out.counts.dropped == {"spans that were accepted and rejected": 1}


def test_the_text_of_a_suggestion_is_compared(made):
    record = suggestion("accept", 0, 3, "PER")
    record["spans"][0]["text"] = "Eve"
    with pytest.raises(DataError, match=r"a\.jsonl:1: found the span 'Eve' from 0 to 3, where the text has 'Ada'"):
        made("a.jsonl", jsonl(record))


BAD = {
    "answer": (task("a", "yes"), "'answer': 'yes'", "accept, reject or ignore"),
    "option": (task("a", "accept", options=OPTIONS, accept=["x"]), "the choice 'x'", "'home', 'work'"),
    "accept": (task("a", "accept", options=OPTIONS, accept={"x": 1}), "'accept': {'x': 1}", "a list"),
    "several": (
        task("a", "accept", options=OPTIONS, accept=["home", "work"], config={"choice_style": "single"}),
        "2 choices",
        "one",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("record", "found", "expected"), BAD.values(), ids=BAD)
def test_errors(made, record, found, expected):
    with pytest.raises(DataError, match=rf"a\.jsonl:1: found .*{re.escape(found)}.*; expected .*{expected}.*; fix: "):
        made("a.jsonl", jsonl(record))


def test_a_file_of_rejected_answers_says_so(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl(task("a", "reject"), task("b", "ignore")), "utf-8")
    with pytest.raises(
        DataError, match=r"found no accepted answer among 2; expected at least one text.*; fix: .*--incorrect-group"
    ):
        convert([path], tmp_path / "out")


def test_categories_beside_a_suggestion_are_dropped_and_counted(made):
    records = [{**suggestion("accept", 0, 3, "PER"), "label": label} for label in ("PER", "news")]
    out = made("a.jsonl", jsonl(*records))
    assert (ents(out.doc), out.doc.cats) == ([("Ada", "PER")], {})
    assert out.counts.dropped == {"categories beside a suggested entity": 1}
