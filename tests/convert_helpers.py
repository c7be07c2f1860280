"""What the tests of the converters share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab

from spacy_bertft.convert import Counts


@dataclass(frozen=True)
class Made:
    counts: Counts
    docs: list[Doc]
    format: str = ""

    @property
    def doc(self) -> Doc:
        (doc,) = self.docs
        return doc


def load(path: Path) -> list[Doc]:
    return list(DocBin().from_disk(path).get_docs(Vocab()))


def jsonl(*records: object) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def iobs(doc: Doc) -> list[str]:
    """Each token's annotation: "" missing, else O, B-LABEL, I-LABEL."""
    return [f"{t.ent_iob_}-{t.ent_type_}" if t.ent_type_ else t.ent_iob_ for t in doc]


def ents(doc: Doc) -> list[tuple[str, str]]:
    return [(ent.text, ent.label_) for ent in doc.ents]


def assert_says(error: Exception, where: str, found: str, fix: str) -> None:
    """An error of an input file says where, what was found and how to fix it."""
    message = str(error)
    assert f"{where}: found " in message
    assert found in message.split("; expected ")[0]
    assert fix in message.split("; fix: ")[1]


def flag_as_encrypted(path):
    """Let the first member of a ZIP say that it is encrypted."""
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory,
    content[content.index(b"PK\x03\x04") + 6] |= 1  # and before the member
    path.write_bytes(content)
