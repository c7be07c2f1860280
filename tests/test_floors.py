"""Folders import from folders above them alone, and from few packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import spacy_bertft

PACKAGE = "spacy_bertft"
ROOT = Path(spacy_bertft.__file__).parent
# From the ground up: a folder imports from itself and from those before it. "" is what lies in none.
FLOORS = ("", "text", "engines", "encoder", "learning", "components", "tasks", "jobs", "cli")
# To all floors, for those who import the package.
DOORS = {"__init__.py", "__main__.py", "convert.py", "export.py", "hub.py", "presidio.py", "shrink.py"}
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py") if str(path.relative_to(ROOT)) not in DOORS)
MAY_IMPORT_TRANSFORMERS = {"", "engines", "encoder", "jobs"}


def floor_of(file):
    return file.parts[0] if len(file.parts) > 1 else ""


def each_file(*, where=lambda floor: True):
    return pytest.mark.parametrize("file", [file for file in FILES if where(floor_of(file))], ids=str)


def imports(file):
    """The modules that a file imports, and whether it does so when it is imported itself."""
    found = []

    def visit(node, late):
        if isinstance(node, ast.Import):
            found.extend((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} has a relative import; expected the module's full name"
            # Of the package's own folders, the modules in them.
            found.extend((f"{node.module}.{alias.name}", late) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                visit(child, True)
            for child in node.orelse:
                visit(child, late)
        else:
            in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                visit(child, late or in_function)

    visit(ast.parse((ROOT / file).read_text(encoding="utf-8")), False)
    return found


def own_floors(file):
    """The floors that a file imports from."""
    parts = [name.split(".") for name, _ in imports(file)]
    return {inside[1] if inside[1] in FLOORS else "" for inside in parts if inside[0] == PACKAGE}


def packages(file):
    return {name.split(".")[0] for name, _ in imports(file)}


def test_every_folder_is_a_floor():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(FLOORS) - {""}


@each_file()
def test_nothing_is_imported_from_a_higher_floor(file):
    floor = FLOORS.index(floor_of(file))
    upward = sorted(found for found in own_floors(file) if FLOORS.index(found) > floor)
    assert not upward, f"{file} imports from {', '.join(upward)}, which lies above it"


@each_file(where=lambda floor: floor == "text")
def test_text_knows_numpy_and_tokenizers_alone(file):
    assert packages(file) <= {"numpy", "tokenizers", PACKAGE, *sys.stdlib_module_names}


@each_file(where=lambda floor: FLOORS.index(floor) <= FLOORS.index("learning"))
def test_spacy_is_known_from_components_on(file):
    assert "spacy" not in packages(file)


@each_file(where=lambda floor: floor in ("text", "engines", "encoder"))
def test_thinc_is_known_from_learning_on(file):
    assert "thinc" not in packages(file)


@each_file()
def test_transformers_is_known_to_few_folders_and_imported_late(file):
    found = [late for name, late in imports(file) if name.split(".")[0] == "transformers"]
    assert not found or floor_of(file) in MAY_IMPORT_TRANSFORMERS
    assert all(found)


def module_of(name):
    """The file that an imported name is in, or is; None if it is in the package's __init__.py."""
    parts = name.split(".")[1:]
    for end in range(len(parts), 0, -1):
        file = Path(*parts[:end]).with_suffix(".py")
        if file in FILES:
            return file
    return None


def imported_with(files):
    """These files and all of the package that is imported when they are."""
    found, waiting = set(), list(files)
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            own = [name for name, late in imports(file) if not late and name.split(".")[0] == PACKAGE]
            waiting.extend(module for module in map(module_of, own) if module is not None)
    return found


# Where a name is not found in one of spaCy's registries, catalogue imports all of its entry points.
GROUPS = sorted({entry.group for entry in distribution("spacy-bertft-core").entry_points})


@pytest.mark.parametrize("group", GROUPS)
def test_what_spacy_may_import_needs_no_torch(group):
    entries = [entry for entry in distribution("spacy-bertft-core").entry_points if entry.group == group]
    for file in imported_with(file for file in (module_of(entry.module) for entry in entries) if file is not None):
        eager = [name for name, late in imports(file) if not late]
        assert not {"torch", "transformers", "psutil"} & {name.split(".")[0] for name in eager}, file
        assert not any(name.startswith("safetensors.torch") for name in eager), file


def test_no_file_is_long():
    long = {str(file): n for file in FILES if (n := len((ROOT / file).read_text(encoding="utf-8").splitlines())) > 300}
    assert not long, f"split them by what they answer: {long}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import spacy_bertft", {"torch", "transformers", "spacy", "thinc", "numpy"}),
        ("import spacy; spacy.blank('en')", {"transformers"}),
        ("import spacy_bertft.components.encoder_pipe, spacy_bertft.components.head_pipe", {"transformers"}),
    ],
)
def test_importing_loads_nothing_heavy(code, unwanted):
    command = f"{code}; import sys; print(*sys.modules)"
    # Old packages in the way of these imports may warn of their own.
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", command], capture_output=True, text=True, check=True)
    assert not unwanted & set(run.stdout.split())
