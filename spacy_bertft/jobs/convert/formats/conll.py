"""CoNLL and IOB files: a token and its tag on each line, a blank line between sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spacy_bertft.errors import data_error
from spacy_bertft.jobs.convert.annotated import Annotated, Token, count_unknown
from spacy_bertft.jobs.convert.format import Format, Sample
from spacy_bertft.jobs.convert.iob import Decoder, Tag, parse_tag
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Record, brief
from spacy_bertft.jobs.convert.sentences import EXPECTED_TAG, Sentence, merged
from spacy_bertft.jobs.convert.tally import Tally
from spacy_bertft.jobs.text_files import lines

_DOCSTART = "-DOCSTART-"
_COMMENT = "# "
_ROWS = 200  # of a sample


@dataclass(frozen=True)
class _Layout:
    """Column layout of the file's first token line; all others must have the same."""

    width: int
    tabs: bool

    def split(self, line: str) -> list[str]:
        if self.tabs:
            return [column.strip(" ") for column in line.split("\t")]
        return re.split(r"[ \t]+", line.strip(" \t"))  # not str.split: a no-break space may be a token


def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
    """Yield a Record per sentence, or per `merge_sentences` sentences; none continues past a -DOCSTART-."""
    decoder = Decoder()
    yield from merged(_sentences(path, decoder, options, tally), options)
    tally.repair(decoder.repaired, str(path))


def _sentences(path: Path, decoder: Decoder, options: Options, tally: Tally) -> Iterator[Sentence | None]:
    """Yield the sentences, and None where a document begins."""
    layout = _layout(path)
    kinds: dict[bool, str] = {}  # whether a tag is plain, without a prefix -> the first such tag
    words: list[str] = []
    tags: list[Tag] = []
    begun = 0  # line of the sentence's first token

    def sentence() -> Sentence:
        return Sentence(f"{path}:{begun}", words, decoder.decode(tags))

    for number, ended in lines(path):
        line = ended.rstrip("\r\n")
        docstart = line.startswith(_DOCSTART)
        if docstart or not line.strip(" \t"):
            if words:
                yield sentence()
                words, tags = [], []
            if docstart:
                tally.skipped += 1
                yield None
        elif line.startswith(_COMMENT) and _is_comment(layout.split(line), layout, options):
            tally.skipped += 1
        else:
            word, tag = _token(line, f"{path}:{number}", layout, options, kinds)
            begun = begun if words else number
            words.append(word)
            tags.append(tag)
    if words:
        yield sentence()


def _layout(path: Path) -> _Layout:
    for _, ended in lines(path):
        line = ended.rstrip("\r\n")
        if line.strip(" \t") and not line.startswith((_DOCSTART, _COMMENT)):
            tabs = "\t" in line
            return _Layout(len(_Layout(0, tabs).split(line)), tabs)
    return _Layout(width=2, tabs=False)


def _is_comment(columns: list[str], layout: _Layout, options: Options) -> bool:
    """Whether a line that begins with "# " is a comment; if "#" is a token, the line has all columns and a tag."""
    tag_at = _index(options.tag_column)
    if len(columns) != layout.width or not -layout.width <= tag_at < layout.width:
        return True
    tag = parse_tag(columns[tag_at])
    return tag is None or tag.prefix == ""


def _token(line: str, where: str, layout: _Layout, options: Options, kinds: dict[bool, str]) -> tuple[str, Tag]:
    columns = layout.split(line)
    _check_columns(columns, where, layout, options)
    word, text = columns[_index(options.token_column)], columns[_index(options.tag_column)]
    tag = parse_tag(text)
    if tag is None:
        raise data_error(
            where,
            found=f"the tag {brief(text)}",
            expected=EXPECTED_TAG,
            fix="name the tag's column with tag_column (--tag-column), or write the tags with label names",
        )
    if not word:
        raise data_error(where, found="no token", expected="a token and its tag", fix="delete this line")
    if tag.prefix != "O":
        kinds.setdefault(tag.prefix == "", text)
    if len(kinds) == 2:
        raise data_error(
            where,
            found=f"tags with and without a prefix, {kinds[False]!r} and {kinds[True]!r}",
            expected="one scheme",
            fix="write all tags as B-LABEL, I-LABEL and O",
        )
    return word, tag


def _check_columns(columns: list[str], where: str, layout: _Layout, options: Options) -> None:
    needed = max(abs(options.token_column), abs(options.tag_column), 2)
    if len(columns) < needed or len(columns) != layout.width:
        expected = (
            f"{layout.width}, as in the first line with a token" if layout.width >= needed else f"at least {needed}"
        )
        raise data_error(
            where,
            found=f"{len(columns)} columns, {brief(columns)}",
            expected=expected,
            fix="write one token and its tag per line, separated by a tab or a space; choose columns with "
            "token_column and tag_column (--token-column, --tag-column)",
        )
    if any("\r" in column for column in columns):
        raise data_error(
            where,
            found="a bare carriage return",
            expected="lines that end in \\n or \\r\\n",
            fix="convert the line ends",
        )


def _index(column: int) -> int:
    """List index of a column; columns are counted from 1, or backwards from -1."""
    return column - 1 if column > 0 else column


# --- writing


def write(texts: Sequence[Annotated], path: Path, tally: Tally) -> None:
    """Write a token and its IOB2 tag per line, and a blank line after each text."""
    count_unknown(texts, tally, what="entities")
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for one in texts:
            # A token of white space would break its line; it is never at the edge of an entity.
            file.writelines(_line(token, one.where) for token in one.tokens if token.text.strip())
            file.write("\n")


def _line(token: Token, where: str) -> str:
    if token.text.startswith(_DOCSTART) or re.search(r"[\t\r\n]", token.text + token.tag):
        raise data_error(
            where,
            found=f"the token {brief(token.text)} with the tag {brief(token.tag)}",
            expected=f"no tab or line end inside of them, and no token that begins with {_DOCSTART}, since CoNLL uses "
            "them for its own structure",
            fix="leave this text out, or choose another format (--to)",
        )
    return f"{token.text}\t{token.tag}\n"


def _fits(sample: Sample) -> bool:
    """Whether all lines have as many columns as the first, and a tag in the tags' column."""
    rows = [line for line in sample.lines if line.strip(" \t") and not line.startswith((_DOCSTART, _COMMENT))]
    if not rows:
        return False
    tabs = "\t" in rows[0]
    layout = _Layout(len(_Layout(0, tabs).split(rows[0])), tabs)
    at = _index(sample.options.tag_column)
    if layout.width < 2 or not -layout.width <= at < layout.width:
        return False
    columns = [layout.split(row) for row in rows[:_ROWS]]
    if any(len(row) != layout.width for row in columns):
        return False
    tags = [parse_tag(row[at]) for row in columns]
    return all(tags) and any(tag is not None and tag.prefix for tag in tags)


FORMAT = Format(
    "conll",
    "CoNLL",
    fits=_fits,
    read=read,
    endings=(".conll", ".iob", ".bio"),
    write=write,
    ending=".conll",
    holds=frozenset({"entities"}),
)
