"""Install a packaged pipeline in a new virtual environment and compare its annotations before and after packaging.

    python scripts/try_wheel.py packages/en_support_messages-0.1.0/dist assets/support/test.jsonl \
        --before metrics/before.json --scores metrics/test.json --output metrics/wheel.json
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import venv
import zipfile
from collections.abc import Mapping, Sequence
from email.parser import HeaderParser
from pathlib import Path
from typing import Annotated, Any

import typer

from spacy_bertft.cli.console import clean_errors, show, table
from spacy_bertft.errors import BertftError

CHECKOUT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-6  # of a score
SHOWN = 5  # differences in a message


class WheelError(BertftError):
    """The wheel is not what it should be."""


def find_wheel(folder: Path) -> Path:
    """The only wheel in a folder."""
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        found = ", ".join(path.name for path in wheels) or "none"
        raise WheelError(
            f"{folder}: found {found}; expected one wheel; fix: delete the folder and package the pipeline again"
        )
    return wheels[0]


def check_requirement(wheel: Path, name: str = "spacy-bertft") -> str:
    """Return the wheel's requirement for this package. Raises WheelError if it has none."""
    with zipfile.ZipFile(wheel) as files:
        (metadata,) = (entry for entry in files.namelist() if entry.endswith(".dist-info/METADATA"))
        headers = HeaderParser().parsestr(files.read(metadata).decode("utf-8"))
    requirements: list[str] = headers.get_all("Requires-Dist") or []
    for requirement in requirements:
        if requirement.lower().replace("_", "-").startswith(name):
            return requirement
    raise WheelError(
        f"{wheel}: found the requirements {', '.join(requirements) or 'none'}; expected {name} among them; "
        "fix: package a pipeline with an encoder and heads of this package"
    )


def differences(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[str]:
    """List how two outputs of annotate.py differ: any label or position, scores by more than TOLERANCE."""
    if len(before) != len(after):
        return [f"{len(before)} texts before, {len(after)} after"]
    pairs = enumerate(zip(before, after, strict=True), start=1)
    return [f"text {number}: {line}" for number, (old, new) in pairs for line in _text_differences(old, new)]


def _text_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = []
    for kind, of_old, of_new in (
        ("entities", _scores_of_entities(old), _scores_of_entities(new)),
        ("categories", old["categories"], new["categories"]),
    ):
        if list(of_old) != list(of_new):
            found.append(f"{kind} {list(of_old)} before, {list(of_new)} after")
            continue
        found += [
            f"{kind[:-3]}y {key}: score {score} before, {of_new[key]} after"
            for key, score in of_old.items()
            if not _same(score, of_new[key])
        ]
    return found


def _scores_of_entities(text: Mapping[str, Any]) -> dict[tuple[int, int, str], float | None]:
    return {(start, end, label): score for start, end, label, score in text["entities"]}


def _same(old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return old is new
    return abs(old - new) <= TOLERANCE


def install(environment: Path, wheel: Path) -> Path:
    """Make a virtual environment with this package and the wheel. Returns its Python."""
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    constraints = CHECKOUT / "constraints.txt"
    _run([python, "-m", "pip", "install", "--quiet", "--constraint", constraints, CHECKOUT, wheel.resolve()])
    return python


def annotate_with(python: Path, pipeline: str, texts: Path, folder: Path) -> list[dict[str, Any]]:
    """Run the pipeline in another environment, from `folder`, so that nothing from the checkout is imported."""
    output = folder / "after.json"
    _run([python, CHECKOUT / "scripts" / "annotate.py", pipeline, texts.resolve(), "--output", output], folder)
    found: list[dict[str, Any]] = json.loads(output.read_text(encoding="utf-8"))
    return found


def _run(command: Sequence[object], folder: Path | None = None) -> None:
    words = [str(word) for word in command]
    show(f"  {' '.join(words)}")
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(words, cwd=folder, env=environ, stdin=subprocess.DEVNULL, check=False)
    if result.returncode != 0:
        raise WheelError(
            f"{words[0]}: found exit code {result.returncode}; expected 0; fix: see the output above, of: {words[1:]}"
        )


def try_wheel(wheel: Path, texts: Path, before: Path) -> int:
    """Install the wheel and compare. Returns the number of texts. Raises WheelError if anything differs."""
    pipeline = wheel.name.partition("-")[0]
    old = json.loads(before.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="try-wheel-") as folder:
        python = install(Path(folder) / "venv", wheel)
        new = annotate_with(python, pipeline, texts, Path(folder))
    lines = differences(old, new)
    if lines:
        more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise WheelError(
            f"{wheel}: found other results than before packaging: {'; '.join(lines[:SHOWN])}{more}; expected the same, "
            f"scores within {TOLERANCE}; fix: run this with constraints.txt's packages, and package the pipeline again"
        )
    return len(new)


def score_table(scores: Mapping[str, Any]) -> str:
    """The scores of `spacy evaluate` in percent: entities, categories, and each label."""
    rows = []
    for title, kind in (("all entities", "ents"), ("all categories (macro)", "cats_macro")):
        if scores.get(f"{kind}_f") is not None:
            rows.append((title, *(f"{100 * scores[f'{kind}_{which}']:5.1f}" for which in "prf")))
    for kind in ("ents_per_type", "cats_f_per_type"):
        for label, values in sorted((scores.get(kind) or {}).items()):
            rows.append((f"  {label}", *(f"{100 * values[which]:5.1f}" for which in "prf")))
    return table(("test texts", "precision", "recall", "F-score"), rows)


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the wheel.", exists=True, file_okay=False)],
    texts: Annotated[Path, typer.Argument(help='JSONL file; each line has a "text".', exists=True, dir_okay=False)],
    before: Annotated[Path, typer.Option(help="Annotations before packaging, written by annotate.py.", exists=True)],
    scores: Annotated[Path, typer.Option(help="The scores of `spacy evaluate`, to show.", exists=True)],
    output: Annotated[Path, typer.Option(help="JSON file to write the result to.")],
) -> None:
    """Install a packaged pipeline in a new virtual environment; fail unless its annotations stay the same."""
    with clean_errors():
        wheel = find_wheel(folder)
        requirement = check_requirement(wheel)
        n_texts = try_wheel(wheel, texts, before)
    tried = {"wheel": str(wheel), "requires": requirement, "texts": n_texts, "tolerance": TOLERANCE}
    output.write_text(json.dumps(tried, indent=2) + "\n", encoding="utf-8")
    show(f"\n{score_table(json.loads(scores.read_text(encoding='utf-8')))}\n")
    show(f"Checked the installed wheel on {n_texts} texts: same entities, categories and scores as before packaging.")
    show(f"The wheel: {wheel} ({wheel.stat().st_size / 1e6:.1f} MB, requires {requirement})")


if __name__ == "__main__":
    typer.run(main)
