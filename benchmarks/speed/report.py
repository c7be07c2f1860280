"""Results -> spreads, paired ratios, and Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from measure import SETS, Results
from subjects import BESIDE_BEFORE, REFERENCES, SUBJECTS, Subject


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest value over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    def show(self, digits: int) -> str:
        """Median (low–high); of a single round the value alone."""
        if self.low == self.high:
            return f"{self.median:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f}–{self.high:,.{digits}f})"


def present(results: Results) -> list[Subject]:
    """The subjects that were measured to the end."""
    every = dict.fromkeys((*SUBJECTS, *BESIDE_BEFORE))
    return [one for one in every if one.name in results.load_seconds and one.name not in results.absent]


def reference(results: Results, heads: int) -> str | None:
    """The subject with as many heads whose speed counts as 1; None where none was measured."""
    with_heads = [subject for subject in present(results) if subject.heads == heads]
    of = {subject.environment: subject.name for subject in reversed(with_heads)}  # the first of each environment
    return next((of[environment] for environment in REFERENCES if environment in of), None)


def ratio(results: Results, of_set: str, name: str, other: str) -> Spread:
    """How many times as fast `name` is as `other`, round by round."""
    speeds = results.words_per_second[of_set]
    return Spread.of(one / two for one, two in zip(speeds[name], speeds[other], strict=True))


def limits(results: Results, of_set: str) -> list[float]:
    """Words a second, if every operation ran at the round's peak."""
    size = results.texts[of_set]
    return [size["words"] * peak / size["gflop"] for peak in results.peak_gflops[of_set]]


def limit_ratio(results: Results, of_set: str, name: str) -> Spread:
    """How many times as fast as `name` the limit is, round by round."""
    speeds = results.words_per_second[of_set][name]
    return Spread.of(limit / speed for limit, speed in zip(limits(results, of_set), speeds, strict=True))


def markdown(title: str, results: Results) -> str:
    """The whole report."""
    machine = results.machine
    lines = [
        f"# {title}",
        f"{', '.join([machine['cpu'], *machine['features']])}, threads: {machine['threads']}, {machine['platform']}"
        + (", with a GPU." if machine["gpu"] else ".")
        + " Medians, with the lowest and the highest value over the rounds in brackets.",
        "## Words a second, from raw text to entities",
        _throughput(results),
        "## How many times as fast, round by round",
        _ratios(results),
        "## One text at a time",
        _latency(results),
        "## Loading and memory",
        _loading(results),
        "## The limit",
        _limit(results),
        "## What ran",
        _versions(results),
    ]
    if results.absent:
        lines += [
            "## What could not be measured",
            "\n".join(f"- {name}: {why}" for name, why in results.absent.items()),
        ]
    return "\n\n".join(lines) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def _throughput(results: Results) -> str:
    speeds = results.words_per_second
    rows = [[one.name, *(Spread.of(speeds[of_set][one.name]).show(0) for of_set in SETS)] for one in present(results)]
    found = [[one.name, *(f"{results.entities[of_set][one.name]:,}" for of_set in SETS)] for one in present(results)]
    sizes = [[one.name, *(f"{results.batch_sizes[of_set][one.name]:,}" for of_set in SETS)] for one in present(results)]
    parts = {"Entities found": found, "Texts in a batch": sizes}
    return "\n\n".join(
        [table(["", *SETS], rows), *(f"{what}:\n\n{table(['', *SETS], of)}" for what, of in parts.items())]
    )


def _ratios(results: Results) -> str:
    pairs = [
        (one, other)
        for one in present(results)
        for other in present(results)
        if one.ours and not other.ours and one.heads == other.heads
    ]
    rows = [
        [f"{one.name} / {other.name}", *(ratio(results, of_set, one.name, other.name).show(2) for of_set in SETS)]
        for one, other in pairs
    ]
    return table(["", *SETS], rows)


def _latency(results: Results) -> str:
    rows = []
    for one in present(results):
        rounds = results.latency_ms[one.name]
        spreads = (Spread.of(values[key] for values in rounds) for key in ("median", "p99"))
        times = []
        if other_name := reference(results, one.heads):
            pairs = zip(results.latency_ms[other_name], rounds, strict=True)
            times = [Spread.of(other["median"] / own["median"] for other, own in pairs).show(2)]
        rows.append([one.name, *(spread.show(1) for spread in spreads), *(times or ["–"])])
    return table(["", "median, ms", "99th percentile, ms", f"times as fast as {reference(results, 1)}"], rows)


def _loading(results: Results) -> str:
    rows = []
    for one in present(results):
        loads = results.load_seconds[one.name]
        spreads = (Spread.of(values[key] for values in loads) for key in ("total", "load"))
        rows.append([one.name, *(spread.show(2) for spread in spreads), f"{results.memory_mib[one.name]:,.0f}"])
    return table(["", "import and load, s", "load alone, s", "peak resident memory, MiB"], rows)


def _limit(results: Results) -> str:
    names = [one.name for one in present(results) if one.heads == 1]
    rows = []
    for of_set in SETS:
        size = results.texts[of_set]
        speeds = results.words_per_second[of_set]
        bounds = limits(results, of_set)
        shares = [
            Spread.of(100 * speed / bound for speed, bound in zip(speeds[name], bounds, strict=True)).show(0)
            for name in names
        ]
        rows.append(
            [
                of_set,
                *(f"{size[key]:,.0f}" for key in ("texts", "words", "subwords", "gflop")),
                Spread.of(results.peak_gflops[of_set]).show(0),
                *([Spread.of(results.peak_bfloat16[of_set]).show(0)] if results.peak_bfloat16 else []),
                Spread.of(bounds).show(0),
                *shares,
            ]
        )
    peaks = ["peak, GFLOP/s", *(["peak in bfloat16, GFLOP/s"] if results.peak_bfloat16 else [])]
    first = ["", "texts", "words", "subwords", "GFLOP", *peaks, "limit, words/s"]
    first += [f"{name}, % of the limit" for name in names]
    flipped = [list(column) for column in zip(first, *rows, strict=True)]
    return table(flipped[0], flipped[1:])


def _versions(results: Results) -> str:
    lines = []
    for environment, versions in results.versions.items():
        names = "; ".join(one.name for one in present(results) if one.environment == environment)
        found = ", ".join(f"{package} {version}" for package, version in versions.items())
        lines.append(f"- {names}: {found}")
    return "\n".join(lines)
