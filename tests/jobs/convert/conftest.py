from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from convert_helpers import Made, load

from spacy_bertft.convert import convert


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Made]:
    """`made(name, content)` converts one file and gives what came out."""

    def make(name: str, content: str | bytes, **options: Any) -> Made:
        source = tmp_path / name
        source.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        target = tmp_path / "made.spacy"
        report = convert([source], target, **options)
        assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []
        return Made(report.files[0].counts, load(target), report.files[0].format)

    return make


@pytest.fixture
def converted(tmp_path: Path) -> Callable[..., Made]:
    """`converted(path)` converts a file or folder that is there and gives what came out."""

    def run(path: Path, **options: Any) -> Made:
        target = tmp_path / "converted.spacy"
        report = convert([path], target, **options)
        return Made(report.files[0].counts, load(target), report.files[0].format)

    return run
