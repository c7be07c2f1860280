"""ZIPs of one file of annotated texts, as doccano exports them, and what is said of others."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import pytest
import spacy
from convert_helpers import ents, flag_as_encrypted, jsonl

from spacy_bertft.convert import convert
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.convert import archives
from spacy_bertft.jobs.convert.corpus import examples_of
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.registry import recognised

TEXT = "Ada met Bob"
RECORD = {"id": 3, "text": TEXT, "label": [[0, 3, "PER"]], "Comments": []}


@pytest.fixture
def packed(tmp_path):
    """`packed({name: content})` writes a ZIP, compressed as doccano's are."""

    def write(members, name="export.zip"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return tmp_path / name

    return write


@pytest.fixture(autouse=True)
def left(tmp_path, monkeypatch):
    """Nothing unpacked is left behind."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["admin.jsonl", "all.jsonl", "data/all.jsonl", "../../all.jsonl", "all"])
def test_the_file_of_doccano_s_zip_is_read(packed, converted, name):
    out = converted(packed({name: jsonl(RECORD, RECORD)}))
    assert out.format == "doccano"
    assert [ents(doc) for doc in out.docs] == [[("Ada", "PER")]] * 2


def test_what_operating_systems_add_does_not_count(packed, converted):
    members = {
        "data/": "",
        "data/texts.csv": "text,label\na,b\n",
        "__MACOSX/data/._texts.csv": "x",
        "data/.DS_Store": "x",
    }
    assert converted(packed(members)).doc.cats == {"b": 1.0}


def test_the_ending_of_the_file_counts_where_its_content_does_not_tell(packed):
    with pytest.raises(DataError, match=r"export\.zip/a\.jsonl:1: found invalid JSON .*; fix: the file may be cut off"):
        convert([packed({"a.jsonl": "{'"})], Path("out"))


def test_a_data_set_of_parquet(packed, converted, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["a"], "label": ["x"]}).to_parquet(tmp_path / "a.parquet")
    assert converted(packed({"a.parquet": (tmp_path / "a.parquet").read_bytes()})).doc.cats == {"x": 1.0}


def test_the_output_has_the_name_of_the_zip(packed, tmp_path):
    (file,) = convert([packed({"all.jsonl": jsonl(RECORD)}, "mine.zip")], tmp_path / "out").files
    assert (file.source.name, file.target.name) == ("mine.zip", "mine.spacy")


def test_it_is_read_wherever_annotated_texts_are(packed):
    path = packed({"all.jsonl": jsonl(RECORD)})
    assert recognised(path, Options())
    for _ in range(2):  # each epoch
        (example,) = examples_of(spacy.blank("en"), path, Options())
        assert ents(example.reference) == [("Ada", "PER")]


def test_the_format_can_be_forced(packed, converted):
    path = packed({"all.jsonl": jsonl(RECORD)})
    assert ents(converted(path, format="jsonl").doc) == [("Ada", "PER")]
    with pytest.raises(DataError, match=r"export\.zip/all\.jsonl.*: found .*--format\) to doccano"):
        converted(path, format="squad")


@pytest.mark.parametrize(
    ("record", "options", "said"),
    [
        ({**RECORD, "label": [[0, 99, "X"]]}, {}, r"export\.zip/all\.jsonl:2: found an entity from 0 to 99"),
        ({**RECORD, "label": [[0, 2, "X"]]}, {"strict": True}, r"export\.zip/all\.jsonl:2: found the entity 'Ad'"),
        ({**RECORD, "label": [[0, 3, "X"], [0, 7, "Y"]]}, {}, r"export\.zip/all\.jsonl:2: found .*overlap"),
        ({**RECORD, "text": 3}, {}, r"export\.zip/all\.jsonl:2: found 'text': 3"),
        ({**RECORD, "relations": [{}]}, {"strict": True}, r"export\.zip/all\.jsonl:2: found relations"),
    ],
)
def test_errors_name_the_place_in_the_zip(packed, converted, record, options, said):
    with pytest.raises(DataError, match=said):
        converted(packed({"all.jsonl": jsonl(RECORD, record)}), **options)


def test_misaligned_spans_are_shown_with_their_place_in_the_zip(packed, converted):
    out = converted(packed({"all.jsonl": jsonl({**RECORD, "label": [[0, 2, "X"]]})}))
    (example,) = out.counts.examples
    assert example.where.endswith("export.zip/all.jsonl:1")


def test_of_several_files_none_is_chosen(packed, converted):
    names = [f"user{number}.jsonl" for number in range(1, 10)]
    with pytest.raises(
        DataError,
        match=r"export\.zip: found a ZIP of 9 files: user1\.jsonl, user2\.jsonl, .* and 1 more; expected one file .*; "
        r"fix: unpack it, and name the files to read",
    ):
        converted(packed({name: jsonl(RECORD) for name in names}))
    with pytest.raises(DataError, match=r"a ZIP of 2 files: admin\.jsonl, unknown\.jsonl; "):
        converted(packed({"unknown.jsonl": "", "admin.jsonl": jsonl(RECORD)}))


BAD = {
    "none": ({}, r"export\.zip: found a ZIP without files"),
    "empty": ({"all.jsonl": "\n"}, r"export\.zip/all\.jsonl: found no records"),
    "unknown": ({"all.bin": "\0"}, r"export\.zip/all\.bin: found content of an unknown format"),
    "excel": ({"[Content_Types].xml": "", "xl/workbook.xml": ""}, r"export\.zip: found a file of Excel, Word"),
}


@pytest.mark.parametrize(("members", "said"), BAD.values(), ids=BAD)
def test_zips_without_annotated_texts_are_named(packed, converted, members, said):
    with pytest.raises((DataError, ConfigError), match=said + ".*; expected .*; fix: "):
        converted(packed(members))


def test_a_zip_in_a_zip_is_not_read(packed, converted):
    inner = packed({"all.jsonl": jsonl(RECORD)}, "inner.zip")
    with pytest.raises(DataError, match=r"export\.zip/inner\.zip: found a ZIP in a ZIP; .*fix: unpack the outer one"):
        converted(packed({"inner.zip": inner.read_bytes()}))


def test_zips_that_were_cut_off_or_are_damaged(packed, converted):
    path = packed({"all.jsonl": jsonl(*[RECORD] * 9)})
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(DataError, match=r"export\.zip: found a ZIP or an Excel file that was cut off; .*again"):
        converted(path)
    at = whole.index(b"PK\x01\x02") - 6
    path.write_bytes(whole[:at] + bytes(one ^ 255 for one in whole[at : at + 4]) + whole[at + 4 :])
    with pytest.raises(DataError, match=r"export\.zip/all\.jsonl: found a ZIP that can't be read \(.*; fix: "):
        converted(path)


def test_a_file_that_is_encrypted(packed, converted):
    path = packed({"all.jsonl": jsonl(RECORD)})
    flag_as_encrypted(path)
    with pytest.raises(DataError, match=r"all\.jsonl: found a ZIP .*\(RuntimeError.*encrypted.*without a password"):
        converted(path)


def test_a_file_that_grows_beyond_the_limit_is_not_unpacked(packed, converted, monkeypatch):
    path = packed({"all.jsonl": jsonl(RECORD) + " " * 100_000})
    assert path.stat().st_size < 1000
    monkeypatch.setattr(archives, "_MAX_UNPACKED", 100_000)
    message = r"export\.zip/all\.jsonl: found 100,\d+ bytes when unpacked; expected at most 100,000; fix: "
    with pytest.raises(DataError, match=message):
        converted(path)
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (50).to_bytes(4, "little")  # the size that it claims
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"all\.jsonl: found a ZIP that can't be read \(BadZipFile: Bad CRC"):
        converted(path)
