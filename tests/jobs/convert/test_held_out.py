from __future__ import annotations

from pathlib import Path

import pytest
import spacy
from convert_helpers import ents, jsonl, load
from spacy.tokens import DocBin

from spacy_bertft import pair_doc, question_doc
from spacy_bertft.convert import convert
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.convert.held_out import held_out

NLP = spacy.blank("en")


def docs(*texts):
    return [NLP.make_doc(text) for text in texts]


def texts(part):
    return [doc.text for doc in part]


NUMBERED = [f"text {number}" for number in range(50)]


@pytest.mark.parametrize(("share", "count"), [(0.2, 10), (0.5, 25), (0.001, 1), (0.999, 49)])
def test_each_part_has_its_share_in_the_given_order(share, count):
    train, dev = map(texts, held_out(docs(*NUMBERED), share, "a"))
    assert (len(train), len(dev)) == (50 - count, count)
    assert [text for text in NUMBERED if text in dev] == dev
    assert [text for text in NUMBERED if text not in dev] == train


def test_parts_hardly_change_when_texts_are_added():
    _, before = held_out(docs(*NUMBERED), 0.2, "a")
    _, after = held_out(docs("new", *reversed(NUMBERED)), 0.2, "a")
    assert len(set(texts(before)) & set(texts(after))) >= 9
    assert texts(before) != NUMBERED[:10]


def test_equal_texts_stay_together():
    train, dev = map(texts, held_out(docs(*NUMBERED * 3), 0.2, "a"))
    assert not set(train) & set(dev)
    assert len(dev) == 30


def test_pairs_with_the_same_first_text_and_questions_on_the_same_context_stay_together():
    pairs = [pair_doc(NLP, f"first {n % 10}", f"second {n}") for n in range(40)]
    train, dev = held_out(pairs, 0.2, "a")
    firsts = [{doc.spans["segments"][0].text for doc in part} for part in (train, dev)]
    assert not firsts[0] & firsts[1]
    assert len(dev) == 8
    questions = [question_doc(NLP, f"Question {n}?", f"Context {n % 10}.") for n in range(40)]
    for doc in questions:
        doc.spans["answers"] = []
    train, dev = held_out(questions, 0.2, "a")
    contexts = [{doc.spans["segments"][1].text for doc in part} for part in (train, dev)]
    assert not contexts[0] & contexts[1]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 20.0, float("nan")])
def test_shares_that_leave_a_part_empty_are_refused(share):
    with pytest.raises(ConfigError, match=r"dev_share: found .*; expected a number between 0 and 1; fix: "):
        held_out(docs("a", "b"), share, "a")


@pytest.mark.parametrize(("given", "found"), [(["a"], "one text"), (["a", "a"], "2 texts that are equal")])
def test_texts_that_can_not_be_divided(given, found):
    with pytest.raises(DataError, match=rf"x\.json: found {found}; expected at least two .*fix: annotate"):
        held_out(docs(*given), 0.2, "x.json")


# --- as `convert` does it


def put(path: Path, content: str) -> Path:
    path.write_text(content, "utf-8")
    return path


def records(n, start=0):
    return [{"text": f"Ada met {k}", "spans": [[0, 3, "PER"]], "label": "ab"[k % 2]} for k in range(start, start + n)]


def test_all_inputs_are_divided_together(tmp_path):
    one = put(tmp_path / "a.jsonl", jsonl(*records(15)))
    other = put(tmp_path / "b.jsonl", jsonl(*records(5, 15), {"text": "Bob", "spans": [[0, 1, "X"]], "label": "c"}))
    report = convert([one, other], tmp_path / "out", dev_share=0.2)
    assert report.parts == {tmp_path / "out/train.spacy": 17, tmp_path / "out/dev.spacy": 4}
    assert [file.counts.docs for file in report.files] == [15, 6]
    assert (report.total.entities, report.total.misaligned) == ({"PER": 20}, 1)
    train, dev = (load(tmp_path / "out" / name) for name in ("train.spacy", "dev.spacy"))
    assert (len(train), len(dev)) == (17, 4)
    assert all(set(doc.cats) == {"a", "b", "c"} for doc in train + dev)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dev.spacy", "train.spacy"]


def test_spacy_files_may_be_among_them(tmp_path):
    convert([put(tmp_path / "a.jsonl", jsonl(*records(10)))], tmp_path)
    report = convert([tmp_path / "a.spacy"], tmp_path / "out", dev_share=0.3)
    assert (report.files[0].format, report.total.entities, report.total.categories) == (
        "spaCy",
        {"PER": 10},
        {"a": 5, "b": 5},
    )
    parts = [load(path) for path in report.parts]
    assert [len(part) for part in parts] == [7, 3]
    assert all(ents(doc) == [("Ada", "PER")] for part in parts for doc in part)


def test_nothing_is_written_where_something_is_wrong(tmp_path):
    good = put(tmp_path / "a.jsonl", jsonl(*records(5)))
    out = tmp_path / "out"
    for inputs, output, options, message in (
        ([good], out, {"to": "prodigy"}, r"dev_share: found 0\.2 with to='prodigy'; expected .* fix: leave one out"),
        ([good], tmp_path / "out.spacy", {}, r"found the name of a file; expected a folder, which gets train\.spacy"),
        ([good], good, {}, "found the name of a file"),
        ([], out, {}, "inputs: found none"),
        ([good], out, {"dev_share": 2.0}, "between 0 and 1"),
        ([good, put(tmp_path / "b.jsonl", "{")], out, {}, r"b\.jsonl:1: found invalid JSON"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            convert(inputs, output, **{"dev_share": 0.2, **options})
    assert not out.exists()


def test_an_input_is_not_replaced(tmp_path):
    DocBin(docs=docs("a", "b")).to_disk(tmp_path / "train.spacy")
    with pytest.raises(ConfigError, match=r"train\.spacy: found an input that would be replaced; .*fix: "):
        convert([tmp_path / "train.spacy"], tmp_path, dev_share=0.5)


def test_the_splits_of_a_data_set_are_not_mixed(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(6)])
    datasets.DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / "set")
    with pytest.raises(ConfigError, match=r"set: found .*set:train, .*set:validation; expected one set of texts"):
        convert([tmp_path / "set"], tmp_path / "out", dev_share=0.5)
    report = convert([Path(f"{tmp_path}/set:train")], tmp_path / "out", dev_share=0.5)
    assert list(report.parts.values()) == [3, 3]
