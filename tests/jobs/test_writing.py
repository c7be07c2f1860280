"""Disks that are full, and what is said of them."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError

from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.writing import disk_error, writing

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'"), ("c", "d", "other")]),
    ],
    ids=["OSError", "SafetensorError", "of copytree"],
)
def test_a_full_disk_is_one_message(error):
    with pytest.raises(ConfigError) as caught, writing(Path("some/where")):
        raise error
    message = str(caught.value)
    assert message.startswith("The output 'some")
    assert "No space left on device" in message
    assert message.endswith(". Check the path, its permissions and the free space.")
    assert "other" not in message
    assert "\n" not in message


def test_a_disk_that_is_full_indeed():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with pytest.raises(ConfigError, match="No space left on device"), writing(Path("out")):
        Path("/dev/full").write_text("a")


def test_errors_of_ours_pass():
    with pytest.raises(DataError, match="as it was"), writing(Path("out")):
        raise DataError("as it was")


def test_the_error_of_a_disk_behind_others():
    for other in (OSError("no such model on the hub"), FileNotFoundError(errno.ENOENT, "none"), ValueError(), None):
        assert disk_error(other) is None
    behind = ValueError("could not be loaded")
    behind.__cause__ = FULL
    assert disk_error(behind) is disk_error(FULL) is FULL
