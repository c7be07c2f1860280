"""Memory of long streams, many Docs, one huge text, and worker processes. On Linux.

    python benchmarks/speed/memory.py COMMAND PIPELINE

PIPELINE is a folder, or "small" for one on assets/encoder, which is trained the first time. Every
measurement runs in a fresh process (memory_worker.py); sizes are resident memory in MiB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from environments import ROOT, StepError, call
from report import table
from texts import check_data

HERE = Path(__file__).parent
SMALL_UPDATES = 200  # enough to find entities
TIMEOUT = 4 * 3600  # seconds

app = typer.Typer(help=__doc__.partition("\n")[0], add_completion=False, no_args_is_help=True)
Pipeline = Annotated[str, typer.Argument(help='Folder of a pipeline, or "small".')]
Data = Annotated[Path | None, typer.Option(help="Folder of data.", envvar="SPACY_BERTFT_DATA")]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Work = Annotated[Path, typer.Option(help='Folder where "small" is kept.')]
RESULTS, WORK = HERE / "results", HERE / ".work"


@app.command()
def keep(
    pipeline: Pipeline,
    texts: Annotated[int, typer.Option(help="Short texts.")] = 20_000,
    data: Data = None,
    out: Out = RESULTS,
    work: Work = WORK,
) -> None:
    """Growth by a list of all Docs, and by bare Docs with the same entities."""
    job = _job(pipeline, data, work, n=texts)
    with tempfile.TemporaryDirectory() as folder:
        job["entities"] = str(Path(folder, "entities.json"))
        found = {"ours": _fresh("keep", job), "bare": _fresh("bare", job)}
    grown = {name: sizes["after"] - sizes["before"] for name, sizes in found.items()}
    rows = [
        [label, *(f"{value:,.0f}" for value in (*found[name].values(), grown[name]))]
        for name, label in (("ours", "list(nlp.pipe(texts))"), ("bare", "bare Docs with the same doc.ents"))
    ]
    typer.echo(table([f"{texts:,} texts", "before, MiB", "after, MiB", "growth, MiB"], rows))
    _save(out / "memory-keep.json", {"pipeline": Path(pipeline).name, "texts": texts, **found})


@app.command()
def stream(
    pipeline: Pipeline,
    texts: Annotated[int, typer.Option(help="Short texts.")] = 100_000,
    data: Data = None,
    out: Out = RESULTS,
    work: Work = WORK,
) -> None:
    """Resident memory along a stream whose Docs nobody keeps."""
    found = _fresh("stream", _job(pipeline, data, work, n=texts))
    rows = [[f"{done:,}", f"{size:,.0f}"] for done, size in found["sizes"]]
    typer.echo(table(["texts done", "resident, MiB"], rows))
    _save(out / "memory-stream.json", {"pipeline": Path(pipeline).name, "texts": texts, **found})


@app.command()
def threads(
    pipeline: Pipeline,
    texts: Annotated[int, typer.Option(help="Short texts.")] = 100_000,
    count: Annotated[int, typer.Option("--threads", help="Threads that share the pipeline.")] = 8,
    data: Data = None,
    out: Out = RESULTS,
    work: Work = WORK,
) -> None:
    """Resident memory along calls of nlp(text) from several threads, as in a service."""
    found = _fresh("threads", {**_job(pipeline, data, work, n=texts), "threads": count})
    rows = [[f"{done:,}", f"{size:,.0f}"] for done, size in found["sizes"]]
    typer.echo(table(["texts done", "resident, MiB"], rows))
    _save(out / "memory-threads.json", {"pipeline": Path(pipeline).name, "texts": texts, "threads": count, **found})


@app.command()
def long(
    pipeline: Pipeline,
    characters: Annotated[int, typer.Option(help="Length of the text.")] = 1_000_000,
    data: Data = None,
    out: Out = RESULTS,
    work: Work = WORK,
) -> None:
    """Peak memory and seconds of one long text."""
    found = _fresh("long", _job(pipeline, data, work, n=characters))
    header = [f"{characters:,} characters", "before, MiB", "peak, MiB", "seconds", "tokens", "entities"]
    cells = [f"{found[key]:,.0f}" for key in ("before", "peak", "seconds", "tokens", "entities")]
    typer.echo(table(header, [[Path(pipeline).name, *cells]]))
    _save(out / "memory-long.json", {"pipeline": Path(pipeline).name, "characters": characters, **found})


@app.command()
def among(
    pipeline: Pipeline,
    characters: Annotated[int, typer.Option(help="Length of the long text.")] = 1_000_000,
    texts: Annotated[int, typer.Option(help="Short texts around it.")] = 4000,
    data: Data = None,
    out: Out = RESULTS,
    work: Work = WORK,
) -> None:
    """Peak memory and seconds of one long text in the middle of short ones, beside the seconds of each kind alone."""
    found = _fresh("among", {**_job(pipeline, data, work, n=characters), "texts": texts})
    header = ["before, MiB", "peak, MiB", f"{texts:,} short texts, s", f"{characters:,} characters, s", "together, s"]
    cells = [
        *(f"{found[key]:,.0f}" for key in ("before", "peak")),
        *(f"{found[key]:,.1f}" for key in ("short", "long", "together")),
    ]
    typer.echo(table(header, [cells]))
    numbers = {"pipeline": Path(pipeline).name, "characters": characters, "texts": texts, **found}
    _save(out / "memory-among.json", numbers)


@app.command()
def processes(
    pipeline: Pipeline,
    texts: Annotated[int, typer.Option(help="Short texts.")] = 2000,
    data: Data = None,
    out: Out = RESULTS,
    work: Work = WORK,
) -> None:
    """Whether n_process=2 annotates as one process does, and the seconds of both; exit status 1 if it does not."""
    job = _job(pipeline, data, work, n=texts)
    found = {method: _fresh("processes", {**job, "method": method}) for method in ("fork", "spawn")}
    rows = [
        [
            method,
            f"{one['seconds_one']:.1f}",
            f"{one['seconds_two']:.1f}",
            f"{one['different']:,}",
            f"{one['largest_difference']:.1e}",
        ]
        for method, one in found.items()
    ]
    header = [
        f"{texts:,} texts",
        "one process, s",
        "n_process=2, s",
        "texts that differ",
        "largest difference of scores",
    ]
    typer.echo(table(header, rows))
    _save(out / "memory-processes.json", {"pipeline": Path(pipeline).name, "texts": texts, **found})
    if any(one["different"] for one in found.values()):
        raise typer.Exit(1)


def _job(pipeline: str, data: Path | None, work: Path, n: int) -> dict[str, Any]:
    data = check_data(data).absolute()
    folder = _small(work.absolute(), data) if pipeline == "small" else Path(pipeline).absolute()
    if not (folder / "config.cfg").is_file():
        raise SystemExit(
            f"The pipeline {pipeline!r}: no config.cfg in {folder}. Expected the folder of a saved pipeline, or "
            '"small". Correct the path; run.py leaves pipelines in its work folder.'
        )
    return {"pipeline": str(folder), "data": str(data), "n": n}


def _small(work: Path, data: Path) -> Path:
    pipeline = work / "small/pipeline"
    if not pipeline.is_dir():
        job = {
            "encoder": str(ROOT / "assets/encoder"),
            "data": str(data),
            "updates": SMALL_UPDATES,
            "categories": False,
            "output": str(pipeline),
        }
        try:
            call([sys.executable, HERE / "prepare.py", "ours", json.dumps(job)], work / "small/pipeline.log")
        except StepError as error:
            raise SystemExit(f"The small pipeline could not be made: {error} The log is in {work / 'small'}.") from None
    return pipeline


def _fresh(function: str, job: dict[str, Any]) -> dict[str, Any]:
    """What a function of memory_worker.py finds in a process of its own."""
    command = [sys.executable, str(HERE / "memory_worker.py"), function, json.dumps(job)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, timeout=TIMEOUT, text=True)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"{function} {job.get('method', '')} did not end within four hours.") from None
    if done.returncode:
        raise SystemExit(f"{function} {job.get('method', '')} failed with status {done.returncode}; it says why above.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _save(path: Path, numbers: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
