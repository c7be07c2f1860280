"""The Python code of docs/tools.md runs as it stands there, on a tiny pipeline."""

from __future__ import annotations

import os

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read when it is imported

import re
from pathlib import Path

import pytest
from pipelines import trained

pytestmark = [pytest.mark.tools, pytest.mark.touches_transformers]

PAGE = (Path(__file__).parents[2] / "docs/tools.md").read_text(encoding="utf-8")
# For each block, what it prints on the pipeline of the tests.
EXPECTED = (
    r"(LOCATION 26 30|PERSON 0 9) [01]\.\d+\n",
    r"entity='CITY', start=26, end=30, score=None",
    r"entity='CITY', start=26, end=30, score=[01]\.\d+",
    r"\(1, \d+, 32\) \[\['\[CLS\]'.*\(32,\)\n",
    r"^$",
)
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("code", "expected"), list(zip(BLOCKS, EXPECTED, strict=True)), ids=range(len(EXPECTED)))
def test_the_code_runs(code, expected, tiny_bert, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("training").mkdir()
    trained(tiny_bert).to_disk("training/model-best")
    # A module of its own, since components of Haystack look up their types.
    exec(compile(code, "tools.md", "exec"), {"__name__": "tools_page"})
    assert re.search(expected, capsys.readouterr().out, re.DOTALL)
