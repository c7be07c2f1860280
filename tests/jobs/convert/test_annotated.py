"""Files for other tools: each format that is written is read back as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import spacy
from convert_helpers import ents, iobs, load
from spacy.tokens import Doc, DocBin, SpanGroup

from spacy_bertft.components.doc_values import set_value, value_of
from spacy_bertft.convert import convert
from spacy_bertft.errors import ConfigError, DataError

TEXTS = ("😊 Ada Lovelace met\nBob's friend in Zürich.", "Nobody is here.", "Ada  ran.")
ENTS = ([(2, 14, "PER"), (19, 22, "PER"), (35, 41, "LOC")], [], [(0, 3, "PER")])
CATS = ({"good": 1.0, "bad": 0.0}, {"good": 0.0, "bad": 1.0}, {"good": 1.0, "bad": 0.0})
ALL = ("jsonl", "label-studio", "doccano", "prodigy", "brat", "conll")
OF_CATEGORIES = ("jsonl", "label-studio", "doccano", "prodigy")


def docs(*, entities=True, cats=False, values=False) -> list[Doc]:
    nlp = spacy.blank("en")
    made = [nlp(text) for text in TEXTS]
    for place, doc in enumerate(made):
        if entities:
            doc.set_ents([doc.char_span(a, b, label) for a, b, label in ENTS[place]])
        if cats:
            doc.cats = dict(CATS[place])
        if values:
            set_value(doc, place + 0.5)
    return made


@pytest.fixture
def back(tmp_path):
    """`back(docs, to)` writes Docs for a tool, reads what was written, and gives the Docs and both reports."""

    def run(given, to, **options):
        DocBin(docs=given).to_disk(tmp_path / "corpus.spacy")
        written = convert([tmp_path / "corpus.spacy"], tmp_path / to, to=to, **options)
        target = written.files[0].target
        report = convert([target], tmp_path / f"{to}-back", **options)
        return load(report.files[0].target), written, report

    return run


def offsets(doc):
    return [(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents]


@pytest.mark.parametrize("to", [name for name in ALL if name != "conll"])
def test_texts_and_entities_come_back(back, to):
    found, written, report = back(docs(), to)
    assert [doc.text for doc in found] == list(TEXTS)
    assert [offsets(doc) for doc in found] == [list(one) for one in ENTS]
    assert [iobs(doc) for doc in found] == [iobs(doc) for doc in docs()]
    assert written.total.entities == report.total.entities == {"LOC": 1, "PER": 3}
    assert (written.total.docs, written.total.dropped, report.total.dropped) == (3, {}, {})
    names = {"jsonl": "JSON Lines", "label-studio": "Label Studio", "prodigy": "Prodigy"}
    assert (written.files[0].format, report.files[0].format) == ("spaCy", names.get(to, to))


def test_tokens_and_entities_come_back_from_conll(back):
    found, _, report = back(docs(), "conll")
    expected = [[token.text for token in doc if token.text.strip()] for doc in docs()]
    assert [[token.text for token in doc] for doc in found] == expected
    assert [ents(doc) for doc in found] == [ents(doc) for doc in docs()]
    assert report.files[0].format == "CoNLL"


@pytest.mark.parametrize("to", OF_CATEGORIES)
@pytest.mark.parametrize("entities", [True, False])
def test_categories_come_back(back, to, entities):
    found, *_ = back(docs(entities=entities, cats=True), to)
    assert [doc.cats for doc in found] == [dict(one) for one in CATS]
    assert [doc.has_annotation("ENT_IOB") for doc in found] == [entities] * 3


@pytest.mark.parametrize("to", ["jsonl", "label-studio"])
def test_numbers_come_back(back, to):
    found, *_ = back(docs(values=True), to)
    assert [value_of(doc) for doc in found] == [0.5, 1.5, 2.5]


def test_pairs_and_scores_of_categories_come_back_from_jsonl(tmp_path):
    source = tmp_path / "pairs.jsonl"
    source.write_text(json.dumps({"first": "a", "second": "b", "cats": {"x": 0.25}}) + "\n", "utf-8")
    convert([source], tmp_path / "pairs.spacy")
    report = convert([tmp_path / "pairs.spacy"], tmp_path / "out", to="jsonl")
    assert json.loads(report.files[0].target.read_text("utf-8")) == json.loads(source.read_text("utf-8"))


@pytest.mark.parametrize("to", [name for name in ALL if name != "conll"])
def test_overlapping_spans_of_a_group_come_back(back, to):
    (doc, *_) = docs(entities=False)
    doc.spans["sc"] = [doc.char_span(2, 5, "A"), doc.char_span(2, 14, "B"), doc.char_span(6, 14, "A")]
    found, written, _ = back([doc], to, span_group="sc")
    group = found[0].spans["sc"]
    assert {(one.start_char, one.end_char, one.label_) for one in group} == {(2, 5, "A"), (2, 14, "B"), (6, 14, "A")}
    assert written.total.entities == {"A": 2, "B": 1}


def test_conll_holds_no_overlapping_spans(back):
    (doc, *_) = docs(entities=False)
    doc.spans["sc"] = [doc.char_span(2, 5, "A")]
    with pytest.raises(DataError, match=r"corpus\.spacy: text 1: found spans of the group 'sc'; .*--to jsonl"):
        back([doc], "conll", span_group="sc")


LOSSES = {
    "categories": ("brat", {"cats": True}, "texts with categories", 3),
    "numbers": ("doccano", {"values": True}, "texts with a number", 3),
    "both": ("conll", {"values": True}, "texts with a number", 3),
}


@pytest.mark.parametrize(("to", "held", "kind", "count"), LOSSES.values(), ids=LOSSES)
def test_what_a_format_does_not_hold_is_counted_and_an_error_if_strict(back, to, held, kind, count):
    _, written, _ = back(docs(**held), to)
    assert written.total.dropped == {kind: count}
    with pytest.raises(ConfigError, match="expected a free path"):
        back(docs(**held), to)


def test_strict(tmp_path):
    DocBin(docs=docs(values=True)).to_disk(tmp_path / "corpus.spacy")
    with pytest.raises(
        DataError,
        match=r"corpus\.spacy: text 1: found texts with a number \(1\); expected nothing that can.t be kept.*fix: ",
    ):
        convert([tmp_path / "corpus.spacy"], tmp_path / "out", to="brat", strict=True)
    assert not (tmp_path / "out" / "corpus").exists()


def test_other_losses(back):
    first, second, third = docs()
    first.spans["sc"] = [first.char_span(2, 5, "A")]
    second.set_ents([], default="missing", missing=[second[0:1]])
    third.set_ents([], missing=[third[0:1]], default="outside")
    first.cats = {"x": 0.75}
    first.spans["answers"] = SpanGroup(first, name="answers", spans=[])
    _, written, _ = back([first, second, third], "doccano")
    assert written.total.dropped == {
        "scores of categories other than 0 and 1": 1,
        "spans of the group 'sc'": 1,
        "texts with answers": 1,
        "texts without annotation of categories, which then read as without any": 2,
        "texts without annotation of entities, which then read as without any": 1,
        "tokens without annotation, which then read as O": 1,
    }


def test_pairs_alone_can_not_be_written_for_a_tool(tmp_path):
    source = tmp_path / "pairs.jsonl"
    source.write_text(json.dumps({"first": "a", "second": "b", "label": "x"}) + "\n", "utf-8")
    with pytest.raises(DataError, match=r"pairs\.jsonl: found nothing that can be written as brat; .*--to"):
        convert([source], tmp_path / "out", to="brat")
    assert list((tmp_path / "out").iterdir()) == []


def test_from_one_tool_to_another(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"text": "Ada met Bob", "label": [[0, 3, "PER"], [9, 11, "X"]]}) + "\n", "utf-8")
    report = convert([source], tmp_path / "out", to="prodigy")
    (task,) = map(json.loads, report.files[0].target.read_text("utf-8").splitlines())
    assert [task["text"][one["start"] : one["end"]] for one in task["spans"]] == ["Ada"]
    assert [(one["token_start"], one["token_end"]) for one in task["spans"]] == [(0, 0)]
    assert (report.total.misaligned, report.total.records, report.total.entities) == (1, 1, {"PER": 1})


def test_what_is_there_is_not_replaced(tmp_path):
    DocBin(docs=docs()).to_disk(tmp_path / "a.spacy")
    (tmp_path / "a.jsonl").write_text("annotations", "utf-8")
    with pytest.raises(ConfigError, match=r"a\.jsonl: found something there; expected a free path.*fix: "):
        convert([tmp_path / "a.spacy"], tmp_path, to="jsonl")
    assert (tmp_path / "a.jsonl").read_text("utf-8") == "annotations"


def test_spacy_files_are_not_converted_to_themselves_and_may_be_broken(tmp_path):
    broken = tmp_path / "a.spacy"
    broken.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"a\.spacy: found a \.spacy file; .*fix: .*--to"):
        convert([broken], tmp_path / "out")
    with pytest.raises(DataError, match=r"a\.spacy: found a file that can't be read .*; fix: make it again"):
        convert([broken], tmp_path / "out", to="jsonl")


def test_an_unknown_tool(tmp_path):
    with pytest.raises(ConfigError, match=r"to: found 'excel'; expected one of spacy, .*label-studio"):
        convert([Path("a.spacy")], tmp_path, to="excel")


def test_brat_gets_its_configuration(back, tmp_path):
    back(docs(), "brat")
    folder = tmp_path / "brat" / "corpus"
    assert sorted(path.name for path in folder.iterdir())[:3] == ["annotation.conf", "text-1.ann", "text-1.txt"]
    assert (folder / "annotation.conf").read_text("utf-8").startswith("[entities]\nLOC\nPER\n")
    assert (folder / "text-1.ann").read_text("utf-8").splitlines()[0] == "T1\tPER 2 14\tAda Lovelace"


def one_unknown(**more):
    """Three Docs, of which the second has categories but no annotation of entities."""
    made = docs(**more)
    made[1] = spacy.blank("en")(TEXTS[1])
    made[1].cats = dict(CATS[1])
    return made


@pytest.mark.parametrize("to", ["label-studio", "doccano", "conll"])
def test_texts_without_annotation_of_entities_are_counted_if_they_then_read_as_without_any(back, to):
    _, written, _ = back(one_unknown(cats=True), to)
    assert written.total.dropped["texts without annotation of entities, which then read as without any"] == 1


def test_texts_without_annotation_get_no_file_of_annotations_in_brat(back, tmp_path):
    found, written, report = back(one_unknown(), "brat")
    assert [doc.text for doc in found] == [TEXTS[0], TEXTS[2]]
    assert report.total.rejected == 1
    assert (tmp_path / "brat" / "corpus" / "text-2.txt").exists()
    assert written.total.dropped == {"texts with categories": 1}


@pytest.mark.parametrize("to", ["doccano", "label-studio"])
def test_texts_without_categories_are_counted_if_they_then_read_as_without_any(back, to):
    made = docs(cats=True)
    made[0].cats = {"good": 1.0, "bad": 1.0}
    made[1].cats = {}
    _, written, _ = back(made, to)
    assert written.total.dropped == {"texts without annotation of categories, which then read as without any": 1}


def test_entities_of_pairs_are_counted_as_dropped(tmp_path):
    source = tmp_path / "pairs.jsonl"
    source.write_text(json.dumps({"first": "Ada ran", "second": "b", "label": "x"}) + "\n", "utf-8")
    convert([source], tmp_path / "pairs.spacy")
    (doc,) = load(tmp_path / "pairs.spacy")
    doc.set_ents([doc.char_span(0, 3, "PER")])
    DocBin(docs=[doc]).to_disk(tmp_path / "pairs.spacy")
    report = convert([tmp_path / "pairs.spacy"], tmp_path / "out", to="jsonl")
    assert (report.total.entities, report.total.dropped) == ({}, {"entities of pairs of texts": 1})


@pytest.mark.parametrize("label", ["first name", "A,B", "A|B", "[A]", "#A"])
def test_labels_that_brat_can_not_read(back, tmp_path, label):
    (doc, *_) = docs(entities=False)
    doc.set_ents([doc.char_span(2, 5, label)])
    with pytest.raises(DataError, match=r"corpus\.spacy: text 1: found the label .*; expected .*; fix: rename"):
        back([doc], "brat")
    assert list((tmp_path / "brat").iterdir()) == []


@pytest.mark.parametrize("word", ["a\tb", "a\nb", "a\rb", "-DOCSTART-", "-DOCSTART-x"])
def test_tokens_that_conll_can_not_hold(back, word):
    doc = Doc(spacy.blank("en").vocab, words=["Ada", word], ents=["B-PER", "O"])
    with pytest.raises(DataError, match=r"corpus\.spacy: text 1: found the token .*; expected .*; fix: "):
        back([doc], "conll")
