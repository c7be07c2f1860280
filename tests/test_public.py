"""What is public: spacy_bertft.__all__, its modules of functions, and the names that configs and pip know.

All folders of the package are private. Inside, a name without an underscore is one that other files use.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import distribution
from pathlib import Path

import pytest

import spacy_bertft

PACKAGE = Path(spacy_bertft.__file__).parent
PROJECT = PACKAGE.parent
PUBLIC = ("spacy_bertft", "spacy_bertft.convert", "spacy_bertft.export", "spacy_bertft.hub", "spacy_bertft.shrink")
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))


def defined(path):
    """The names that a file defines at its top, without those it imports."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                yield from (part.id for part in ast.walk(target) if isinstance(part, ast.Name))


def in_signatures(path):
    """The names in the annotations and bases of what a file defines at its top: its readers meet them."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            inside = [node, *(part for part in node.body if isinstance(part, ast.FunctionDef | ast.AnnAssign))]
            for part in inside:
                arguments = getattr(part, "args", None)
                notes = [getattr(part, "returns", None), getattr(part, "annotation", None), *getattr(part, "bases", ())]
                notes += [one.annotation for one in (*arguments.args, *arguments.kwonlyargs)] if arguments else []
                yield from (name.id for note in notes if note for name in ast.walk(note) if isinstance(name, ast.Name))


def words(path):
    """All names, attributes and imported names in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # monkeypatch.setattr("module.name", …)
            yield node.value.rpartition(".")[2]


@pytest.fixture(scope="module")
def used_in():
    """name -> the files of the project in which it occurs."""
    folders = ("spacy_bertft", "tests", "benchmarks", "scripts")
    files = defaultdict(set)
    for path in (path for folder in folders for path in (PROJECT / folder).rglob("*.py")):
        for word in words(path):
            files[word].add(path)
    return files


@pytest.mark.parametrize("module", PUBLIC)
def test_everything_public_is_there(module):
    found = importlib.import_module(module)
    assert found.__all__
    for name in found.__all__:
        assert getattr(found, name) is not None


def test_nothing_else_is_public_at_the_top():
    code = "import spacy_bertft; print(*(name for name in dir(spacy_bertft) if not name.startswith('_')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    submodules = {path.stem for path in PACKAGE.iterdir()}
    assert set(found) - submodules <= set(spacy_bertft.__all__)
    assert not hasattr(spacy_bertft, "no_such_name")


def test_without_presidio_its_module_raises_what_imports_raise(monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer.nlp_engine", None)
    monkeypatch.delitem(sys.modules, "spacy_bertft.presidio", raising=False)
    with pytest.raises(ImportError, match=r"needs presidio-analyzer, .* Install it: pip install presidio-analyzer\."):
        importlib.import_module("spacy_bertft.presidio")


def test_public_names_are_documented():
    """In README, or in a document that it leads to."""
    documents = "".join(
        path.read_text(encoding="utf-8") for path in [PROJECT / "README.md", *PROJECT.glob("docs/*.md")]
    )
    assert not [name for name in spacy_bertft.__all__ if name not in documents]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_that_no_other_file_uses_have_an_underscore(path, used_in):
    registered = {entry.attr for entry in distribution("spacy-bertft-core").entry_points}
    alone = [name for name in defined(path) if not name.startswith("_") and not used_in[name] - {path}]
    assert not set(alone) - registered - set(in_signatures(path)) - {"__all__"}


@pytest.mark.parametrize(
    "folder",
    sorted(path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"),
    ids=lambda path: path.name,
)
def test_folders_say_what_they_hold_and_export_nothing(folder):
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    if folder.name != "cli":  # where the command line is put together
        assert len(tree.body) == 1
