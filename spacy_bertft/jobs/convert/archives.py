"""ZIPs: reading their members within limits, and those that hold one file of annotated texts, as doccano exports it."""

from __future__ import annotations

import lzma
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO

from spacy_bertft.errors import BertftError, DataError, data_error
from spacy_bertft.jobs.convert.format import Format, one_part
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Record
from spacy_bertft.jobs.convert.tally import Tally

_MAX_UNPACKED = 1 << 29  # bytes of a member; a few kilobytes may claim to hold gigabytes
_SHOWN = 8  # names of members in a message
_OFFICE = ("[Content_Types].xml", "mimetype")  # in the files of Microsoft's and of OpenDocument's programs
# What zipfile raises where a member is damaged; RuntimeError: encrypted, or packed by a method that it does not know.
_BROKEN = (zipfile.BadZipFile, RuntimeError, zlib.error, lzma.LZMAError, EOFError, OSError)


def is_zip(path: Path) -> bool:
    """Whether a path is a ZIP with all its parts; one that was cut off is none."""
    return path.is_file() and zipfile.is_zipfile(path)


def opened(file: Path | IO[bytes], where: str) -> zipfile.ZipFile:
    """Open a ZIP. where: what to call it in messages."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError) as error:
        raise _unreadable(where, error, fix="export or download it again") from error
    # The end of a ZIP that was cut off may hold a whole one: the last document that was written to it.
    if min((one.header_offset for one in archive.infolist()), default=0):
        raise data_error(
            where,
            found="a ZIP that begins in the middle of the file",
            expected="one at its beginning",
            fix="the file may be cut off: export or download it again",
        )
    return archive


def unpack(archive: zipfile.ZipFile, name: str, where: str, to: IO[bytes]) -> None:
    """Write the content of a member. zipfile reads no more of it than the size that the ZIP says it has."""
    size = archive.getinfo(name).file_size
    if size > _MAX_UNPACKED:
        raise data_error(
            f"{where}/{name}",
            found=f"{size:,} bytes when unpacked",
            expected=f"at most {_MAX_UNPACKED:,}",
            fix="if you expect a file of that size, unpack the ZIP and name what it holds; else don't open this ZIP",
        )
    try:
        with archive.open(name) as member:
            shutil.copyfileobj(member, to)
    except _BROKEN as error:
        raise _unreadable(f"{where}/{name}", error, fix="pack or export it again, without a password") from error


def _unreadable(where: str, error: Exception, *, fix: str) -> DataError:
    """The error for a ZIP, or a member of one, that can't be read."""
    said = " ".join(str(error).split())
    return data_error(
        where, found=f"a ZIP that can't be read ({type(error).__name__}: {said})", expected="a whole ZIP", fix=fix
    )


# --- ZIPs of one file


def in_zip(path: Path, format_of: Callable[[Path], Format]) -> Format:
    """The format of the one file in a ZIP, which reads it from there. format_of: finds the format of that file.

    Raises DataError for a ZIP with several files, or none.
    """
    with _only_file(path) as (file, _):
        found = format_of(file)

    def read(path: Path, options: Options, tally: Tally) -> Iterator[Record]:
        with _only_file(path) as (file, called):
            for record in found.read(file, options, tally):
                yield replace(record, where=called(record.where))

    return replace(found, read=read, parts=one_part)


@contextmanager
def _only_file(path: Path) -> Iterator[tuple[Path, Callable[[str], str]]]:
    """Unpack the one file in a ZIP for as long as the block lasts.

    Yields its path, and a function that puts its place in the ZIP for this path in a message. Errors of the block name
    this place too.
    """
    with opened(path, str(path)) as archive, TemporaryDirectory() as folder:
        name = _only_name(archive, path)
        # Nothing but the ending comes from the ZIP, whose names could lead to other folders.
        ending = PurePosixPath(name).suffix
        file = Path(folder, f"texts{ending if ending[1:].isalnum() else ''}")

        def called(message: str) -> str:
            return message.replace(str(file), f"{path}/{name}")

        with file.open("wb") as target:
            unpack(archive, name, str(path), target)
        if is_zip(file):  # which could hold another one, without end
            where = f"{path}/{name}"
            raise data_error(where, found="a ZIP in a ZIP", expected="annotated texts", fix="unpack the outer one")
        try:
            yield file, called
        except BertftError as error:
            raise type(error)(called(str(error))) from None


def _only_name(archive: zipfile.ZipFile, path: Path) -> str:
    """The name of the one file in a ZIP, apart from those that operating systems add."""
    names = [one.filename for one in archive.infolist() if not one.is_dir() and not _is_hidden(one.filename)]
    if any(name in names for name in _OFFICE):
        raise data_error(
            str(path),
            found="a file of Excel, Word or another office program",
            expected="a file of annotated texts",
            fix="save the table as CSV (.csv), in UTF-8",
        )
    if len(names) != 1:
        shown = ", ".join(sorted(names)[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        raise data_error(
            str(path),
            found=f"a ZIP of {len(names)} files: {shown}" if names else "a ZIP without files",
            expected="one file of annotated texts in it, or an export of INCEpTION",
            fix="unpack it, and name the files to read, or their folder if they belong together"
            if names
            else "check how it was made",
        )
    return names[0]


def _is_hidden(name: str) -> bool:
    """Whether a member is what macOS and other systems add to folders."""
    return any(part.startswith((".", "__MACOSX")) and part != ".." for part in PurePosixPath(name).parts)
