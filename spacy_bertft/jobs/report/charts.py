"""Charts as inline SVG. They take their colours and font from the page, so that they suit light, dark and paper."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spacy_bertft.errors import ConfigError, how_to_install
from spacy_bertft.jobs.report.heads import Calibration, Threshold
from spacy_bertft.jobs.report.statistics import Floats, precision_recall, reliability
from spacy_bertft.jobs.report.training_log import TrainingLog
from spacy_bertft.types import Ints

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stand for variables of the page's style sheet; they appear nowhere else in an SVG.
_COLORS = {f"#0a0b{number:02x}": name for number, name in enumerate(("ink", "muted", "line", "c1", "c2", "c3", "c4"))}
_INK, _MUTED, _LINE, *_SERIES = _COLORS
_DASHES = ("-", "--", "-.", ":")
_SIZE = (4.4, 2.9)  # inches: narrow enough for the text to be readable on a phone
_POINTS = 400  # points of a line; more can't be seen
_LINE_HEIGHT = 0.2  # inches, of a legend's line
_DOTS = 1500  # of a scatter plot
_TICKS = [first * 10**power for power in range(7) for first in (1, 2, 5)]


def check_matplotlib() -> None:
    """Raise a ConfigError if the extra is missing."""
    try:
        import jinja2
        import matplotlib
    except ImportError as error:
        raise ConfigError(
            f"The report needs jinja2 and matplotlib: {error}. Expected both to be installed. Install the extra: "
            f"{how_to_install('report')}."
        ) from error
    del jinja2, matplotlib


def _axes(*, size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINE)
    axes.tick_params(colors=_MUTED, length=3, labelsize=9)
    axes.grid(color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=_MUTED, fontsize=9.5)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """The figure as <svg>. name: makes its ids unique in the page."""
    import matplotlib

    file = io.StringIO()
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\1{name}-", svg)
    svg = re.sub(r'^<svg [^>]*viewBox="([^"]*)"[^>]*>', _HEAD, svg)
    return re.sub("|".join(_COLORS), lambda found: f"var(--{_COLORS[found[0]]})", svg)


_HEAD = (
    r'<svg class="chart" viewBox="\1" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
)


def _legend(axes: Axes) -> None:
    """A legend below the chart, where it covers nothing."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    handles, labels = axes.get_legend_handles_labels()
    figure.set_figheight(figure.get_figheight() + _LINE_HEIGHT * len(labels))
    settings: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": _INK, "handlelength": 2.2}
    figure.legend(handles, labels, loc="outside lower left", **settings)


def _percent(axes: Axes, *, x: bool = True, y: bool = True) -> None:
    ticks = np.linspace(0, 1, 6)
    labels = [f"{100 * tick:.0f}" for tick in ticks]
    if x:
        axes.set(xlim=(-0.02, 1.02))
        axes.set_xticks(ticks, labels)
    if y:
        axes.set(ylim=(-0.02, 1.04))
        axes.set_yticks(ticks, labels)


def reliability_chart(calibration: Calibration, name: str) -> str:
    """Accuracy against confidence, for the saved settings and the others; the area of a point is its predictions."""
    figure, axes = _axes()
    axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=":", label="perfectly calibrated")
    shown = [(calibration.saved, calibration.saved_title), (calibration.other, calibration.other_title)]
    for number, (decisions, title) in enumerate(shown):
        if decisions is not None:
            found = reliability(decisions.confidence, decisions.right)
            used = found.counts > 0
            label = f"{title}: ECE {100 * found.error:.1f}"
            x, y, color = found.confidence[used], found.accuracy[used], _SERIES[number]
            axes.plot(x, y, color=color, linewidth=1.4, linestyle=_DASHES[number], label=label)
            size = 12 + 130 * found.counts[used] / found.counts.sum()
            axes.scatter(x, y, s=size, color=color, alpha=0.75, marker="os"[number], linewidths=0)
    axes.set(xlabel="confidence, %", ylabel="right, %")
    _percent(axes)
    _legend(axes)
    return _svg(figure, name)


def precision_recall_chart(threshold: Threshold, name: str) -> str:
    """Precision against recall, with the threshold that the pipeline uses, and the one with the best F-score."""
    figure, axes = _axes()
    curve = precision_recall(threshold.decisions.confidence, threshold.decisions.right, threshold.n_gold)
    chosen = _thinned(len(curve.recall))
    axes.plot(curve.recall[chosen], curve.precision[chosen], color=_SERIES[0], linewidth=1.6, drawstyle="steps-post")
    at, precision, recall = curve.best()
    label = f"best F-score: threshold {at:.2f}"
    axes.plot(
        recall, precision, "D", color=_SERIES[1], markersize=7, markerfacecolor="none", markeredgewidth=1.6, label=label
    )
    used = curve.at(0.0 if threshold.used is None else threshold.used)
    if used is not None:
        label = "as the pipeline runs" + ("" if threshold.used is None else f": threshold {threshold.used:.2f}")
        axes.plot(used[1], used[0], "o", color=_SERIES[0], markersize=7, label=label)
    axes.set(xlabel="recall, %", ylabel="precision, %")
    _percent(axes)
    _legend(axes)
    return _svg(figure, name)


def _thinned(n_points: int) -> Ints:
    return np.unique(np.linspace(0, n_points - 1, min(n_points, _POINTS)).astype(np.int64))


def lengths_chart(counts: Ints, unit: str, window: int | None, name: str) -> str:
    """How many texts have a length, with the encoder's window."""
    figure, axes = _axes()
    top = max(int(counts.max(initial=1)), 2)
    axes.hist(counts, bins=min(40, top), range=(0, top), color=_SERIES[0], alpha=0.85)
    if window is not None and window <= 2 * top:
        axes.axvline(window, color=_SERIES[1], linewidth=1.6, linestyle="--", label=f"window: {window:,} {unit}")
        _legend(axes)
    axes.set(xlabel=f"{unit} in a text", ylabel="texts")
    axes.grid(visible=False, axis="x")
    return _svg(figure, name)


def frequency_chart(labels: Sequence[str], counts: Ints, scores: Floats, name: str) -> str:
    """F-score of each label against how often it occurred in training."""
    figure, axes = _axes()
    axes.scatter(np.maximum(counts, 0.5), scores, s=26, color=_SERIES[0], alpha=0.8, linewidths=0)
    if len(labels) <= 14:
        for rank, number in enumerate(np.argsort(counts, kind="stable")):
            label, count, score = labels[number], counts[number], scores[number]
            shift = (0, -12 if rank % 2 else 5)  # neighbours on different sides
            axes.annotate(
                label[:18],
                (max(count, 0.5), score),
                xytext=shift,
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
                color=_INK,
            )
    axes.set(xlabel="times in training (log)", ylabel="F-score", xscale="log")
    axes.margins(x=0.15)
    low, high = axes.get_xlim()
    ticks = [tick for tick in _TICKS if low <= tick <= high and (high < 100 * low or str(tick)[0] == "1")]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlim(low, high)
    axes.minorticks_off()
    _percent(axes, x=False)
    return _svg(figure, name)


def numbers_chart(numbers: Floats, name: str) -> str:
    """Predicted against gold numbers."""
    figure, axes = _axes()
    chosen = np.random.default_rng(0).permutation(len(numbers))[:_DOTS]
    gold, found = numbers[chosen].T
    ends = [float(numbers.min()), float(numbers.max())]
    axes.plot(ends, ends, color=_MUTED, linewidth=1, linestyle=":", label="predicted = gold")
    axes.scatter(gold, found, s=16, color=_SERIES[0], alpha=0.5, linewidths=0)
    axes.set(xlabel="gold", ylabel="predicted")
    _legend(axes)
    return _svg(figure, name)


# --- training curves


def loss_chart(log: TrainingLog, name: str) -> str:
    """The mean loss of each component, smoothed over the steps."""
    figure, axes = _axes()
    for number, (component, values) in enumerate(_first(log.losses)):
        steps, means = _smoothed(log.steps, values)
        axes.plot(steps, means, color=_SERIES[number], linestyle=_DASHES[number], linewidth=1.5, label=component)
    _mark_best(axes, log)
    axes.set(xlabel="step", ylabel="loss, mean")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return _svg(figure, name)


def scores_chart(log: TrainingLog, chosen: Sequence[str], name: str) -> str:
    """Scores on the development texts."""
    figure, axes = _axes()
    for number, (key, values) in enumerate(_first({key: log.scores[key] for key in chosen})):
        there = ~np.isnan(values)
        axes.plot(
            log.steps[there],
            values[there],
            color=_SERIES[number],
            linestyle=_DASHES[number],
            linewidth=1.5,
            marker="osD^"[number],
            markersize=4,
            label=key,
        )
    _mark_best(axes, log)
    axes.set(xlabel="step", ylabel="score on dev")
    _percent(axes, x=False)
    _legend(axes)
    return _svg(figure, name)


def rate_chart(log: TrainingLog, name: str) -> str:
    """The learning rate."""
    figure, axes = _axes()
    steps, means = _smoothed(log.steps, log.columns["learn_rate"])
    axes.plot(steps, means, color=_SERIES[0], linewidth=1.5)
    axes.set(xlabel="step", ylabel="learning rate")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes.yaxis.get_offset_text().set(color=_MUTED, fontsize=8)
    return _svg(figure, name)


def _first(lines: Mapping[str, Floats]) -> list[tuple[str, Floats]]:
    return list(lines.items())[: len(_SERIES)]


def _mark_best(axes: Axes, log: TrainingLog) -> None:
    if log.best_step is not None:
        axes.axvline(log.best_step, color=_MUTED, linewidth=1, linestyle=":", label=f"kept: step {log.best_step:.0f}")


def _smoothed(steps: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Means over neighbouring steps: at most 60 points, for single steps jump."""
    there = ~np.isnan(values)
    parts = [part for part in np.array_split(np.flatnonzero(there), min(60, max(1, there.sum() // 3))) if len(part)]
    return np.array([steps[part].mean() for part in parts]), np.array([values[part].mean() for part in parts])
