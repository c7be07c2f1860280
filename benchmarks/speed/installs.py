"""What installations weigh: packages, MB on disk, seconds from the start of Python to the first Doc, memory.

    python benchmarks/speed/installs.py full=.venv/bin/python=training/model-best core=…/bin/python=production

Each argument is a name, an interpreter and a pipeline. Starts are measured in turns. Before a cold start, the files of
the environment and of the pipeline are dropped from the system's cache (Linux).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 5
TEXTS = Path(__file__).parents[2] / "assets/support/train.jsonl"
# Loads a pipeline, annotates as many texts as it is told, and prints the CPU seconds and MB in use.
WORKER = """
import json, resource, sys
import spacy
nlp = spacy.load(sys.argv[1])
texts = [json.loads(line)["text"] for line in open(sys.argv[2], encoding="utf-8") if line.strip()]
texts = (texts * (1000 // len(texts) + 1))[: int(sys.argv[3])]
for doc in nlp.pipe(texts, batch_size=64):
    pass
used = resource.getrusage(resource.RUSAGE_SELF)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "mb": int(status["VmRSS"].split()[0]) / 1000}))
"""


def run(python: str, pipeline: str, n_texts: int) -> dict[str, float]:
    """One process: its wall and CPU seconds, and MB in memory at its end."""
    command = [python, "-W", "ignore", "-c", WORKER, pipeline, str(TEXTS), str(n_texts)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd="/")
    return {"wall": time.perf_counter() - start, **json.loads(done.stdout.splitlines()[-1])}


def forget(folder: Path) -> None:
    """Drop the files of a folder from the system's cache."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def size_on_disk(folder: Path) -> float:
    """MB, as `du` counts."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 1e6


def main(arguments: list[str]) -> None:
    """Print a row for each installation."""
    subjects = [tuple(argument.split("=")) for argument in arguments]
    starts: dict[str, dict[str, list[dict[str, float]]]] = {name: {"cold": [], "warm": []} for name, *_ in subjects}
    for _ in range(ROUNDS):
        for kind in ("cold", "warm"):
            for name, python, pipeline in subjects:
                if kind == "cold":
                    forget(Path(python).parents[1] / "lib")
                    forget(Path(pipeline))
                starts[name][kind].append(run(python, pipeline, 1))
    for name, python, pipeline in subjects:
        site = next((Path(python).parents[1] / "lib").glob("python3*/site-packages"))
        row: dict[str, object] = {"name": name, "packages": len(list(site.glob("*.dist-info")))}
        row["disk_mb"] = round(size_on_disk(site.parents[2]))
        for kind, runs in starts[name].items():
            for key in ("wall", "cpu"):
                row[f"{kind}_{key}_s"] = round(statistics.median(one[key] for one in runs), 2)
        row["mb_after_1000_texts"] = round(run(python, pipeline, 1000)["mb"])
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
