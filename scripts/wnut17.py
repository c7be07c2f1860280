"""Check the three files of WNUT-17 and write them in one plain format.

    python scripts/wnut17.py assets/wnut17 --output corpus/wnut17

The check compares contents, not bytes: extra blank lines, carriage returns and the like don't matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from spacy_bertft.cli.console import clean_errors, show
from spacy_bertft.errors import DataError


@dataclass(frozen=True)
class Part:
    """One of the three files: its possible names and its contents."""

    names: tuple[str, ...]  # the first is the one that `spacy project assets` uses
    sentences: int
    tokens: int
    sha256: str  # of what `normalise` returns, in UTF-8


PARTS: Mapping[str, Part] = {
    "train": Part(
        ("wnut17train.conll", "train.iob"),
        3394,
        62730,
        "1cf455647d19303423e31976257ef6a9e7f0afcec770a2060c07f8774ff2f4cf",
    ),
    "dev": Part(
        ("emerging.dev.conll", "dev.iob"),
        1009,
        15733,
        "dabdf708d53fcdf5a963b839a87f707066f1a07a9e5670c7aa0443b327c47b6b",
    ),
    "test": Part(
        ("emerging.test.annotated", "test.iob"),
        1287,
        23394,
        "f5bdf528f9bdba164b101b463acd164e35db4f4f6c57d7d6cc3b4b7c6ef84a20",
    ),
}
FETCH = "fetch them with `python -m spacy project assets`, or name their folder: --vars.wnut17_folder FOLDER"


def normalise(text: str, where: str) -> str:
    """Format as lines of token TAB BIO tag, with a blank line between sentences and no space at line ends."""
    sentences = [_mend(sentence) for sentence in _sentences(text, where)]
    blocks = ("".join(f"{token}\t{tag}\n" for token, tag in sentence) for sentence in sentences)
    return "\n".join(blocks)


def _sentences(text: str, where: str) -> Iterator[list[tuple[str, str]]]:
    sentence: list[tuple[str, str]] = []
    # Not splitlines(): a token may hold one of the characters that Unicode counts as line ends.
    for number, line in enumerate(text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n"), start=1):
        columns = line.strip(" \t\r").split("\t")
        if columns == [""]:
            if sentence:
                yield sentence
            sentence = []
        elif len(columns) == 2:
            sentence.append((columns[0].strip(" "), columns[1].strip(" ")))
        else:
            raise DataError(
                f"{where}:{number}: found {line[:60]!r}; expected a token and a tag with one TAB between; "
                f"fix: delete the file and {FETCH}"
            )
    if sentence:
        yield sentence


def _mend(sentence: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Make each entity begin with B-: a few in the original files begin with I-."""
    mended = []
    inside = ""
    for token, tag in sentence:
        prefix, _, label = tag.partition("-")
        if prefix == "I" and label != inside:
            prefix = "B"
        inside = label
        mended.append((token, f"{prefix}-{label}" if label else tag))
    return mended


def find(folder: Path, part: Part) -> Path:
    """Find the file of a part under one of its names."""
    for name in part.names:
        if (folder / name).is_file():
            return folder / name
    here = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no such folder"
    raise DataError(f"{folder}: found {here or 'nothing'}; expected {' or '.join(part.names)}; fix: {FETCH}")


def check(content: str, part: Part, where: str) -> None:
    """Raise DataError if the content does not match the part."""
    found = hashlib.sha256(content.encode("utf-8")).hexdigest()
    if found != part.sha256:
        tokens = sum(1 for line in content.split("\n") if line)
        sentences = content.count("\n\n") + 1 if content else 0
        raise DataError(
            f"{where}: found {sentences:,} sentences with {tokens:,} tokens, SHA-256 of the content {found}; "
            f"expected {part.sentences:,} sentences with {part.tokens:,} tokens, SHA-256 {part.sha256}; "
            f"fix: the file is not the published one or was changed: delete it and {FETCH}"
        )


def prepare(folder: Path, output: Path) -> list[Path]:
    """Check the files in `folder`, and only then write train.iob, dev.iob and test.iob to `output`."""
    contents = {}
    for name, part in PARTS.items():
        path = find(folder, part)
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: found bytes that are not UTF-8, at {error.start}; expected UTF-8; "
                f"fix: delete the file and {FETCH}"
            ) from None
        contents[name] = normalise(text, str(path))
        check(contents[name], part, str(path))
    output.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (output / f"{name}.iob").write_bytes(content.encode("utf-8"))
    return [output / f"{name}.iob" for name in contents]


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with the three files, under their original names or ours.")],
    output: Annotated[Path, typer.Option(help="Folder for train.iob, dev.iob and test.iob.")],
) -> None:
    """Check the files of WNUT-17 and write them in one plain format."""
    with clean_errors():
        written = prepare(folder, output)
    show(f"The files in {folder} match WNUT-17. Written: {', '.join(map(str, written))}")


if __name__ == "__main__":
    typer.run(main)
