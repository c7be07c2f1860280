"""INCEpTION's exports UIMA CAS XMI and UIMA CAS JSON, read with dkpro-cassis (extra `cassis`)."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from spacy_bertft.errors import ConfigError, DataError, data_error, how_to_install
from spacy_bertft.jobs.convert.archives import opened, unpack
from spacy_bertft.jobs.convert.format import Format, Sample
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Record, brief, encodable, entities
from spacy_bertft.jobs.convert.tally import Tally

_NAMED_ENTITY = "de.tudarmstadt.ukp.dkpro.core.api.ner.type.NamedEntity"
_CUSTOM = "webanno.custom."  # prefix of the layers that projects define
_TYPES = "TypeSystem.xml"
_INITIAL = "INITIAL_CAS"  # the document before anyone annotated it
_PROJECT = "exportedproject"  # begins the name of a file in the export of a project
# Its folders of documents: FOLDER/DOCUMENT/USER.zip
_CURATED, _ANNOTATED = "curation/", "annotation/"
_DEPTH = 2  # of ZIPs in each other: a project's, and a document's
_DOCTYPES = [b"<!DOCTYPE", *("<!DOCTYPE".encode(encoding) for encoding in ("utf-16-le", "utf-16-be"))]
_OWN_FEATURES = {"sofa", "begin", "end"}


@dataclass(frozen=True)
class _File:
    """A document: XMI with its type system, or JSON, which includes it."""

    where: str
    content: bytes
    types: bytes | None


def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
    """Yield a Record per document: of a .xmi or .json file, of a ZIP as INCEpTION exports it, or of a folder."""
    cassis = _cassis()
    types: dict[bytes, Any] = {}
    options = replace(options, offsets="characters")  # cassis has made them of UTF-16 units
    for file in _files(path, tally):
        yield _record(_loaded(file, cassis, types), file.where, options, tally)


def _cassis() -> Any:
    try:
        import cassis
    except ImportError:
        raise ConfigError(
            'format: found "inception", but no dkpro-cassis; expected it to be installed; fix: '
            + how_to_install("cassis")
        ) from None
    return cassis


def _loaded(file: _File, cassis: Any, types: dict[bytes, Any]) -> Any:
    """The CAS of a document. types: the type systems read so far."""
    if file.types is not None and any(one in part for one in _DOCTYPES for part in (file.content, file.types)):
        raise data_error(
            file.where,
            found="a <!DOCTYPE, whose entities can stand for other files",
            expected="XML without it, as INCEpTION writes it",
            fix="export it from INCEpTION again",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of offsets outside the text, for which we have an error
            if file.types is None:
                return cassis.load_cas_from_json(file.content.decode("utf-8"))
            if file.types not in types:
                types[file.types] = cassis.load_typesystem(BytesIO(file.types))
            return cassis.load_cas_from_xmi(BytesIO(file.content), typesystem=types[file.types])
    except Exception as error:  # lxml and cassis raise many types
        raise _unreadable(file.where, error) from error


def _unreadable(where: str, error: Exception) -> DataError:
    said = " ".join(str(error).split())
    return data_error(
        where,
        found=f"a document that can't be read ({type(error).__name__}: {said})",
        expected=f"UIMA CAS XMI with the {_TYPES} of the same export, or UIMA CAS JSON",
        fix="export it from INCEpTION again, without a password",
    )


# --- files


def _files(path: Path, tally: Tally) -> Iterator[_File]:
    if path.is_dir():
        names = [one.relative_to(path).as_posix() for one in sorted(path.rglob("*")) if one.is_file()]
        for name in _documents(names, tally):
            yield from _file(path / name, tally)
    else:
        yield from _file(path, tally)


def _file(path: Path, tally: Tally) -> Iterator[_File]:
    content = path.read_bytes()
    if zipfile.is_zipfile(path):
        yield from _members(content, str(path), tally)
    elif content.lstrip()[:1] == b"{":
        yield _File(str(path), content, None)
    else:
        beside = path.with_name(_TYPES)
        yield _File(str(path), content, beside.read_bytes() if beside.is_file() else _no_types(str(path)))


def _members(content: bytes, where: str, tally: Tally, depth: int = 1) -> Iterator[_File]:
    """The documents in a ZIP; those of a whole project are in ZIPs of their own."""
    if depth > _DEPTH:
        raise data_error(
            where,
            found=f"a ZIP inside {_DEPTH} others",
            expected="the ZIP of a project or of a document, as INCEpTION exports it",
            fix="unpack the outer ones",
        )
    with opened(BytesIO(content), where) as archive:
        names = archive.namelist()
        types = next((_content(archive, name, where) for name in names if name.endswith(_TYPES)), None)
        for name in _documents(names, tally):
            member, inside = _content(archive, name, where), f"{where}/{name}"
            if name.endswith(".zip"):
                yield from _members(member, inside, tally, depth + 1)
            elif name.endswith(".json"):
                yield _File(inside, member, None)
            else:
                yield _File(inside, member, types or _no_types(inside))


def _content(archive: zipfile.ZipFile, name: str, where: str) -> bytes:
    """The content of a file in a ZIP."""
    content = BytesIO()
    unpack(archive, name, where, content)
    return content.getvalue()


def _documents(names: list[str], tally: Tally) -> list[str]:
    """The names of documents. In the export of a project: those that were curated, if there are any.

    Documents that were annotated but not curated then count as rejected.
    """
    found = [name for name in sorted(names) if name.endswith((".xmi", ".zip", ".json")) and _INITIAL not in name]
    in_folders = [name for name in found if name.startswith((_CURATED, _ANNOTATED))]
    if not in_folders and not any(_file_name(name).startswith(_PROJECT) for name in names):
        return found
    curated = [name for name in in_folders if name.startswith(_CURATED)]
    if not curated:
        return in_folders
    tally.rejected += len(set(map(_document, in_folders)) - set(map(_document, curated)))
    return curated


def _document(name: str) -> str:
    """The document of FOLDER/DOCUMENT/USER.zip."""
    return name.split("/")[1]


def _file_name(name: str) -> str:
    return name.rpartition("/")[2]


def _no_types(where: str) -> bytes:
    raise data_error(
        where,
        found=f"no {_TYPES} beside it",
        expected="the type system of the export",
        fix=f"copy {_TYPES} from the same export there, or convert the ZIP that INCEpTION made",
    )


# --- annotations


def _record(cas: Any, where: str, options: Options, tally: Tally) -> Record:
    text = cas.sofa_string
    if not isinstance(text, str) or not text.strip():
        raise data_error(where, found="an empty text", expected="some characters", fix="leave this document out")
    layers = _layers(cas)
    layer, feature = _chosen(layers, where, options)
    for other in layers.keys() - {layer}:
        tally.drop(f"annotations of the layer {other}", where, len(layers[other]))
    spans, missing = [], []
    for one in layers.get(layer, ()):
        label = getattr(one, feature, None)
        if label is None:
            tally.drop("spans without a label", where)
            missing.append((one.begin, one.end))
        else:
            spans.append([one.begin, one.end, label])
    found = entities(spans, text, where, layer, tally, options)
    return Record(where, text=encodable(text, where, "text"), spans=found, missing=tuple(missing))


def _layers(cas: Any) -> dict[str, list[Any]]:
    """The layers of spans that hold annotations: the named entities, and those that the project defines."""
    found: dict[str, list[Any]] = {}
    for kind in cas.typesystem.get_types():
        if kind.name == _NAMED_ENTITY or kind.name.startswith(_CUSTOM):
            spans = [one for one in cas.select(kind.name) if one.type.name == kind.name and hasattr(one, "begin")]
            found.update({kind.name: spans} if spans else {})
    return found


def _chosen(layers: dict[str, list[Any]], where: str, options: Options) -> tuple[str, str]:
    """The layer to read and the feature with its labels."""
    if options.layer:
        name = next((one for one in layers if options.layer in (one, one.removeprefix(_CUSTOM))), options.layer)
    elif _NAMED_ENTITY in layers or not layers:
        name = _NAMED_ENTITY
    elif len(layers) == 1:
        name = next(iter(layers))
    else:
        raise data_error(
            where,
            found=f"the layers {', '.join(sorted(layers))}",
            expected="one layer of spans",
            fix=f"name it with layer (--layer {min(layers)})",
        )
    if name == _NAMED_ENTITY or name not in layers:
        return name, "value"
    features = [one.name for one in layers[name][0].type.all_features if one.name not in _OWN_FEATURES]
    strings = [one for one in features if any(isinstance(getattr(item, one), str) for item in layers[name])]
    if len(strings) != 1:
        raise data_error(
            where,
            found=f"the layer {name} with the features {brief(features)}, of which {len(strings)} hold texts",
            expected="one feature with the label",
            fix="in INCEpTION, keep one feature for the label, or copy it into the named entities",
        )
    return name, strings[0]


def _fits(sample: Sample) -> bool:
    if sample.names:
        return any(name.endswith(".xmi") for name in sample.names)
    if sample.head.startswith(b"PK") and zipfile.is_zipfile(sample.path):
        try:
            with zipfile.ZipFile(sample.path) as archive:
                return any(name.endswith((".xmi", _TYPES)) or _PROJECT in name for name in archive.namelist())
        except zipfile.BadZipFile:
            return False
    if sample.head.lstrip().startswith(b"{"):
        return b'"%TYPES"' in sample.head or b'"%FEATURE_STRUCTURES"' in sample.head
    return b"<xmi:XMI" in sample.head


FORMAT = Format("inception", "INCEpTION", fits=_fits, read=read, endings=(".xmi",))
