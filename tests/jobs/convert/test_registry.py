"""Which format an input has, and what is said of files that have none, or are broken."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from convert_helpers import jsonl

from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.convert.options import FormatName, Options, TargetName
from spacy_bertft.jobs.convert.registry import FORMATS, format_of

TEXT = "Ada met Bob"
TASK = {"id": 1, "data": {"text": TEXT}, "annotations": [{"result": []}]}
MINIMAL = {"text": TEXT, "id": 1, "annotator": 1, "annotation_id": 1, "lead_time": 2.0}
QUESTIONS = {"version": "2.0", "data": [{"paragraphs": [{"context": TEXT, "qas": []}]}]}
SPACY = [{"id": 0, "paragraphs": [{"sentences": [{"tokens": []}]}]}]
PRODIGY = {"text": TEXT, "_input_hash": 1, "_task_hash": 2, "answer": "accept"}
WORD = "\t".join(("1", "Ada", *"_______", "NER=B-PER"))
CONTENTS = {
    "label-studio": [json.dumps([TASK]), json.dumps([TASK], indent=2), json.dumps([MINIMAL]), jsonl(TASK)],
    "prodigy": [jsonl(PRODIGY, PRODIGY), jsonl({"text": TEXT, "answer": "reject"})],
    "spacy-json": [json.dumps(SPACY), jsonl(SPACY[0])],
    "squad": [json.dumps(QUESTIONS), json.dumps(QUESTIONS, indent=1)],
    "doccano": [jsonl({"text": TEXT, "label": [[0, 3, "X"]]}), jsonl({"text": TEXT, "labels": [[0, 3, "X"]]})],
    "jsonl": [
        jsonl({"text": TEXT, "label": "x"}),
        json.dumps([{"text": TEXT}], indent=4),
        "\ufeff" + jsonl({"first": "a", "second": "b"}),
        jsonl([TEXT, {"entities": []}]),
        json.dumps([[TEXT, {"entities": []}]]),
        json.dumps({"classes": ["X"], "annotations": [[TEXT, {"entities": [[0, 3, "X"]]}], None]}),
        jsonl({"tokens": ["Ada"], "ner_tags": ["O"]}),
    ],
    "conllu": [WORD + "\n\n", f"# newdoc\n# text = Ada\n{WORD}\n"],
    "csv": ["text,label\na,b\n", '"text","label"\r\n"a","b"\r\n', "text,start,end,label\na,0,1,X\n"],
    "tsv": ["text\tlabel\na\tb\n", "first\tsecond\tlabel\na\tb\tc\n"],
    "conll": ["Ada B-PER\nran O\n", "-DOCSTART- -X- O O\n\nAda NNP B-NP I-PER\nran VB B-VP O\n", "Ada\tO\n"],
}


@pytest.mark.parametrize(("name", "content"), [(name, one) for name, many in CONTENTS.items() for one in many])
def test_the_content_tells_the_format_whatever_the_file_is_called(tmp_path, name, content):
    for ending in (".txt", ".csv", ".json"):
        path = tmp_path / f"file{ending}"
        path.write_text(content, "utf-8")
        assert format_of(path, Options()).name == name


def test_a_record_longer_than_the_first_bytes(tmp_path):
    path = tmp_path / "long.json"
    path.write_text(json.dumps([{**TASK, "data": {"text": "word " * 50_000}}]), "utf-8")
    assert format_of(path, Options()).name == "label-studio"


def test_names_of_keys_help(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(jsonl({"body": TEXT}), "utf-8")
    assert format_of(path, Options(text_key="body")).name == "jsonl"
    with pytest.raises(DataError, match=r"a\.json: found JSON of an unknown form, with \['body'\]; .*--text-key"):
        format_of(path, Options())


def test_the_format_can_be_forced(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,b\n", "utf-8")
    assert format_of(path, Options(format="tsv")).name == "tsv"


def test_the_names_of_formats_are_those_of_the_options():
    assert {"auto", *FORMATS} == set(get_args(FormatName))
    assert {"spacy", *(one.name for one in FORMATS.values() if one.write)} == set(get_args(TargetName))


BROKEN = {
    "empty": ("a.json", b"", "no records", "check how"),
    "blank": ("a.json", b"\xef\xbb\xbf \n\t\n", "no records", "check how"),
    "blank conllu": ("a.conllu", b"\n\n", "no records", "check how"),
    "blank csv": ("a.csv", b" \r\n", "no records", "check how"),
    "cut off line": ("a.jsonl", b'{"text": "Ada"}\n{"text": "B', "invalid JSON", "the file may be cut off"),
    "cut off row": ("a.csv", b"text,label\na,b\na", "1 columns, ['a']", "may be cut off"),
    "array": ("a.json", json.dumps([TASK])[:-9].encode(), "invalid JSON", "cut off"),
    "first record": ("a.json", b'[{"text": "Ada', "invalid JSON", "cut off"),
    "line": ("a.jsonl", b'{"text": "Ada"}\n{"text": "B', "invalid JSON", "on its own line"),
    "latin-1": ("a.jsonl", b'{"text": "caf\xe9"}\n', "the byte 0xe9 at byte 14 of the line", "save the file as UTF-8"),
    "utf-16": ("a.json", json.dumps([TASK]).encode("utf-16"), "UTF-16", "save the file as UTF-8"),
    "utf-16 lines": ("a.jsonl", jsonl(PRODIGY).encode("utf-16"), "UTF-16", "save the file as UTF-8"),
    "another form": ("a.json", b'[{"body": "Ada"}]', "JSON of an unknown form, with ['body']", "--text-key"),
    "excel": ("a.xlsx", b"PK\x03\x04...", "a ZIP or an Excel file that was cut off", "download it again"),
}


@pytest.mark.parametrize(("name", "content", "found", "fix"), BROKEN.values(), ids=BROKEN)
def test_broken_files_are_named(made, name, content, found, fix):
    with pytest.raises(DataError) as caught:
        made(name, content)
    message = str(caught.value)
    assert f"{name}" in message.split(": found ")[0]
    assert found in message.split("; expected ")[0]
    assert fix in message.split("; fix: ")[1]


@pytest.mark.parametrize(
    ("forced", "content"),
    [
        ("label-studio", jsonl({"text": TEXT})),
        ("prodigy", jsonl({"text": TEXT})),
        ("doccano", jsonl({"sentence": TEXT})),
        ("spacy-json", jsonl({"text": TEXT})),
        ("squad", json.dumps([TASK])),
        ("brat", TEXT),
        ("conll", "text,label\na,b\n"),
        ("conllu", "Ada\tB-PER\n"),
        ("csv", "Ada\tB-PER\n"),
        ("tsv", jsonl({"text": TEXT})),
        ("jsonl", "text,label\na,b\n"),
    ],
)
def test_a_file_of_another_tool_is_named_where_the_format_is_forced(made, forced, content):
    with pytest.raises((DataError, ConfigError), match=r"file\.\w+.*: found .*; expected .*; fix: "):
        made("file.txt", content, format=forced)


@pytest.mark.parametrize("forced", sorted(FORMATS.keys() - {"inception", "parquet", "datasets"}))
@pytest.mark.parametrize("found", ["label-studio", "squad", "spacy-json", "conllu", "csv", "conll"])
def test_a_format_that_does_not_fit_the_content_is_said_to_be_the_wrong_one(made, forced, found):
    """Of the formats that could be taken for each other, the one that was asked for is read."""
    content = CONTENTS[found][0]
    if forced == found or (forced, found) == ("conll", "conllu"):  # whose columns it reads as they are
        return
    with pytest.raises((DataError, ConfigError)) as caught:
        made("file.txt", content, format=forced)
    assert f"--format) to {found}" in str(caught.value)


def test_tasks_of_prodigy_are_no_texts_of_doccano(made):
    """Ignored answers would become annotation."""
    with pytest.raises(DataError, match=r"a\.jsonl:1: found a task of Prodigy; .*--format\) to prodigy"):
        made("a.jsonl", jsonl({**PRODIGY, "answer": "ignore", "spans": []}), format="doccano")


def test_an_empty_folder_is_called_empty(tmp_path):
    with pytest.raises(DataError, match=r": found an empty folder; expected a file; fix: check the path"):
        format_of(tmp_path, Options())


@pytest.mark.parametrize("forced", ["inception", "parquet", "datasets"])
def test_a_file_of_another_tool_is_named_by_libraries_too(made, forced):
    pytest.importorskip("datasets")
    pytest.importorskip("cassis")
    with pytest.raises((DataError, ConfigError), match=r"file\.txt.*: found .*; expected .*; fix: "):
        made("file.txt", "text,label\na,b\n", format=forced)


def test_strict_stops_at_the_first_loss(made):
    record = {"text": "don't", "spans": [[0, 4, "X"]]}
    assert made("a.jsonl", jsonl(record)).counts.misaligned == 1
    with pytest.raises(
        DataError, match=r"a\.jsonl:2: found the entity \"don'\" \(X\), which begins or ends inside a token"
    ):
        made("a.jsonl", jsonl({"text": "fine"}, record), strict=True)
    with pytest.raises(DataError, match=r"a\.iob: found tags that can't follow the one before \(1\); .*strict"):
        made("a.iob", "a B-X\nb O\nc I-X\n", strict=True)
    relations = {"text": TEXT, "entities": [{"start_offset": 0, "end_offset": 3, "label": "X"}], "relations": [{}]}
    with pytest.raises(
        DataError, match=r"a\.jsonl:1: found relations \(1\); expected nothing that can't be kept.*--strict"
    ):
        made("a.jsonl", jsonl(relations), strict=True)
