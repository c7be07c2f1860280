"""Label Studio's JSON and JSON-MIN, as its server exports them."""

from __future__ import annotations

import json

import pytest
from convert_helpers import ents, iobs

from spacy_bertft.errors import DataError

TEXT = "Ada met Bob"


def region(start, end, *labels, text=TEXT):
    value = {"start": start, "end": end, "text": text[start:end], "labels": list(labels)}
    return {
        "value": value,
        "id": f"r{start}",
        "from_name": "label",
        "to_name": "text",
        "type": "labels",
        "origin": "manual",
    }


def answer(name, kind, value):
    return {"value": {kind: value}, "id": name, "from_name": name, "to_name": "text", "type": kind, "origin": "manual"}


def annotation(*results, **more):
    return {
        "id": 1,
        "completed_by": 1,
        "result": list(results),
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2024-05-01T10:00:00Z",
        "lead_time": 3.5,
        **more,
    }


def task(*annotations, text=TEXT, **data):
    return {
        "id": 7,
        "annotations": list(annotations),
        "file_upload": "x.csv",
        "drafts": [],
        "predictions": [],
        "data": data or {"text": text},
        "meta": {},
        "project": 2,
    }


def minimal(text=TEXT, **answers):
    own = {"annotator": 1, "annotation_id": 4, "created_at": "", "updated_at": "", "lead_time": 2.5}
    return {"text": text, "id": 7, **answers, **own}


@pytest.fixture
def tasks(made):
    return lambda *items, **options: made("export.json", json.dumps(items), **options)


def test_spans_categories_and_numbers(tasks):
    results = (region(0, 3, "PER"), region(8, 11, "PER"), answer("tone", "choices", ["good"]))
    out = tasks(
        task(annotation(*results, answer("stars", "rating", 4))),
        task(annotation(answer("tone", "choices", ["bad"]), answer("stars", "rating", 1))),
    )
    first, second = out.docs
    assert out.format == "Label Studio"
    assert ents(first) == [("Ada", "PER"), ("Bob", "PER")]
    assert iobs(second) == ["O", "O", "O"]
    assert [doc.cats for doc in out.docs] == [{"bad": 0.0, "good": 1.0}, {"bad": 1.0, "good": 0.0}]
    assert [doc.spans["value"].attrs["value"] for doc in out.docs] == [4.0, 1.0]
    assert out.counts.dropped == out.counts.ignored == {}


def test_json_min_is_the_same(tasks):
    spans = [region(0, 3, "PER")["value"]]
    items = (minimal(label=spans, tone="good", stars=[{"rating": 4}]), minimal(tone="bad", stars=[{"rating": 1}]))
    out = tasks(*items, *items)
    first, second, *_ = out.docs
    assert out.format == "Label Studio"
    assert ents(first) == [("Ada", "PER")]
    assert iobs(second) == ["O", "O", "O"]
    assert first.cats == {"bad": 0.0, "good": 1.0}
    assert first.spans["value"].attrs["value"] == 4.0


@pytest.mark.parametrize(
    "items",
    [
        [task(annotation(answer("topic", "choices", given))) for given in (["a", "b"], ["a"])],
        [minimal(topic={"choices": ["a", "b"]}), minimal(topic="a")],
    ],
    ids=["json", "min"],
)
def test_two_choices_of_a_text_make_all_categories_independent(tasks, items):
    assert [doc.cats for doc in tasks(*items).docs] == [{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 0.0}]


def test_the_user_may_say_whether_categories_exclude_each_other(tasks):
    of_one = [task(annotation(answer("topic", "choices", [name]))) for name in "ab"] + [task(annotation())]
    assert [doc.cats for doc in tasks(*of_one).docs][2] == {}
    assert [doc.cats for doc in tasks(*of_one, categories="exclusive").docs][2] == {}
    independent = [doc.cats for doc in tasks(*of_one, categories="independent").docs]
    assert independent == [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}, {"a": 0.0, "b": 0.0}]
    of_two = task(annotation(answer("topic", "choices", ["a", "b"])))
    assert tasks(of_two, *of_one, categories="independent").docs[0].cats == {"a": 1.0, "b": 1.0}
    with pytest.raises(DataError, match=r"record 1 .*found the categories 'a', 'b'; .*fix: .*--categories"):
        tasks(of_two, *of_one, categories="exclusive")


def test_one_of_several_questions_can_be_chosen(tasks):
    item = task(annotation(answer("tone", "choices", ["good"]), answer("topic", "choices", ["sports"])))
    assert tasks(item).doc.cats == {"good": 1.0, "sports": 1.0}
    out = tasks(item, label_key="topic")
    assert out.doc.cats == {"sports": 1.0}
    assert out.counts.dropped == {"choices of the control 'tone'": 1}


def test_of_several_annotations_the_ground_truth_counts_or_else_the_newest(tasks):
    old, new = annotation(region(0, 3, "OLD")), annotation(region(0, 3, "NEW"), created_at="2024-06-01T10:00:00Z")
    out = tasks(task(new, old))
    assert ents(out.doc) == [("Ada", "NEW")]
    assert out.counts.dropped == {"further annotations of a task": 1}
    assert ents(tasks(task(new, {**old, "ground_truth": True})).doc) == [("Ada", "OLD")]


def test_tasks_that_were_skipped_or_not_annotated_are_counted(tasks):
    out = tasks(task(), task(annotation(was_cancelled=True)), task(annotation(region(0, 3, "PER"))))
    assert (len(out.docs), out.counts.rejected) == (1, 2)


def test_what_can_not_be_kept_is_counted(tasks):
    html = {"start": "/p[1]/text()[1]", "end": "/p[1]/text()[1]", "hypertextlabels": ["X"]}
    results = (
        region(0, 3),
        {"from_id": "a", "to_id": "b", "type": "relation"},
        {**answer("h", "hypertextlabels", []), "value": html},
        answer("note", "textarea", ["hm"]),
    )
    out = tasks(task(annotation(*results, region(8, 11, "PER"))))
    assert out.counts.dropped == {
        "answers of the kind 'textarea'": 1,
        "relations": 1,
        "spans of HTML or dialogues, whose offsets are not those of a text": 1,
        "spans without a label": 1,
    }
    assert iobs(out.doc) == ["", "O", "B-PER"]  # the span without a label is something, but not known


def test_the_text_may_have_another_name(tasks):
    assert tasks(task(annotation(), body=TEXT, n=3)).doc.text == TEXT
    assert tasks(task(annotation(), body=TEXT, title="A"), text_key="body").doc.text == TEXT
    with pytest.raises(DataError, match=r"record 1 \(task 7\): found no text .*'title'.*fix: .*--text-key"):
        tasks(task(annotation(), body=TEXT, title="A"))


def test_two_labels_of_a_span_overlap(tasks):
    item = task(annotation(region(0, 3, "A", "B")))
    with pytest.raises(DataError, match=r"task 7\): found overlapping entities .*'A'.* and .*'B'.*--span-group"):
        tasks(item)
    doc = tasks(item, span_group="sc").doc
    assert [span.label_ for span in doc.spans["sc"]] == ["A", "B"]


def test_numbers_of_two_controls_are_an_error_unless_one_is_named(tasks):
    item = task(annotation(answer("a", "number", 1), answer("b", "number", 2)))
    with pytest.raises(DataError, match=r"numbers of 2 controls, a, b; .*--value-key a"):
        tasks(item)
    assert tasks(item, value_key="b").doc.spans["value"].attrs["value"] == 2.0


def test_offsets_in_utf16_units_are_detected_by_the_spans_text(tasks):
    text = "😊 Ada met Bob"
    shifted = {**region(3, 6, "PER", text=text), "value": {"start": 3, "end": 6, "text": "Ada", "labels": ["PER"]}}
    item = task(annotation(shifted), text=text)
    with pytest.raises(DataError) as caught:
        tasks(item)
    assert "export.json: record 1 (task 7): found the span 'Ada' from 3 to 6, where the text has 'da '" in str(
        caught.value
    )
    assert "fit if they count UTF-16 units" in str(caught.value)
    assert str(caught.value).endswith("fix: set offsets to utf16 (--offsets utf16)")
    assert ents(tasks(item, offsets="utf16").doc) == [("Ada", "PER")]


def test_a_file_that_is_cut_off_says_so(made):
    content = json.dumps([task(annotation(region(0, 3, "PER")))] * 3)
    with pytest.raises(DataError, match=r"export\.json: found invalid JSON .*Label Studio's tasks; fix: .*cut off"):
        made("export.json", content[:-30])


def test_free_text_in_json_min_is_no_category(tasks):
    notes = ("ok", "a name", "who is it?", "see above")
    out = tasks(*(minimal(tone=tone, note=note) for tone, note in zip(("good", "bad") * 2, notes, strict=True)))
    assert out.docs[0].cats == {"bad": 0.0, "good": 1.0}
    kind = "strings of 'note', which look like free text (if they are categories, name it as label_key)"
    assert out.counts.dropped == {kind: 4}
    assert tasks(minimal(tone="good", note="ok"), label_key="tone").doc.cats == {"good": 1.0}


def test_the_text_of_json_min_may_follow_an_id_of_its_own(tasks):
    item = minimal(tone={"choices": ["good"]})
    assert tasks({"id": 3, **item}).doc.text == TEXT


def test_a_number_for_a_span_is_not_the_texts(tasks):
    own = answer("stars", "rating", 4)
    of_span = {**answer("stars", "rating", 1), "value": {"start": 0, "end": 3, "rating": 1}}
    out = tasks(task(annotation(region(0, 3, "PER"), own, of_span)))
    assert out.doc.spans["value"].attrs["value"] == 4.0
    assert out.counts.dropped == {"numbers for a span": 1}


def test_spans_without_a_label_have_offsets_as_the_others(tasks):
    text = "😊😊😊 Ada met"
    shifted = {**region(7, 10, text=text), "value": {"start": 7, "end": 10, "text": "Ada", "labels": []}}
    out = tasks(task(annotation(shifted), text=text), offsets="utf16")
    assert [token.text for token in out.doc if not token.ent_iob] == ["Ada"]


@pytest.mark.parametrize(
    "item",
    [
        {**task(), "annotations": ["x"]},
        {**task(), "annotations": 3},
        task({**annotation(), "result": ["x"]}),
        task(annotation({**region(0, 3, "PER"), "value": "x"})),
        task(annotation({**region(0, 3, "PER"), "value": {"start": 0, "end": 3, "labels": 3}})),
        minimal(tone={"choices": 3}),
    ],
)
def test_items_of_other_types(tasks, item):
    with pytest.raises(DataError, match=r"record 1 \(task 7\): found .*; expected .*; fix: export from Label Studio"):
        tasks(item)
