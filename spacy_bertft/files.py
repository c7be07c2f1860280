"""Files and folders that are whole or not there at all, and folders in one bytestring."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TypeVar

import srsly

from spacy_bertft.errors import ConfigError

_T = TypeVar("_T")
PIPELINE = "config.cfg"  # in the folder of every pipeline


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, then put it in its place: the old file may be mapped into memory, here or elsewhere."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.touch()
        mode = part.stat().st_mode
        write(part)
        part.chmod(mode)  # safetensors makes files that only their owner can read
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


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


@contextmanager
def staged_files(targets: Sequence[Path]) -> Iterator[list[Path]]:
    """Paths to write files to, which are moved to `targets` if the block succeeds and deleted if it does not."""
    temporary = [target.with_name(f".{target.name}.{os.getpid()}.tmp") for target in targets]
    try:
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
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
        holder = Path(tempfile.mkdtemp(prefix=".bertft-", dir=there))
    except OSError as error:
        raise unwritable(error) from error
    try:
        yield holder / "new"
        try:
            _replace_folder(holder / "new", target, old=holder / "old")
        except OSError as error:
            raise unwritable(error) from error
    finally:
        shutil.rmtree(holder, ignore_errors=True)


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
