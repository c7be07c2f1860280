"""Virtual environments for the subjects, made with venv and pip and kept for later runs; where the encoder is."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

from subjects import Environment

ROOT = Path(__file__).parents[2]


class StepError(Exception):
    """A command that failed; the message is its last line."""


def call(command: Sequence[str | Path], log: Path, **environment: str) -> None:
    """Run a command in the repository's root, with its output in `log`. A StepError if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        status = subprocess.run(
            [str(part) for part in command],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        ).returncode
    if status:
        raise StepError(last_line(log) or f"exit status {status}")


def last_line(log: Path) -> str:
    """The last line that names an error, else that says something, without the machine's paths and addresses."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if any(map(str.isalnum, line))), "")
    line = next((line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)), last)
    line = re.sub(r"\w+://[^\s'\"]+", "…", line)
    return re.sub(r"(?<![\w.])(?:/[\w.+-]+)+/([\w.+-]+)", r"…/\1", line)


def interpreter(environment: Environment, folder: Path) -> Path:
    """The interpreter of an environment below `folder`, which is made if it is not there as asked for."""
    home = folder / environment.name
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done, wanted = home / "installed.json", json.dumps(environment.installs)
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return python
    print(f"Installing {environment.name} …", flush=True)
    venv.create(home, clear=True, with_pip=True)
    for packages in environment.installs:
        call([python, "-m", "pip", "install", *packages], home / "pip.log")
    done.write_text(wanted, encoding="utf-8")
    return python


def find_encoder(name: str) -> Path:
    """The encoder's folder: a local one, or package/folder inside a package of this interpreter."""
    package, _, inside = name.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    places = [Path(name), *(Path(place, inside) for place in (spec and spec.submodule_search_locations) or ())]
    folder = next((place for place in places if (place / "config.json").is_file()), None)
    if folder is None:
        raise SystemExit(
            f"The encoder {name!r}: no config.json in {', '.join(map(str, places))}. Expected the folder of a BERT "
            "encoder (config.json, weights, tokenizer files), or package/folder of a package that is installed for "
            "the interpreter that runs this script. Correct --encoder, or install the package."
        )
    return folder.absolute()
