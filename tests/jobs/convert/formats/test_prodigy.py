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
    with pytest.raises(DataError, match=r"found no accepted answer among 2; expected at least one text.*; fix: .*--incorrect-group"):
        convert([path], tmp_path / "out")
