"""INCEpTION's exports, made with dkpro-cassis."""

from __future__ import annotations

import sys
import warnings
import zipfile

import pytest
from convert_helpers import ents, iobs

from spacy_bertft.errors import ConfigError, DataError

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


def test_the_zip_of_a_project_has_the_curated_documents(export, converted, tmp_path):
    folder = export(ADA)
    for name, label in (("annotation/a.txt/ada.zip", "OLD"), ("curation/a.txt/CURATION_USER.zip", "PER")):
        export(document((2, 5, label), (10, 13, label)))
        with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
            for file in folder.iterdir():
                archive.write(file, file.name)
        with zipfile.ZipFile(tmp_path / "project.zip", "a") as archive:
            archive.write(tmp_path / "one.zip", name)
    with zipfile.ZipFile(tmp_path / "project.zip", "a") as archive:
        archive.writestr("exportedproject1.json", "{}")
        archive.write(tmp_path / "one.zip", "annotation/a.txt/INITIAL_CAS.zip")
    assert ents(converted(tmp_path / "project.zip").doc) == BOTH


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
