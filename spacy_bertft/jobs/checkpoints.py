"""Checkpoints of a run: folders named by step, written completely or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from spacy_bertft.errors import DataError
from spacy_bertft.files import sync, sync_all

PREFIX = "checkpoint-"


def write_checkpoint(folder: Path, step: int, write: Callable[[Path], None], *, keep: int = 1) -> Path:
    """Write checkpoint-<step>, then delete all but the newest `keep`.

    write: puts the files into the folder that it is given. If that fails, earlier checkpoints are as they were. Raises
        a DataError for errors of the disk.
    """
    target = folder / f"{PREFIX}{step}"
    part = folder / f".{target.name}.part"
    _delete_parts(folder)
    try:
        part.mkdir(parents=True)
        write(part)
        sync_all(part)
        _delete(target)
        os.replace(part, target)
        sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise DataError(
            f"The checkpoint {target} could not be written: {error}. Expected room for it on the disk. Free some and "
            "start again with --resume: the previous checkpoint is intact."
        ) from error
    found = find_checkpoints(folder)
    for old in sorted(found)[:-keep]:
        _delete(found[old])
    return target


def find_checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder, by step."""
    paths = folder.glob(f"{PREFIX}*") if folder.is_dir() else ()
    return {int(path.name.removeprefix(PREFIX)): path for path in paths if path.name.removeprefix(PREFIX).isdigit()}


def delete_checkpoints(folder: Path) -> None:
    """Delete all checkpoints in a folder."""
    for path in find_checkpoints(folder).values():
        _delete(path)
    _delete_parts(folder)


def _delete(checkpoint: Path) -> None:
    """Take its name from a checkpoint, then delete its files: a kill in between must not leave half of one."""
    trash = checkpoint.with_name(f".{checkpoint.name}.deleted.part")
    with suppress(OSError):
        os.replace(checkpoint, trash)
    shutil.rmtree(trash, ignore_errors=True)


def _delete_parts(folder: Path) -> None:
    """Delete what killed processes have not written or deleted to the end."""
    for path in folder.glob(f".{PREFIX}*.part"):
        shutil.rmtree(path, ignore_errors=True)
