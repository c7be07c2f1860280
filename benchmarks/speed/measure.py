"""The rounds: every subject in a worker of its own, all loaded first, then each in turn."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environments import StepError, last_line
from subjects import BATCHES, OURS, Subject
from texts import n_words

WORKER = Path(__file__).with_name("worker.py")
SETS = ("short", "mixed", "long")
WARM_UP = {"short": 4, "mixed": 8, "long": 8}  # every so many texts of a set


@dataclass(frozen=True)
class Plan:
    """What to measure, on what."""

    subjects: Sequence[Subject]
    pythons: Mapping[str, Path]  # of each environment
    pipelines: Mapping[str, Path]  # by name
    failed: Mapping[str, str]  # pipelines that could not be made, and why
    encoder: Path
    texts: Path  # a JSON file of texts by set
    logs: Path
    rounds: int
    loads: int  # fresh processes a subject


@dataclass
class Results:
    """All that was measured. By set of texts, then subject, then a value a round, unless said otherwise."""

    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)  # by environment
    absent: dict[str, str] = field(default_factory=dict)  # by subject: why it was left out
    texts: dict[str, dict[str, float]] = field(default_factory=dict)  # by set: texts, words, subwords, gflop
    peak_gflops: dict[str, list[float]] = field(default_factory=dict)  # by set
    peak_bfloat16: dict[str, list[float]] = field(default_factory=dict)  # by set; empty without instructions for it
    batch_sizes: dict[str, dict[str, int]] = field(default_factory=dict)  # by set, then subject
    words_per_second: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    entities: dict[str, dict[str, int]] = field(default_factory=dict)  # found, the same in every round
    latency_ms: dict[str, list[dict[str, float]]] = field(default_factory=dict)  # by subject: median, p99
    load_seconds: dict[str, list[dict[str, float]]] = field(default_factory=dict)  # by subject: total, load
    memory_mib: dict[str, float] = field(default_factory=dict)  # by subject, at the end


class Worker:
    """The client of a worker.py process."""

    def __init__(self, python: Path, spec: dict[str, Any], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                _command(python, "serve", spec),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=_environ(),
            )
        self.ready = self._read()

    def ask(self, do: str, **settings: Any) -> dict[str, Any]:
        """Send a request and wait for the answer. A StepError if the process has ended."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the reader says why
            print(json.dumps({"do": do, **settings}), file=self._process.stdin, flush=True)
        return self._read()

    def stop(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise StepError(last_line(self._log) or f"ended with status {status}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Fleet:
    """The workers of all subjects. One that fails is noted in `absent` and asked no more."""

    def __init__(self, plan: Plan, gpu: bool) -> None:
        self.plan = plan
        self.absent: dict[str, str] = {}
        self.workers: dict[str, Worker] = {}
        self.specs: dict[str, dict[str, Any]] = {}
        for subject in plan.subjects:
            self._start(subject, gpu)

    def _start(self, subject: Subject, gpu: bool) -> None:
        if subject.pipeline in self.plan.failed:
            self.absent[subject.name] = self.plan.failed[subject.pipeline]
            return
        print(f"Loading {subject.name} …", flush=True)
        path = self.plan.pipelines[subject.pipeline]
        spec = _spec(
            subject.kind,
            path,
            self.plan.texts,
            gpu=gpu,
            batch_size=subject.batch_size,
            precision=subject.precision,
        )
        try:
            worker = Worker(self.plan.pythons[subject.environment], spec, self.plan.logs / f"{subject.name}.log")
        except StepError as error:
            self.absent[subject.name] = str(error)
            return
        self.workers[subject.name], self.specs[subject.name] = worker, spec

    def names(self, turn: int) -> list[str]:
        """The subjects in the order of this turn: each turn begins one further on."""
        names = list(self.workers)
        start = turn % max(1, len(names))
        return names[start:] + names[:start]

    def ask(self, name: str, do: str, **settings: Any) -> dict[str, Any] | None:
        """A subject's answer; None if it failed just now."""
        try:
            return self.workers[name].ask(do, **settings)
        except StepError as error:
            self._drop(name, error)
            return None

    def load_afresh(self, name: str) -> dict[str, float] | None:
        """Seconds of import and load in a new process; None if it failed."""
        subject = next(one for one in self.plan.subjects if one.name == name)
        log = self.plan.logs / f"{name} (load).log"
        with log.open("w", encoding="utf-8") as errors:
            command = _command(self.plan.pythons[subject.environment], "load", self.specs[name])
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=_environ())
        if done.returncode:
            self._drop(name, StepError(last_line(log)))
            return None
        seconds: dict[str, float] = json.loads(done.stdout)
        return seconds

    def _drop(self, name: str, error: StepError) -> None:
        print(f"{name} failed: {error}", flush=True)
        self.absent[name] = str(error)
        self.workers.pop(name).stop()

    def stop(self) -> None:
        """Let all workers end."""
        for worker in self.workers.values():
            worker.stop()


def measure(plan: Plan) -> Results:
    """Run all rounds."""
    results = Results()
    meter = Worker(plan.pythons[OURS], _spec("meter", plan.encoder, plan.texts), plan.logs / "meter.log")
    gpu = meter.ready["cuda"]
    results.machine = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": meter.ready["threads"],
        "features": meter.ready["features"],
        "gpu": gpu,
        "platform": f"{platform.system()} {platform.machine()}",
    }
    results.texts = {name: _size(name, plan.texts, meter) for name in SETS}
    fleet = Fleet(plan, gpu)
    results.versions = {
        subject.environment: fleet.workers[subject.name].ready["versions"]
        for subject in plan.subjects
        if subject.name in fleet.workers
    }
    for name in fleet.names(0):
        if all(fleet.ask(name, "some", texts=of_set, every=every) for of_set, every in WARM_UP.items()):
            fleet.ask(name, "each", texts="latency")
    results.batch_sizes = {of_set: _batch_sizes(fleet, of_set) for of_set in SETS}
    for turn in range(plan.rounds):
        print(f"Round {turn + 1} of {plan.rounds}", flush=True)
        for of_set in SETS:
            peak = meter.ask("peak", gpu=gpu)
            results.peak_gflops.setdefault(of_set, []).append(peak["gflops"])
            if "bfloat16" in peak:
                results.peak_bfloat16.setdefault(of_set, []).append(peak["bfloat16"])
            _throughput(fleet, of_set, turn, results)
        _latency(fleet, turn, results)
    for name in fleet.names(0):
        if answer := fleet.ask(name, "memory"):
            results.memory_mib[name] = answer["mib"]
    meter.stop()
    names = fleet.names(0)
    fleet.stop()
    _loads(fleet, names, results)
    results.absent = fleet.absent
    return results


def _batch_sizes(fleet: Fleet, of_set: str) -> dict[str, int]:
    """The batch size that each subject runs with: its own, or the fastest of BATCHES in one run of each."""
    chosen: dict[str, int] = {}
    for subject in [one for one in fleet.plan.subjects if one.name in fleet.workers]:
        own = fleet.workers[subject.name].ready["batch_size"]
        seconds: dict[int, float] = {}
        for size in BATCHES if subject.best_batch else ():
            if answer := subject.name in fleet.workers and fleet.ask(
                subject.name, "all", texts=of_set, batch_size=size
            ):
                seconds[size] = answer["seconds"]
        chosen[subject.name] = min(seconds, key=lambda size: seconds[size], default=own)
    return chosen


def _throughput(fleet: Fleet, of_set: str, turn: int, results: Results) -> None:
    for name in fleet.names(turn):
        if answer := fleet.ask(name, "all", texts=of_set, batch_size=results.batch_sizes[of_set][name]):
            speed = results.texts[of_set]["words"] / answer["seconds"]
            results.words_per_second.setdefault(of_set, {}).setdefault(name, []).append(speed)
            results.entities.setdefault(of_set, {})[name] = answer["entities"]
            print(f"  {of_set:8}{name:36}{speed:10,.0f} words/s", flush=True)


def _latency(fleet: Fleet, turn: int, results: Results) -> None:
    for name in fleet.names(turn):
        if answer := fleet.ask(name, "each", texts="latency"):
            results.latency_ms.setdefault(name, []).append(answer)
            print(f"  {'latency':8}{name:36}{answer['median']:10.1f} ms", flush=True)


def _loads(fleet: Fleet, names: list[str], results: Results) -> None:
    for turn in range(fleet.plan.loads):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if name not in fleet.absent and (seconds := fleet.load_afresh(name)):
                results.load_seconds.setdefault(name, []).append(seconds)


def _size(of_set: str, texts: Path, meter: Worker) -> dict[str, float]:
    chosen = json.loads(texts.read_text(encoding="utf-8"))[of_set]
    return {"texts": len(chosen), "words": n_words(chosen), **meter.ask("count", texts=of_set)}


def _spec(kind: str, path: Path, texts: Path, **settings: Any) -> dict[str, Any]:
    unset = {"gpu": False, "batch_size": None, "precision": "auto"}
    return {"kind": kind, "path": str(path), "texts": str(texts), **unset, **settings}


def _command(python: Path, how: str, spec: dict[str, Any]) -> list[str]:
    return [str(python), str(WORKER), how, json.dumps(spec)]


def _environ() -> dict[str, str]:
    """The same number of threads for each: all cores, or OMP_NUM_THREADS."""
    number = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), number)
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **threads, **quiet}


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
