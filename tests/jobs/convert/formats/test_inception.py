"""INCEpTION's exports, made with dkpro-cassis."""

from __future__ import annotations

import sys
import warnings
import zipfile

import pytest
from convert_helpers import ents, flag_as_encrypted, iobs

from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.convert import archives

cassis = pytest.importorskip("cassis")
NAMED_ENTITY = "de.tudarmstadt.ukp.dkpro.core.api.ner.type.NamedEntity"
TEXT = "😊 Ada met Bob"


def type_system():
    with warnings.catch_warnings():  # of how it reads its own resources
        warnings.simplefilter("ignore")
        types = cassis.load_dkpro_core_typesystem()
    for name in ("Drug", "Dose"):
        layer = types.create_type(f"webanno.custom.{name}", "uima.tcas.Annotation")
        types.create_feature(layer, "kind", "uima.cas.String")
    return types


def document(*spans, layer=NAMED_ENTITY, feature="value", text=TEXT):
    """A CAS with spans (begin, end, label)."""
    cas = cassis.Cas(type_system())
    cas.sofa_string, cas.sofa_mime = text, "text/plain"
    for begin, end, label in spans:
        cas.add(cas.typesystem.get_type(layer)(begin=begin, end=end, **{feature: label}))
    return cas


@pytest.fixture
def export(tmp_path):
    """`export(cas)` writes the folder that INCEpTION's ZIP of a document holds."""

    def write(cas, name="doc.xmi"):
        folder = tmp_path / "export"
        folder.mkdir(exist_ok=True)
        cas.to_xmi(folder / name)
        cas.typesystem.to_xml(folder / "TypeSystem.xml")
        return folder

    return write


ADA = document((2, 5, "PER"), (10, 13, "PER"))
BOTH = [("Ada", "PER"), ("Bob", "PER")]


def test_a_file_a_folder_and_a_zip(export, converted, tmp_path):
    folder = export(ADA)
    with zipfile.ZipFile(tmp_path / "doc.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    for path in (folder / "doc.xmi", folder, tmp_path / "doc.zip"):
        out = converted(path)
        assert (out.format, out.doc.text, ents(out.doc)) == ("INCEpTION", TEXT, BOTH)
        assert iobs(out.doc)[2] == "B-PER" if out.doc[2].text == "Ada" else iobs(out.doc)[1] == "B-PER"


def test_json(converted, tmp_path):
    ADA.to_json(tmp_path / "doc.json")
    assert ents(converted(tmp_path / "doc.json").doc) == BOTH


@pytest.fixture
def project(export, tmp_path):
    """`project({name: cas})` writes the ZIP of a project with a ZIP under each name."""

    def write(members):
        for name, cas in members.items():
            folder = export(cas)
            with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
                for file in folder.iterdir():
                    archive.write(file, file.name)
            with zipfile.ZipFile(tmp_path / "project.zip", "a") as archive:
                archive.write(tmp_path / "one.zip", name)
        with zipfile.ZipFile(tmp_path / "project.zip", "a") as archive:
            archive.writestr("exportedproject1.json", "{}")
            archive.writestr("settings/other.json", "{}")
        return tmp_path / "project.zip"

    return write


OLD = document((2, 5, "OLD"), (10, 13, "OLD"))


def test_the_zip_of_a_project_has_the_curated_documents(project, converted):
    members = {
        "annotation/a.txt/ada.zip": OLD,
        "annotation/a.txt/INITIAL_CAS.zip": OLD,
        "annotation/b.txt/ada.zip": OLD,
        "annotation/b.txt/bob.zip": OLD,
        "curation/a.txt/CURATION_USER.zip": ADA,
    }
    out = converted(project(members))
    assert ents(out.doc) == BOTH
    assert out.counts.rejected == 1  # b.txt


def test_without_curated_documents_those_of_all_annotators_count(project, converted):
    out = converted(project({f"annotation/a.txt/{name}.zip": ADA for name in ("ada", "bob")}))
    assert [ents(doc) for doc in out.docs] == [BOTH, BOTH]


def nested(tmp_path, content, depth):
    """A ZIP that holds `content` as doc.xmi, in as many further ZIPs."""
    name = "doc.xmi"
    for level in range(depth):
        with zipfile.ZipFile(tmp_path / f"{level}.zip", "w") as archive:
            archive.writestr(name, content)
        name, content = "in.zip", (tmp_path / f"{level}.zip").read_bytes()
    return tmp_path / f"{depth - 1}.zip"


def test_zips_in_zips_in_zips_are_not_read(tmp_path, converted):
    with pytest.raises(DataError, match=r"2\.zip/in\.zip/in\.zip: found a ZIP inside 2 others; .*fix: unpack"):
        converted(nested(tmp_path, b"<xmi:XMI/>", 3), format="inception")


def test_members_that_are_broken_or_no_zip(tmp_path, converted):
    path = nested(tmp_path, b"<xmi:XMI/>" * 9, 1)
    path.write_bytes(path.read_bytes().replace(b"<xmi:XMI/><", b"<xmi:XMI/>#", 1))
    with pytest.raises(DataError, match=r"0\.zip/doc\.xmi: found a ZIP that can't be read \(BadZipFile.*fix: "):
        converted(path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in.zip", "nothing")
    with pytest.raises(DataError, match=r"a\.zip/in\.zip: found a ZIP that can't be read \(BadZipFile.*fix: "):
        converted(tmp_path / "a.zip", format="inception")


def test_members_that_claim_to_hold_gigabytes_are_not_unpacked(tmp_path, converted, monkeypatch):
    path = nested(tmp_path, b"<xmi:XMI/>" * 500, 2)
    monkeypatch.setattr(archives, "_MAX_UNPACKED", 5_100)
    message = r"1\.zip/in\.zip: found 5,\d+ bytes when unpacked; expected at most 5,100; fix: "
    with pytest.raises(DataError, match=message):
        converted(path, format="inception")
    monkeypatch.undo()
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02")  # of the outer ZIP
    content[directory + 24 : directory + 28] = (1 << 31).to_bytes(4, "little")  # the size that it claims
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"1\.zip/in\.zip: found 2,147,483,648 bytes when unpacked"):
        converted(path, format="inception")


def test_a_zip_that_was_cut_off_after_one_of_its_documents(project, converted):
    path = project({f"annotation/{name}.txt/ada.zip": ADA for name in "abc"})
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"annotation/c.txt")])
    with pytest.raises(DataError, match=r"project\.zip: found a ZIP that begins in the middle .*fix: .*cut off"):
        converted(path, format="inception")


def test_members_that_are_encrypted(tmp_path, converted):
    path = nested(tmp_path, b"<xmi:XMI/>", 1)
    flag_as_encrypted(path)
    with pytest.raises(DataError, match=r"0\.zip/doc\.xmi: found .* \(RuntimeError.*encrypted.*; fix: .*password"):
        converted(path)


def test_offsets_are_converted_once(export, converted):
    assert ents(converted(export(ADA), offsets="utf16").doc) == BOTH


@pytest.mark.parametrize("name", ["doc.xmi", "TypeSystem.xml"])
def test_external_entities_are_refused(export, converted, name):
    path = export(ADA) / name
    start, end = path.read_text("utf-8").split("?>", 1)
    path.write_text(f'{start}?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hosts">]>{end}', "utf-8")
    with pytest.raises(DataError, match=r"doc\.xmi: found a <!DOCTYPE, .*; expected .*; fix: "):
        converted(path.parent)


def test_a_layer_of_the_project(export, converted):
    folder = export(document((2, 5, "pill"), layer="webanno.custom.Drug", feature="kind"))
    assert ents(converted(folder).doc) == [("Ada", "pill")]


def test_of_several_layers_one_is_named(export, converted):
    cas = document((2, 5, "pill"), layer="webanno.custom.Drug", feature="kind")
    cas.add(cas.typesystem.get_type("webanno.custom.Dose")(begin=10, end=13, kind="mg"))
    folder = export(cas)
    with pytest.raises(
        DataError, match=r"doc\.xmi: found the layers webanno\.custom\.Dose, webanno\.custom\.Drug.*--layer"
    ):
        converted(folder)
    out = converted(folder, layer="Drug")
    assert ents(out.doc) == [("Ada", "pill")]
    assert out.counts.dropped == {"annotations of the layer webanno.custom.Dose": 1}


def test_a_span_without_a_label_is_missing_and_counted(export, converted):
    out = converted(export(document((2, 5, None), (10, 13, "PER"))))
    assert ents(out.doc) == [("Bob", "PER")]
    assert out.counts.dropped == {"spans without a label": 1}
    assert dict(zip([token.text for token in out.doc], iobs(out.doc), strict=True))["Ada"] == ""


def test_without_the_type_system(export, converted):
    folder = export(ADA)
    (folder / "TypeSystem.xml").unlink()
    with pytest.raises(DataError, match=r"doc\.xmi: found no TypeSystem\.xml beside it; .*fix: copy"):
        converted(folder)


def test_a_file_that_is_cut_off(export, converted):
    folder = export(ADA)
    content = (folder / "doc.xmi").read_bytes()
    (folder / "doc.xmi").write_bytes(content[:-40])
    with pytest.raises(DataError, match=r"doc\.xmi: found a document that can't be read \(XMLSyntaxError.*fix: export"):
        converted(folder)


def test_spans_outside_the_text(export, converted):
    folder = export(ADA)
    content = (folder / "doc.xmi").read_text("utf-8")
    (folder / "doc.xmi").write_text(content.replace('end="14"', 'end="99"'), "utf-8")
    with pytest.raises(DataError, match=r"doc\.xmi: found .*; expected .*; fix: "):
        converted(folder)


def test_the_extra_is_named_if_it_is_missing(export, converted, monkeypatch):
    monkeypatch.setitem(sys.modules, "cassis", None)
    with pytest.raises(ConfigError, match=r"pip install \"spacy-bertft\[cassis\]\""):
        converted(export(ADA))
