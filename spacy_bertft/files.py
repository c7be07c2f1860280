"""Atomic writes of files and folders (complete or not at all), and folders packed into one bytestring."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TypeVar
from urllib.parse import quote
from uuid import uuid4

import srsly
from safetensors import SafetensorError

from spacy_bertft.errors import ConfigError

_T = TypeVar("_T")
_NEW, _OLD = "new", "old"  # inside the temporary folder of `staged_folder`
PIPELINE = "config.cfg"  # every pipeline's folder has one
PART = ".part"  # suffix of a file that is not complete yet


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, then move the file there: the old one may be memory-mapped, by this process or another."""
    _replace({path: write})


def replace_files(folder: Path, writes: Mapping[str, Callable[[Path], object]]) -> None:
    """Write temporary files in `folder`, then move them to their names, in this order.

    If one of them can't be written, all stay as they were. Nobody else may write to the folder: temporary files that
    a killed save left there are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"*{PART}"):
        left.unlink()
    _replace({folder / name: write for name, write in writes.items()})


def _replace(writes: Mapping[Path, Callable[[Path], object]]) -> None:
    parts = {path: path.with_name(path.name + PART) for path in writes}
    try:
        for path, write in writes.items():
            _write(parts[path], write)
        for path, part in parts.items():
            os.replace(part, path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _write(part: Path, write: Callable[[Path], object]) -> None:
    part.touch()
    mode = part.stat().st_mode
    write(part)
    part.chmod(mode)  # safetensors makes files that only their owner can read


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk.

    Otherwise, a power cut may leave part of a file under its final name: names can reach the disk before content.
    """
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_all(folder: Path) -> None:
    """Wait until a folder is on disk, with everything in it."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


@contextmanager
def saving(what: str, folder: Path) -> Iterator[None]:
    """Turn the errors of a block that saves to a folder into a ConfigError. what: what is saved, for the message."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"The {what} can't be saved in {str(folder)!r}: {error} Expected a folder to write to, with enough free "
            "space. Check the path, its permissions and the disk, and save again. A pipeline saved there earlier may "
            "be half replaced; loading it then fails with an error."
        ) from error


def to_bytes(write: Callable[[Path], object]) -> bytes:
    """Pack all files that `write` puts in a folder into one bytestring."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        content = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    packed: bytes = srsly.msgpack_dumps(content)
    return packed


def from_bytes(packed: bytes, read: Callable[[Path], _T]) -> _T:
    """Unpack the result of `to_bytes` into a temporary folder and return `read(folder)`.

    Raises a ConfigError for any other bytes. They may come from an untrusted source, so no file name in them may lead
    out of the folder.
    """
    content = _unpacked(packed)
    for name in content:
        _check_name(name)
    with TemporaryDirectory() as folder:
        for name, data in content.items():
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return read(Path(folder))


def _unpacked(packed: bytes) -> dict[str, bytes]:
    try:
        content = srsly.msgpack_loads(packed)
    except Exception as error:  # msgpack raises many types of errors
        raise ConfigError(
            f"Found bytes that can't be read ({type(error).__name__}); expected the result of to_bytes(). Create "
            "them again."
        ) from error
    if not isinstance(content, dict) or not all(isinstance(data, bytes) for data in content.values()):
        raise ConfigError("Found bytes that hold no files; expected the result of to_bytes(). Create them again.")
    return content


def _check_name(name: object) -> None:
    # Safe on Windows too, where a backslash separates folders and a colon follows a drive.
    plain = isinstance(name, str) and not set(name) & set("\\:\0") and PurePosixPath(name).as_posix() == name
    if not plain or not isinstance(name, str) or name.startswith("/") or {"", ".", ".."} & set(name.split("/")):
        raise ConfigError(
            f"The bytes hold a file named {name!r}; expected names inside one folder, such as 'config.json'. They were "
            "not made by to_bytes(): don't load what comes from this source."
        )


# --- staged: written beside their target, and moved there when complete


@contextmanager
def staged_files(targets: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield paths to write files or new folders to: moved to `targets` if the block succeeds, else deleted."""
    temporary = [target.with_name(f"{_staging_prefix()}{uuid4().hex[:8]}.tmp") for target in targets]
    try:
        for folder in {target.parent for target in targets}:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_left(folder)
        yield temporary
        for name, target in zip(temporary, targets, strict=True):
            os.replace(name, target)
    finally:
        for name in temporary:
            _discard(name)


@contextmanager
def staged_folder(target: Path, unwritable: Callable[[OSError], Exception]) -> Iterator[Path]:
    """Yield a path to create a folder at: it replaces `target` if the block succeeds, else it is deleted.

    unwritable: builds the error for a target that can't be written; other errors are passed on.
    """
    # On the same disk, and in a folder that exists: one created here would remain if the block fails.
    there = next(parent for parent in target.absolute().parents if parent.exists())
    try:
        _remove_left(there)
        holder = Path(tempfile.mkdtemp(prefix=_staging_prefix(), dir=there))
    except OSError as error:
        raise unwritable(error) from error
    try:
        yield holder / _NEW
        try:
            _replace_folder(holder / _NEW, target, old=holder / _OLD)
        except OSError as error:
            raise unwritable(error) from error
    finally:
        _discard(holder)


def _staging_prefix(pid: int | None = None) -> str:
    """Prefix of the names of staged files and folders; it identifies their process. pid: of another process."""
    # Hyphens are escaped, so that no host name can be mistaken for another one followed by a process id.
    host = quote(socket.gethostname(), safe="").replace("-", "%2D")
    return f".bertft-{host}-{os.getpid() if pid is None else pid}-"


def _remove_left(folder: Path) -> None:
    """Remove the staged files and folders that killed processes of this machine left in a folder."""
    if os.name != "posix":  # Windows has no safe os.kill(pid, 0)
        return
    try:
        paths = list(folder.iterdir())
    except OSError:  # writable but not readable
        return
    for path in paths:
        made_by = re.match(r"\.bertft-[^-]+-(\d{1,9})-", path.name)
        if made_by and path.name.startswith(_staging_prefix(int(made_by[1]))) and is_gone(int(made_by[1])):
            _discard(path)


def is_gone(pid: int) -> bool:
    """Whether no process of this machine has this id. Only where os.name is "posix"."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's process
        return False
    return False


def _discard(path: Path) -> None:
    """Delete a staged file or folder."""
    if (path / _OLD).exists() and (path / _NEW).exists():  # killed between two moves: this is the only copy
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _replace_folder(new: Path, folder: Path, *, old: Path) -> None:
    """Move `new` to `folder`. An existing folder is moved to `old` first, and moved back on failure."""
    sync_all(new)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    sync(folder.parent)


@contextmanager
def staged_pipeline(
    pipeline: Path | None, out: Path, *, overwrite: bool, what: str = "a pipeline", marker: str = PIPELINE
) -> Iterator[Path]:
    """A `staged_folder` for what is made from a pipeline. Raises a ConfigError if `out` holds anything to keep.

    pipeline: None: it is no folder of this machine; what: is made, for messages; marker: pattern of a file that all
    such folders have.
    """
    _check_out(pipeline, out, overwrite=overwrite, what=what, marker=marker)
    with staged_folder(out, partial(_unwritable, out)) as folder:
        yield folder


def _check_out(pipeline: Path | None, out: Path, *, overwrite: bool, what: str, marker: str) -> None:
    if pipeline is not None and _overlap(pipeline.resolve(), out.resolve()):
        raise ConfigError(
            f"The output {str(out)!r} is the pipeline {str(pipeline)!r} itself, or one lies in the other. Expected "
            "another folder, because the pipeline is not changed. Give a path beside it."
        )
    found = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if out.exists() and not out.is_dir():
        raise ConfigError(f"The output {str(out)!r} is a file. Expected a folder, or a path that is free.")
    if found and not any(out.glob(marker)):
        raise ConfigError(
            f"The output {str(out)!r} holds something other than {what} ({', '.join(found[:8])}). Expected a path "
            "that is free, or an empty folder. Give another."
        )
    if found and not overwrite:
        raise ConfigError(
            f"The output {str(out)!r} holds {what} already. Expected a path that is free. Give another, or replace "
            "what is there with --overwrite."
        )


def _overlap(one: Path, other: Path) -> bool:
    return one == other or one in other.parents or other in one.parents


def _unwritable(out: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"The output {str(out)!r} can't be written: {error} Expected a folder to write to. Check the path, its "
        "permissions and the free space."
    )
