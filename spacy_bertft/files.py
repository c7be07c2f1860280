"""Files and folders that are whole or not there at all, and folders in one bytestring."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import srsly

T = TypeVar("T")


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, then put it in its place: the old file may be mapped into memory, here or elsewhere."""
    part = path.with_name(f"{path.name}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def replace_folder(new: Path, folder: Path, *, old: Path) -> None:
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


def to_bytes(write: Callable[[Path], object]) -> bytes:
    """All files that `write` puts in a folder, in one bytestring."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        content = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    packed: bytes = srsly.msgpack_dumps(content)
    return packed


def from_bytes(packed: bytes, read: Callable[[Path], T]) -> T:
    """What `read` makes of a folder with the files that `to_bytes` packed."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for path, content in srsly.msgpack_loads(packed).items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return read(folder)
