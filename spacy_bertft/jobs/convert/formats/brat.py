"""brat's standoff files: DOC.txt with the text, and DOC.ann with its annotations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert.annotated import Annotated
from spacy_bertft.jobs.convert.format import Format, Sample
from spacy_bertft.jobs.convert.offsets import in_characters, same
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Entity, Record, brief, encodable, entities, located
from spacy_bertft.jobs.convert.tally import Tally
from spacy_bertft.jobs.text_files import lines

_TEXT, _ANNOTATIONS = ".txt", ".ann"
_SPAN = re.compile(r"(?P<label>\S+) (?P<offsets>\d+ \d+(?:;\d+ \d+)*)")
_TYPE = re.compile(r"[^\s,|\[#]+")
_OTHER = re.compile(r"[REAMN]\d|\*\t")
# First character of a line -> what it annotates; these are not read.
_OTHERS = {
    "R": "relations",
    "E": "events",
    "A": "attributes",
    "M": "attributes",
    "N": "normalizations",
    "*": "equivalences",
}
_NOTE = "#"
# brat shows only the types that this file names.
_CONFIG = "[entities]\n{types}\n\n[relations]\n\n[events]\n\n[attributes]\n"


def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
    """Yield a Record per document of a folder, or of the one file that is named."""
    if not path.is_dir():
        yield _record(path.with_suffix(_TEXT), path.with_suffix(_ANNOTATIONS), options, tally)
        return
    annotated = sorted(path.rglob(f"*{_ANNOTATIONS}"))
    names = {one.with_suffix("") for one in annotated}
    tally.rejected += sum(text.with_suffix("") not in names for text in path.rglob(f"*{_TEXT}"))
    for one in annotated:
        yield _record(one.with_suffix(_TEXT), one, options, tally)


def _record(text_file: Path, ann_file: Path, options: Options, tally: Tally) -> Record:
    for file, other in ((text_file, ann_file), (ann_file, text_file)):
        if not file.is_file():
            raise data_error(
                str(other),
                found=f"no {file.name} beside it",
                expected=f"two files for each document, {_TEXT} and {_ANNOTATIONS}",
                fix=f"copy {file.name} there, or delete {other.name}",
            )
    bounds = list(_text_bounds(ann_file, tally))
    text = _fitting("".join(line for _, line in lines(text_file)), bounds)
    if not text.strip():
        raise data_error(str(text_file), found="an empty text", expected="some characters", fix="delete this document")
    encodable(text, str(text_file), "text")
    found: list[Entity] = []
    missing: list[tuple[int, int]] = []
    for where, label, fragments, covered in bounds:
        if len(fragments) > 1:
            tally.drop("discontinuous spans", where)
            unit = options.offsets
            missing += [located(text, start, end, where, covered=None, unit=unit) for start, end in fragments]
        else:
            start, end = fragments[0]
            span = {"start": start, "end": end, "label": label, "text": covered}
            found += entities([span], text, where, "T", tally, options)
    spans = tuple(sorted(dict.fromkeys(found), key=lambda entity: (entity.start, entity.end)))
    return Record(str(ann_file), text=text, spans=spans, missing=tuple(missing))


_Bound = tuple[str, str, list[tuple[int, int]], str]  # where, label, fragments, their text


def _text_bounds(path: Path, tally: Tally) -> Iterator[_Bound]:
    """Yield the spans; other annotations are counted."""
    for number, ended in lines(path):
        line, where = ended.rstrip("\r\n"), f"{path}:{number}"
        if not line.strip():
            continue
        if _OTHER.match(line):
            tally.drop(_OTHERS[line[0]], where)
        elif line[0] == _NOTE:
            tally.ignored["notes"] += 1
        else:
            yield _bound(line, where)


def _bound(line: str, where: str) -> _Bound:
    columns = line.split("\t", 2)
    match = _SPAN.fullmatch(columns[1]) if len(columns) == 3 and columns[0].startswith("T") else None
    if match is None:
        raise data_error(
            where,
            found=brief(line),
            expected="an annotation of brat, such as T1, a tab, PERSON 0 5, a tab, and the text of the span",
            fix="correct this line, or export the document again",
        )
    fragments = [tuple(map(int, pair.split())) for pair in match["offsets"].split(";")]
    return where, match["label"], [(start, end) for start, end in fragments], columns[2]


def _fitting(text: str, bounds: Sequence[_Bound]) -> str:
    r"""The text with its line ends as the offsets count them: git and editors turn \n into \r\n and back."""
    bare = text.replace("\r\n", "\n")
    fits = all(_fits_text(bare, bound) for bound in bounds) and not all(_fits_text(text, bound) for bound in bounds)
    return bare if fits else text


def _fits_text(text: str, bound: _Bound) -> bool:
    _, _, fragments, covered = bound
    found = [in_characters(text, start, end, "characters") for start, end in fragments]
    return same(" ".join(text[slice(*one)] for one in found if one), covered)


# --- writing


def write(texts: Sequence[Annotated], path: Path, tally: Tally) -> None:
    """Write a folder: annotation.conf with the types, and two files for each text; one if it isn't annotated."""
    path.mkdir(parents=True)
    width = len(str(len(texts)))
    for number, one in enumerate(texts, 1):
        name = f"text-{number:0{width}}"
        _write(path / f"{name}{_TEXT}", one.text)
        if one.spans is not None:
            annotations = (_line(one, span, i) for i, span in enumerate(one.spans, 1))
            _write(path / f"{name}{_ANNOTATIONS}", "".join(annotations))
    types = sorted({span.label for one in texts for span in one.spans or ()})
    _write(path / "annotation.conf", _CONFIG.format(types="\n".join(types)))


def _line(one: Annotated, span: Entity, number: int) -> str:
    if not _TYPE.fullmatch(span.label):
        raise data_error(
            one.where,
            found=f"the label {brief(span.label)}",
            expected="one without white space and the characters , | [ #, which separate or begin other things in "
            "brat's files",
            fix="rename the label, or choose another format (--to)",
        )
    # A line break would end the annotation; brat writes a space there.
    covered = re.sub(r"[\r\n]", " ", one.text[span.start : span.end])
    return f"T{number}\t{span.label} {span.start} {span.end}\t{covered}\n"


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8"))  # line ends as they are, since offsets count them


def _fits(sample: Sample) -> bool:
    if sample.names:
        return any(name.endswith(_ANNOTATIONS) for name in sample.names)
    path = sample.path
    return path.suffix == _ANNOTATIONS or (path.suffix == _TEXT and path.with_suffix(_ANNOTATIONS).exists())


FORMAT = Format("brat", "brat", fits=_fits, read=read, write=write, holds=frozenset({"entities", "overlaps"}))
