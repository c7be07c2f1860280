"""Modules import from lower floors alone, and from few packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import spacy_bertft

PACKAGE = "spacy_bertft"
ROOT = Path(spacy_bertft.__file__).parent
FLOORS = {
    0: {"types", "errors", "compat", "files", "workers"},
    1: {"align", "windows", "batching", "decode"},
    2: {
        "subwords",
        "encoder",
        "checkpoint",
        "loading",
        "attention",
        "dropout",
        "pooling",
        "features",
        "tuning",
        "optim",
        "backends",
    },
    3: {"shim"},
    4: {"published", "segments", "bridge", "spans", "answers", "encoder_pipe", "head_pipe", "tasks"},
    5: {
        "hf",
        "listeners",
        "distributed",
        "bulk",
        "report",
        "convert",
        "export",
        "evaluate",
        "calibrate",
        "cloze",
        "migrate",
        "pretraining",
    },
    6: {"cli", "__main__"},
}
FLOOR_OF = {module: floor for floor, modules in FLOORS.items() for module in modules}
MAY_IMPORT_THINC = {"shim", "bridge", "encoder_pipe", "head_pipe", "compat"} | FLOORS[5] | FLOORS[6]
MAY_IMPORT_TRANSFORMERS = {"encoder", "checkpoint", "loading", "compat", "hf", "pretraining", "backends"}
FILES = {
    str(path.relative_to(ROOT)): path.relative_to(ROOT).parts[0].removesuffix(".py")
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py"
}


def each_file(*, where=lambda module: True):
    return pytest.mark.parametrize("file", [file for file, module in FILES.items() if where(module)])


def imports(file):
    """The modules that a file imports, and whether it does so when it is imported itself."""
    path = ROOT / file
    found = []

    def visit(node, late):
        if isinstance(node, ast.Import):
            found.extend((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.extend((name, late) for name in _sources(node, path))
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                visit(child, True)
            for child in node.orelse:
                visit(child, late)
        else:
            in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                visit(child, late or in_function)

    visit(ast.parse(path.read_text(encoding="utf-8")), False)
    return found


def _sources(node, path):
    """What a `from … import …` imports from; of the package's own root, the modules themselves."""
    package = [PACKAGE, *path.relative_to(ROOT).parent.parts]
    base = package[: len(package) - node.level + 1] if node.level else []
    source = ".".join([*base, *filter(None, [node.module])])
    return [f"{source}.{alias.name}" for alias in node.names] if source == PACKAGE else [source]


def own_modules(file):
    """The top modules of this package that a file imports."""
    names = (name.split(".") for name, _ in imports(file))
    return {parts[1] for parts in names if parts[0] == PACKAGE and len(parts) > 1}


def packages(file):
    return {name.split(".")[0] for name, _ in imports(file)}


def test_every_module_has_a_floor():
    unknown = sorted(set(FILES.values()) - set(FLOOR_OF))
    assert not unknown, f"Say in FLOORS, in {Path(__file__).name}, on which floor these stand: {', '.join(unknown)}"


@each_file()
def test_nothing_is_imported_from_a_higher_floor(file):
    floor = FLOOR_OF.get(FILES[file], -1)
    upward = sorted(module for module in own_modules(file) if FLOOR_OF.get(module, -1) > floor)
    assert not upward, f"{file} stands on floor {floor} and imports {', '.join(upward)} from above"


@each_file(where=FLOORS[1].__contains__)
def test_floor_1_knows_numpy_alone(file):
    assert packages(file) <= {"numpy", PACKAGE, *sys.stdlib_module_names}


@each_file(where=lambda module: FLOOR_OF.get(module, -1) <= 2)
def test_spacy_is_known_above_floor_2_alone(file):
    assert "spacy" not in packages(file)


@each_file(where=lambda module: module not in MAY_IMPORT_THINC)
def test_thinc_is_known_to_few_modules(file):
    assert "thinc" not in packages(file)


@each_file(where=lambda module: module not in MAY_IMPORT_TRANSFORMERS)
def test_transformers_is_known_to_few_modules(file):
    assert "transformers" not in packages(file)


@each_file(where=MAY_IMPORT_TRANSFORMERS.__contains__)
def test_transformers_is_imported_late(file):
    assert all(late for name, late in imports(file) if name.split(".")[0] == "transformers")


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import spacy_bertft", {"torch", "transformers", "spacy", "thinc", "numpy"}),
        ("import spacy; spacy.blank('en')", {"transformers"}),
        ("import spacy_bertft.encoder_pipe, spacy_bertft.head_pipe", {"transformers"}),
    ],
)
def test_importing_loads_nothing_heavy(code, unwanted):
    command = f"{code}; import sys; print(*sys.modules)"
    # Old packages in the way of these imports may warn of their own.
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", command], capture_output=True, text=True, check=True)
    assert not unwanted & set(run.stdout.split())
