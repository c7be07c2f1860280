from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from convert_helpers import jsonl, load
from spacy.tokens import Doc
from spacy.vocab import Vocab

from spacy_bertft.convert import convert
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.convert import docs as write
from spacy_bertft.jobs.convert.formats import jsonl as jsonl_reader


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def test_labels_are_those_of_all_inputs(tmp_path):
    train = put(tmp_path / "train.jsonl", jsonl({"text": "a", "label": "x"}))
    dev = put(tmp_path / "dev.csv", "text,label\nb,y\n")
    test = put(tmp_path / "test.jsonl", jsonl({"text": "c"}))
    report = convert([train, dev, test], tmp_path / "out")
    assert [file.target.name for file in report.files] == ["train.spacy", "dev.spacy", "test.spacy"]
    cats = [load(file.target)[0].cats for file in report.files]
    assert cats == [{"x": 1.0, "y": 0.0}, {"x": 0.0, "y": 1.0}, {}]
    assert report.files[0].counts.categories == {"x": 1, "y": 0}
    assert report.total.categories == {"x": 1, "y": 1}
    assert list(report.total.categories) == ["x", "y"]


def test_total_is_the_sum(tmp_path):
    many = [{"text": "word", "spans": [[0, 2, "X"]], "id": 1}] * 4
    a = put(tmp_path / "a.jsonl", jsonl(*many, {"text": " b ", "spans": [[0, 2, "Y"]]}) + "\n")
    b = put(tmp_path / "b.jsonl", jsonl(*many))
    c = put(tmp_path / "c.iob", "a B-Y\nb I-Y\nc O\nd I-Y\n")
    total = convert([a, b, c], tmp_path / "out").total
    assert (total.records, total.docs, total.misaligned, total.trimmed) == (10, 10, 8, 1)
    assert (total.entities, total.ignored, total.skipped, total.repaired) == ({"Y": 3}, {"id": 8}, 1, 1)
    assert len(total.examples) == 5


@pytest.mark.parametrize("forms", [("label", "labels"), ("labels", "cats"), ("cats", "label")])
def test_forms_do_not_mix(tmp_path, forms):
    values = {"label": "x", "labels": ["x"], "cats": {"x": 1}}
    files = [put(tmp_path / f"{form}.jsonl", jsonl({"text": "a"}, {"text": "a", form: values[form]})) for form in forms]
    first, second = forms
    message = rf"{second}\.jsonl:2: found categories given as '{second}', but as '{first}' at .*{first}\.jsonl:2"
    with pytest.raises(DataError, match=message):
        convert(files, tmp_path / "out")


def test_nothing_is_written_if_the_last_input_is_bad(tmp_path):
    good = put(tmp_path / "good.jsonl", jsonl({"text": "a"}))
    bad = put(tmp_path / "bad.jsonl", '{"text": "a"}\n{"text": 3}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2"):
        convert([good, bad], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failure_while_writing_leaves_what_was_there(tmp_path, monkeypatch):
    a, b = (put(tmp_path / f"{name}.jsonl", jsonl({"text": name})) for name in "ab")
    old = put(tmp_path / "out" / "a.spacy", "old")

    def fail_on_b(record, *args):
        if record.text == "b":
            raise RuntimeError("boom")
        return split(record, *args)

    split = write.split
    monkeypatch.setattr("spacy_bertft.jobs.convert.convert.split", fail_on_b)
    with pytest.raises(RuntimeError, match="boom"):
        convert([a, b], tmp_path / "out")
    assert [path.name for path in old.parent.iterdir()] == ["a.spacy"]
    assert old.read_text() == "old"


def test_a_file_that_changes_between_the_readings(tmp_path):
    path = put(tmp_path / "a.jsonl", jsonl({"text": "a"}))

    def grow(records, *, desc, total):
        if total is not None:
            put(path, jsonl({"text": "a"}, {"text": "b"}))
        return records

    with pytest.raises(DataError, match=r"1 records at the first reading, 2 at the second.*fix: "):
        convert([path], tmp_path / "out", progress=grow)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_existing_output_is_replaced(tmp_path):
    path = put(tmp_path / "a.jsonl", jsonl({"text": "new"}))
    put(tmp_path / "a.spacy", "old")
    convert([path], tmp_path)
    assert load(tmp_path / "a.spacy")[0].text == "new"


def test_progress_sees_all_records_and_the_total(tmp_path):
    path = put(tmp_path / "a.jsonl", jsonl(*[{"text": "a"}] * 3))
    seen = []

    def watch(records, *, desc, total):
        records = list(records)
        seen.append((desc, total, len(records)))
        return records

    convert([path], tmp_path / "b.spacy", progress=watch)
    assert seen == [("read a.jsonl", None, 3), ("write b.spacy", 3, 3)]


def test_files_are_read_line_by_line(tmp_path):
    path = put(tmp_path / "a.jsonl", jsonl({"text": "a"}) + "no json")
    from spacy_bertft.jobs.convert.options import Options
    from spacy_bertft.jobs.convert.tally import Tally

    records = jsonl_reader.read(path, Options(), Tally())
    assert next(records).text == "a"
    with pytest.raises(DataError, match=r"a\.jsonl:2"):
        next(records)


@pytest.mark.parametrize(
    ("content", "byte", "line"),
    [(b'{"text": "a"}\n{"text": "caf\xe9"}\n', "0xe9", 2), ('{"text": "a"}\n'.encode("utf-16"), "UTF-16", 1)],
)
def test_other_encodings(tmp_path, content, byte, line):
    path = put(tmp_path / "a.jsonl", content)
    with pytest.raises(DataError, match=rf"a\.jsonl:{line}: found .*{byte}.*expected UTF-8.*fix: save") as caught:
        convert([path], tmp_path)
    assert caught.value.__cause__ is None


def test_inputs_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match=r"inputs: found none.*fix: "):
        convert([], tmp_path)
    with pytest.raises(DataError, match=r"a\.jsonl: found no such file.*fix: "):
        convert([tmp_path / "a.jsonl"], tmp_path)
    with pytest.raises(DataError, match=r"found an empty folder; expected a file; fix: check"):
        convert([tmp_path], tmp_path / "out")
    with pytest.raises(DataError, match=r"found no records .*empty"):
        convert([put(tmp_path / "e.jsonl", "")], tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_pipe_can_not_be_read_twice(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="not a regular file"):
        convert([tmp_path / "a.jsonl"], tmp_path)


def test_an_input_that_can_not_be_read(tmp_path, monkeypatch):
    path = put(tmp_path / "a.jsonl", jsonl({"text": "a"}))

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"a\.jsonl: found a file that can't be read \(Permission denied\)"):
        convert([path], tmp_path)


def test_formats(tmp_path):
    other = put(tmp_path / "b.txt", "Once upon a time\n")
    with pytest.raises(
        ConfigError, match=r"unknown format.*'Once upon a time'; expected one of label-studio.*--format"
    ):
        convert([other], tmp_path)
    path = put(tmp_path / "a.txt", jsonl({"text": "a"}))
    with pytest.raises(ConfigError, match=r"format: found 'xml'; expected one of auto, jsonl.*fix: "):
        convert([path], tmp_path, format="xml")
    assert convert([path], tmp_path, format="jsonl").total.docs == 1
    assert convert([path], tmp_path).files[0].format == "JSON Lines"


def test_outputs(tmp_path):
    a = put(tmp_path / "a.jsonl", jsonl({"text": "a"}))
    b = put(tmp_path / "b.jsonl", jsonl({"text": "b"}))
    file = put(tmp_path / "file", "x")
    other = put(tmp_path / "other" / "a.csv", "text,label\na,x\n")
    (tmp_path / "out" / "a.spacy").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"one output file for 2 inputs; expected a folder.*fix: "):
        convert([a, b], tmp_path / "x.spacy")
    with pytest.raises(ConfigError, match=r"file: found a file; expected a folder.*fix: "):
        convert([a], file)
    with pytest.raises(ConfigError, match=r"a\.spacy: found a folder.*fix: "):
        convert([a], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"a\.csv: found a second input for .*a\.spacy, after .*a\.jsonl.*fix: "):
        convert([a, other], tmp_path)
    with pytest.raises(ConfigError, match=r"can't be written .*expected a folder.*fix: "):
        convert([a], file / "x.spacy")
    same = put(tmp_path / "same.spacy", jsonl({"text": "a"}))
    with pytest.raises(ConfigError, match=r"found the input itself.*fix: "):
        convert([same], same, format="jsonl")


def test_one_output_file_in_a_new_folder(tmp_path):
    a = put(tmp_path / "a.jsonl", jsonl({"text": "a"}))
    report = convert([a], tmp_path / "x" / "y" / "z.spacy")
    assert load(report.files[0].target)[0].text == "a"


def test_options_that_can_not_be(tmp_path):
    a = put(tmp_path / "a.jsonl", jsonl({"text": "a"}))
    with pytest.raises(ConfigError, match=r"label_separator: found an empty string.*fix: "):
        convert([a], tmp_path, label_separator="")
    with pytest.raises(ConfigError, match=r"expected different names; fix: .*--label-key"):
        convert([a], tmp_path, label_key="text")
    with pytest.raises(ConfigError, match=r"lang: found that spacy\.blank\('zz'\) fails.*fix: .*--lang"):
        convert([a], tmp_path, lang="zz")


def test_the_language_chooses_the_tokenizer(tmp_path):
    a = put(tmp_path / "a.jsonl", jsonl({"text": "don't", "spans": [[0, 2, "X"]]}))
    assert convert([a], tmp_path, lang="en").total.entities == {"X": 1}
    assert convert([a], tmp_path, lang="xx").total.misaligned == 1


def test_a_tokenizer_that_changes_the_text():
    with pytest.raises(DataError, match=r"f:1: found a text that .*tokenizer changes, 'a  b'.*fix: .*--lang"):
        write._tokenize("a  b", lambda text: Doc(Vocab(), words=text.split()), "f:1")


def data(*parts: str) -> list[Path]:
    root = os.environ.get("SPACY_BERTFT_DATA")
    if not root:
        pytest.skip("SPACY_BERTFT_DATA names no folder")
    return sorted(Path(root, *parts[:-1]).glob(parts[-1]))


@pytest.mark.slow
def test_real_entities(tmp_path):
    paths = data("ner", "wnut17", "*.iob")
    assert len(paths) == 3
    for file in convert(paths, tmp_path).files:
        sentences = [s for s in file.source.read_text("utf-8").split("\n\n") if s.strip()]
        rows = [line.split("\t") for s in sentences for line in s.split("\n") if line]
        docs = load(file.target)
        assert file.counts.docs == len(docs) == len(sentences)
        assert [token.text for doc in docs for token in doc] == [token for token, _ in rows]
        assert [f"{t.ent_iob_}-{t.ent_type_}".rstrip("-") for doc in docs for t in doc] == [tag for _, tag in rows]
        assert file.counts.entities == Counter(tag[2:] for _, tag in rows if tag.startswith("B-"))
        assert (file.counts.misaligned, file.counts.repaired, file.counts.skipped) == (0, 0, 0)


@pytest.mark.slow
def test_real_categories(tmp_path):
    import json

    paths = data("textcat", "sms_spam", "*.jsonl")
    assert len(paths) == 3
    for file in convert(paths, tmp_path).files:
        with file.source.open(encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        docs = load(file.target)
        assert [doc.text for doc in docs] == [record["text"] for record in records]
        assert [max(doc.cats, key=doc.cats.get) for doc in docs] == [record["label"] for record in records]
        assert file.counts.categories == Counter(record["label"] for record in records)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", jsonl({"text": "1234567890"}, {"text": "12345 67890"})),
        ("a.jsonl", jsonl({"text": "a"}, {"first": "short", "second": "12345 67890"})),
        ("a.csv", "text,label\n12345 67890,x\n"),
        ("a.conll", "\n12345 O\n67890 O\n"),
    ],
    ids=["jsonl", "pair", "csv", "conll"],
)
def test_a_text_beyond_the_limit_is_refused_before_it_is_tokenised(made, monkeypatch, name, content):
    monkeypatch.setattr("spacy_bertft.jobs.convert.convert.split", None)
    monkeypatch.setattr("spacy_bertft.jobs.convert.survey._MAX_CHARACTERS", 10)
    with pytest.raises(DataError, match=r":2: found a text of 11 characters; expected at most 10; fix: .*split"):
        made(name, content)


def test_fifty_megabytes_in_one_text(made):
    with pytest.raises(DataError, match="found a text of 50,000,000 characters; expected at most 10,000,000; fix: "):
        made("a.jsonl", jsonl({"text": "word " * 10_000_000}))
