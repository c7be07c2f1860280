"""Raw text from files and folders, as documents: lists of consecutive texts."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path
from typing import IO, cast

from spacy_bertft.errors import ConfigError, data_error
from spacy_bertft.jobs.text_files import JSON_LINES_FIX, decode, parse_json, without_mark

_KINDS = (".txt", ".jsonl", ".spacy")
_PACKINGS = ("", ".gz", ".xz")
MAX_BYTES = 1_000_000  # of a text; longer ones are cut
MAX_TEXTS, MAX_CHARACTERS = 10_000, 10_000_000  # of a document, which is split where it reaches either
_PROGRESS_STEP = 1_000_000  # bytes

OnBytesRead = Callable[[int, int], object]  # bytes read so far, and in all


def read_documents(
    paths: Sequence[Path], *, text_key: str = "text", progress: OnBytesRead | None = None
) -> Iterator[list[str]]:
    """Yield the documents of all files: non-empty lists of texts, which are stripped and not blank.

    paths: files, and folders that are searched for files with known endings.
        .txt    One text per line. Blank lines separate documents; without any, the whole file is one.
        .jsonl  Objects with a string under `text_key`, each a document. Its lines are the texts.
        .spacy  DocBins. Each Doc is a document, the lines of its text are the texts.
        All of them also compressed, as .txt.gz or .txt.xz.
    progress: called now and then with the bytes read so far and in all, counted in the files as they are on disk.

    Memory is bounded, however large the files: a text of more than MAX_BYTES in UTF-8 is split, after a space if
    there is one, and a document of more than MAX_TEXTS or MAX_CHARACTERS becomes several. But a whole record of a
    .jsonl file and a whole .spacy file are held in memory. Unpaired surrogates (in JSON) become question marks.
    """
    if not text_key:
        raise ConfigError("text_key: found an empty string; expected a name; fix: leave it out or fill it")
    files = text_files(paths)
    total = sum(path.stat().st_size for path in files)
    before, shown, count = 0, 0, 0
    for path in files:
        with _reading(path):
            raw = path.open("rb")
        with raw:
            for document in _group(_texts(path, raw, text_key)):
                count += 1
                yield document
                if progress is not None and before + raw.tell() >= shown + _PROGRESS_STEP:
                    shown = before + raw.tell()
                    progress(shown, total)
            before += raw.tell()
    if count == 0:
        raise data_error(
            ", ".join(map(str, files[:3])) + (", …" if len(files) > 3 else ""),
            found="no text (empty files, or nothing but white space)",
            expected="at least one line",
            fix="check how the files were made",
        )
    if progress is not None:
        progress(total, total)


def text_files(paths: Sequence[Path], *, exclude: Sequence[str] = ()) -> list[Path]:
    """List the files to read, each once: the given files, and files with known endings in the given folders.

    Folders are walked in sorted order; names that start with a dot or match a pattern of `exclude` are skipped.
    """
    if not paths:
        raise ConfigError("paths: found none; expected files or folders with text; fix: name one")
    found: dict[Path, Path] = {}
    unused = set(exclude)
    for path in paths:
        if not path.is_dir():
            found.setdefault(path.resolve(), _checked(path))
            continue
        for file in _walk(path):
            matching = [pattern for pattern in exclude if fnmatchcase(file.name, pattern)]
            unused.difference_update(matching)
            if not matching:
                found.setdefault(file.resolve(), file)
    if unused or not found:
        raise ConfigError(
            f"exclude: found {list(exclude)}, "
            + (f"of which {sorted(unused)} match no file in a folder" if unused else "which leave no file")
            + "; expected patterns that match some file names in the given folders; fix: correct them"
        )
    return list(found.values())


def _known() -> str:
    return f"{', '.join(_KINDS)}, and each of them followed by {' or '.join(_PACKINGS[1:])}"


def kind_of_file(path: Path) -> tuple[str, str] | None:
    """The members of _KINDS and _PACKINGS that a file's name ends in; None if it ends otherwise."""
    name = path.name.lower()
    return next(((kind, packing) for kind in _KINDS for packing in _PACKINGS if name.endswith(kind + packing)), None)


def _walk(folder: Path) -> list[Path]:
    files = sorted(
        path
        for path in folder.rglob("*")
        if kind_of_file(path)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise data_error(
            str(folder),
            found="a folder without any text file",
            expected=f"files that end in {_known()}",
            fix="check the path, or rename the files",
        )
    return files


def _checked(path: Path) -> Path:
    if not path.exists():
        raise data_error(str(path), found="no such file", expected="a file or folder", fix="check the path")
    if not path.is_file():
        raise data_error(
            str(path),
            found="something that is not a regular file",
            expected="a file or folder",
            fix="save it to a file first",
        )
    if kind_of_file(path) is None:
        raise data_error(
            str(path),
            found=f"a file name that ends in {path.suffix!r}",
            expected=_known(),
            fix="rename it to what it is, or convert it to .txt with one text a line",
        )
    return path


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors of reading and decompressing a file into DataErrors."""
    try:
        yield
    except EOFError:
        raise data_error(
            str(path),
            found="a compressed file that is cut off",
            expected="a complete one",
            fix="copy or download it again",
        ) from None
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error) as err:
        raise data_error(
            str(path),
            found=f"a compressed file that can't be decompressed ({err})",
            expected=f"the format that its ending {path.suffix} says",
            fix="copy or download it again, or rename it if it is something else",
        ) from err
    except OSError as err:
        raise data_error(
            str(path),
            found=f"a file that can't be read ({err.strerror or err})",
            expected="a readable file",
            fix="check its permissions, and the disk",
        ) from err


def _group(texts: Iterable[str]) -> Iterator[list[str]]:
    """Group texts into documents; an empty text ends a document."""
    document: list[str] = []
    size = 0
    for text in texts:
        if text:
            document.append(text)
            size += len(text)
        if document and (not text or len(document) >= MAX_TEXTS or size >= MAX_CHARACTERS):
            yield document
            document, size = [], 0
    if document:
        yield document


def _texts(path: Path, raw: IO[bytes], text_key: str) -> Iterator[str]:
    """Yield the texts of one file, with empty ones between its documents."""
    kind, packing = kind_of_file(path) or ("", "")
    with _reading(path):
        stream = _unpacked(raw, packing)
        if kind == ".txt":
            yield from _plain(path, stream)
        elif kind == ".jsonl":
            yield from _records(path, stream, text_key)
        else:
            yield from _docs(path, stream)


def _unpacked(raw: IO[bytes], packing: str) -> IO[bytes]:
    if packing == ".gz":
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    return lzma.open(raw) if packing == ".xz" else raw


def _plain(path: Path, stream: IO[bytes]) -> Iterator[str]:
    for number, raw, whole in _lines(stream):
        text = _decode(raw, path, number).strip()
        if text or whole:
            yield text


def _records(path: Path, stream: IO[bytes], text_key: str) -> Iterator[str]:
    for number, raw in enumerate(stream, 1):
        line = _decode(raw, path, number)
        if line.strip():
            yield from _document(_record(line, f"{path}:{number}", text_key))


def _record(line: str, where: str, text_key: str) -> str:
    record = parse_json(line, where, expected="one JSON object", fix=JSON_LINES_FIX)
    text = record.get(text_key) if isinstance(record, dict) else None
    if not isinstance(text, str):
        keys = f"the keys {', '.join(map(repr, record))[:60]}" if isinstance(record, dict) else type(record).__name__
        raise data_error(
            where,
            found=f"no text under {text_key!r} ({keys})",
            expected=f'an object such as {{"{text_key}": "…"}}',
            fix="name the key that holds the text with text_key",
        )
    return text


def _docs(path: Path, stream: IO[bytes]) -> Iterator[str]:
    from spacy.tokens import DocBin
    from spacy.vocab import Vocab

    data = stream.read()
    try:
        for doc in DocBin().from_bytes(data).get_docs(Vocab()):
            yield from _document(doc.text)
    except Exception as err:  # raised by msgpack, zlib, numpy or spaCy
        raise data_error(
            str(path),
            found=f"a file that spaCy can't read ({type(err).__name__}: {err})",
            expected="a DocBin, as doc_bin.to_disk writes it",
            fix="make it again, or rename it if it is something else",
        ) from err


def _document(text: str) -> Iterator[str]:
    """Yield the lines of a text, and then an empty text, which ends the document."""
    for _, raw, _ in _lines(BytesIO(text.encode("utf-8", "replace"))):
        if line := raw.decode("utf-8").strip():
            yield line
    yield ""


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes, bool]]:
    """Yield lines, or pieces of lines over MAX_BYTES: line number, bytes, and whether they are the whole line."""
    number, rest, whole = 1, b"", True
    while raw := rest + stream.readline(MAX_BYTES - len(rest)):
        rest = b""
        last = len(raw) < MAX_BYTES or raw.endswith(b"\n")
        if not last:
            cut = _cut(raw)
            raw, rest = raw[:cut], raw[cut:]
        yield number, raw, whole and last
        number, whole = number + last, last


def _cut(raw: bytes) -> int:
    """Where to cut UTF-8: after the last space or tab, or else before the last character's first byte."""
    space = max(raw.rfind(b" "), raw.rfind(b"\t")) + 1
    if space:
        return space
    starts = (at for at in range(len(raw) - 1, len(raw) - 5, -1) if raw[at] & 0xC0 != 0x80)
    return next(starts, len(raw))


def _decode(raw: bytes, path: Path, number: int) -> str:
    raw = without_mark(raw, number)
    where, fix = f"{path}:{number}", "save the file as UTF-8, or leave it out"
    if (nul := raw.find(b"\0")) >= 0:
        found = f"a NUL at byte {nul + 1} of the line (a binary file, or UTF-16)"
        raise data_error(where, found=found, expected="UTF-8 text", fix=fix)
    return decode(raw, where, guess=" (a binary file, or not UTF-8)", fix=fix)
