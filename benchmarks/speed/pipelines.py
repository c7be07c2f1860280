"""The pipelines of the subjects: each made once by its environment's interpreter, and kept in the work folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from environments import StepError, call
from subjects import BEFORE, COMPONENT, OURS, PEER, Size, Subject

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Step:
    """How a pipeline is made: by a job of prepare.py, or by `bertft export` or `bertft shrink` (kind) with `flags`."""

    name: str
    environment: str
    kind: str
    source: str | None = None  # the pipeline it is made from
    categories: bool = False  # with a second head
    flags: tuple[str, ...] = ()


STEPS = (
    Step("ours", OURS, "ours"),
    Step("ours-onnx", OURS, "export", "ours", flags=("--engine", "onnx")),
    Step("ours-onnx-int8", OURS, "export", "ours", flags=("--engine", "onnx", "--int8", "--force")),
    Step("student", OURS, "shrink", "ours", flags=("--layers", "3")),
    Step("student-onnx", OURS, "export", "student", flags=("--engine", "onnx")),
    Step("student-onnx-int8", OURS, "export", "student", flags=("--engine", "onnx", "--int8", "--force")),
    Step("hf", OURS, "classifier", "ours"),
    Step("hf-component", COMPONENT, "component", "hf"),
    Step("peer", PEER, "peer"),
    Step("ours-2", OURS, "ours", categories=True),
    Step("peer-2", PEER, "peer", categories=True),
    Step("before", BEFORE, "ours"),
    Step("before-2", BEFORE, "ours", categories=True),
)


@dataclass(frozen=True)
class Kitchen:
    """Where pipelines are made and from what."""

    pythons: Mapping[str, Path]  # of each environment
    failed: Mapping[str, str]  # environments that could not be made, and why
    encoder: Path  # the encoder that was given
    data: Path
    folder: Path
    updates: int

    def encoder_of(self, size: Size) -> Path:
        """The encoder's folder; a random one is made the first time."""
        if not size.random:
            return self.encoder
        return self._once(size.name, Step("encoder", OURS, "encoder"), {"encoder": str(self.encoder)})

    def pipelines_of(self, size: Size, subjects: Iterable[Subject]) -> tuple[dict[str, Path], dict[str, str]]:
        """The folders of the subjects' pipelines by name, and why the others could not be made."""
        folders: dict[str, Path] = {}
        failed: dict[str, str] = {}
        job = {"encoder": str(self.encoder_of(size)), "data": str(self.data), "updates": self.updates}
        wanted = {subject.pipeline for subject in subjects}
        for step in (one for one in STEPS if one.name in wanted):
            if step.environment in self.failed:
                failed[step.name] = self.failed[step.environment]
            elif step.source in failed:
                failed[step.name] = failed[step.source]
            else:
                source = {"source": str(folders[step.source])} if step.source else {}
                try:
                    folders[step.name] = self._once(size.name, step, {**job, **source})
                except StepError as error:
                    failed[step.name] = str(error)
        return folders, failed

    def _once(self, size: str, step: Step, job: dict[str, object]) -> Path:
        target = self.folder / size / step.name
        if not target.is_dir():
            print(f"Preparing {step.name} ({size}) …", flush=True)
            part = target.with_name(f"{step.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            log = target.with_name(f"{step.name}.log")
            call(self._command(step, {**job, "categories": step.categories}, part), log, HF_HUB_OFFLINE="1")
            part.rename(target)
        return target

    def _command(self, step: Step, job: dict[str, object], output: Path) -> list[str | Path]:
        python = self.pythons[step.environment]
        if step.kind in ("export", "shrink"):
            into = [output] if step.kind == "export" else ["--output", output]
            return [python.with_name("bertft"), step.kind, str(job["source"]), *into, *step.flags]
        return [python, HERE / "prepare.py", step.kind, json.dumps({**job, "output": str(output)})]
