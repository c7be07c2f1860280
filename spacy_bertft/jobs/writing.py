"""Disk errors during writing, as one error of ours with the path and the cause."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from spacy_bertft.errors import ConfigError

# Errors of the disk or of permissions, not of a path that doesn't exist.
_OF_DISKS = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "EFBIG", "EMFILE")
    if hasattr(errno, name)
}


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn errors of a block that writes, such as a full disk or missing permissions, into a ConfigError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"The output {str(out)!r} could not be written: {_said(error)}. Expected a place to write to, with room "
            "for it. Check the path, its permissions and the free space."
        ) from error


def disk_error(error: BaseException | None) -> OSError | None:
    """The disk error that caused another error; None if there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _OF_DISKS:
            return error
        error = error.__cause__ or error.__context__
    return None


def _said(error: Exception) -> str:
    """An error's message on one line; if a folder could not be copied, the message about its first file."""
    first = error.args[0] if isinstance(error, shutil.Error) and error.args else None
    if isinstance(first, list) and first:
        return str(first[0][-1])
    return " ".join(str(error).split()).removesuffix(".") or type(error).__name__
