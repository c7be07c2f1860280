"""Atomic writes: files and folders appear whole, or not at all; and folders in one bytestring."""

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
_NEW, _OLD = "new", "old"  # in the holder of a staged folder
PIPELINE = "config.cfg"  # in the folder of every pipeline
PART = ".part"  # ends the name of a file that is not complete yet


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, then put it in its place: the old file may be mapped into memory, here or elsewhere."""
    _replace({path: write})


def replace_files(folder: Path, writes: Mapping[str, Callable[[Path], object]]) -> None:
    """Write files of a folder that is ours alone, then put them in their places, in this order.

    If one of them can't be written, all stay as they were. What a save that was killed left is removed.
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


@contextmanager
def saving(what: str, folder: Path) -> Iterator[None]:
    """Turn the errors of a block that saves something to a folder into one ConfigError. what: for the message."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"The {what} can't be saved in {str(folder)!r}: {error} Expected a folder to write to, with enough free "
            "space. Check the path, its permissions and the disk, and save again. A pipeline that was saved there "
            "before may be half replaced; loading it says so."
        ) from error


def to_bytes(write: Callable[[Path], object]) -> bytes:
    """All files that `write` puts in a folder, in one bytestring."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        content = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    packed: bytes = srsly.msgpack_dumps(content)
    return packed


def from_bytes(packed: bytes, read: Callable[[Path], _T]) -> _T:
    """What `read` makes of a folder with the files that `to_bytes` packed. A ConfigError if they are something else.

    The bytes may come from anywhere, so no name in them may lead out of the folder.
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
    except Exception as error:  # msgpack raises of all kinds
        raise ConfigError(
            f"Found bytes that can't be read ({type(error).__name__}); expected what to_bytes() gave. Make them again."
        ) from error
    if not isinstance(content, dict) or not all(isinstance(data, bytes) for data in content.values()):
        raise ConfigError("Found bytes that hold no files; expected what to_bytes() gave. Make them again.")
    return content


def _check_name(name: object) -> None:
    # As Windows reads it too: a backslash or a colon there is more than a character.
    plain = isinstance(name, str) and not set(name) & set("\\:\0") and PurePosixPath(name).as_posix() == name
    if not plain or not isinstance(name, str) or name.startswith("/") or {"", ".", ".."} & set(name.split("/")):
        raise ConfigError(
            f"The bytes hold a file named {name!r}; expected names inside one folder, such as 'config.json'. They were "
            "not made by to_bytes(): don't load what comes from this source."
        )


# --- staged: made beside their target, and moved there when they are whole


@contextmanager
def staged_files(targets: Sequence[Path]) -> Iterator[list[Path]]:
    """Paths to write files to, which are moved to `targets` if the block succeeds and deleted if it does not."""
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
            with suppress(OSError):  # it isn't there, or its folder isn't
                name.unlink()


@contextmanager
def staged_folder(target: Path, unwritable: Callable[[OSError], Exception]) -> Iterator[Path]:
    """A path to make a folder at, which is moved to `target` if the block succeeds and deleted if it does not.

    It replaces what is there. unwritable: makes the error for a target that can't be written; other errors pass.
    """
    # On the same disk, and in a folder that is there: one made for a block that fails would remain.
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
    """What the names of all that this process stages begin with: they say who made it. pid: of another process."""
    # Without hyphens inside, so that no host's name can pass for another's with a process id.
    host = quote(socket.gethostname(), safe="").replace("-", "%2D")
    return f".bertft-{host}-{os.getpid() if pid is None else pid}-"


def _remove_left(folder: Path) -> None:
    """Remove what processes of this machine staged in a folder and left there when they were killed."""
    if os.name != "posix":  # elsewhere there is no asking whether a process is there without harm
        return
    try:
        paths = list(folder.iterdir())
    except OSError:  # it can be written without being read
        return
    for path in paths:
        made_by = re.match(r"\.bertft-[^-]+-(\d{1,9})-", path.name)
        if made_by and path.name.startswith(_staging_prefix(int(made_by[1]))) and _is_gone(int(made_by[1])):
            _discard(path)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        return False
    return False


def _discard(path: Path) -> None:
    """Delete what was staged."""
    if (path / _OLD).exists() and (path / _NEW).exists():  # stopped between two moves: this is the only copy
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _replace_folder(new: Path, folder: Path, *, old: Path) -> None:
    """Put `new` in the place of `folder`; what is there goes to `old`, and comes back if that fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise


@contextmanager
def staged_pipeline(pipeline: Path, out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A `staged_folder` for what is made of a pipeline. An error if `out` holds anything that should stay."""
    _check_out(pipeline, out, overwrite=overwrite)
    with staged_folder(out, partial(_unwritable, out)) as folder:
        yield folder


def _check_out(pipeline: Path, out: Path, *, overwrite: bool) -> None:
    source, target = pipeline.resolve(), out.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise ConfigError(
            f"The output {str(out)!r} is the pipeline {str(pipeline)!r} itself, or one lies in the other. Expected "
            "another folder: the pipeline stays as it is. Give a path beside it."
        )
    found = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if out.exists() and not out.is_dir():
        raise ConfigError(f"The output {str(out)!r} is a file. Expected a folder, or a path that is free.")
    if found and PIPELINE not in found:
        raise ConfigError(
            f"The output {str(out)!r} holds other things than a pipeline ({', '.join(found[:8])}). Expected a path "
            "that is free, or an empty folder. Give another."
        )
    if found and not overwrite:
        raise ConfigError(
            f"The output {str(out)!r} holds a pipeline already. Expected a path that is free. Give another, or replace "
            "what is there with --overwrite."
        )


def _unwritable(out: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"The output {str(out)!r} can't be written: {error} Expected a folder to write to. Check the path, its "
        "permissions and the free space."
    )
