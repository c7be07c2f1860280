"""Two plots of a search: its history, and the score against each setting."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacy_bertft.files import replace_file
from spacy_bertft.jobs.tune.results import Row, best_of
from spacy_bertft.jobs.tune.space import Range, Setting, Space

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HISTORY, SETTINGS = "history.svg", "settings.svg"
_DONE, _BEST, _FADED = "#2b6cb0", "#c05621", "#9aa5b1"
_ACROSS = 3  # settings side by side
_LABELS = 24  # characters of choices that fit below a plot


def short_names(space: Space) -> dict[str, str]:
    """The shortest end of each setting's name that no other has: "initial_rate", …"""
    names = [setting.name.split(".") for setting in space]
    found = {}
    for parts in names:
        ends = (parts[-length:] for length in range(1, len(parts) + 1))
        unique = next((end for end in ends if sum(other[-len(end) :] == end for other in names) == 1), parts)
        found[".".join(parts)] = ".".join(unique)
    return found


def short_value(value: Any) -> str:
    """A value of a setting in few characters; a block as its function's name and what it is given."""
    if isinstance(value, Mapping):
        function = next((str(name) for key, name in value.items() if key.startswith("@")), "")
        name = function.removeprefix("spacy-bertft.").rpartition(".v")[0] or function
        given = [f"{key}={short_value(one)}" for key, one in value.items() if not key.startswith("@")]
        return " ".join([name, *given]).strip()
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def write_plots(folder: Path, rows: Sequence[Row], space: Space) -> None:
    """Write history.svg and settings.svg."""
    scored = [row for row in rows if row.score is not None]
    if scored:
        _save(_history(scored, len(rows)), folder / HISTORY)
        _save(_settings(scored, space), folder / SETTINGS)


def _save(figure: Figure, path: Path) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "bertft"}):  # the same trials give the same file
        replace_file(path, lambda part: figure.savefig(part, format="svg", metadata={"Date": None}))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")  # inches; without pyplot, which needs a display


def _history(rows: Sequence[Row], n_rows: int) -> Figure:
    from matplotlib.ticker import MaxNLocator

    figure = _figure(7, 4)
    axes = figure.add_subplot()
    _points(axes, rows, [row.number for row in rows])
    done = [row for row in rows if row.state == "done"]
    best = [best_of(done[: length + 1]) for length in range(len(done))]
    axes.step(
        [row.number for row in done],
        [row.score for row in best if row is not None and row.score is not None],
        where="post",
        color=_BEST,
        label="best so far",
    )
    axes.set(xlabel="trial", ylabel="dev score", title=f"{n_rows} trials")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right upper", frameon=False)
    _plain(axes)
    return figure


def _settings(rows: Sequence[Row], space: Space) -> Figure:
    across = min(_ACROSS, len(space))
    down = math.ceil(len(space) / across)
    figure = _figure(3.2 * across, 2.9 * down)
    names = short_names(space)
    first: Axes | None = None
    for number, setting in enumerate(space, 1):
        axes = figure.add_subplot(down, across, number, sharey=first)
        first = first or axes
        _against(axes, rows, setting)
        axes.set_xlabel(names[setting.name])
        if (number - 1) % across == 0:
            axes.set_ylabel("dev score")
        _plain(axes)
    return figure


def _against(axes: Axes, rows: Sequence[Row], setting: Setting) -> None:
    if isinstance(setting, Range):
        _points(axes, rows, [row.values[setting.name] for row in rows])
        if setting.log:
            axes.set_xscale("log")
            middle = math.sqrt(setting.low * setting.high)
            ticks = [setting.low, round(middle) if setting.whole else middle, setting.high]
            axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
            axes.set_xticks([], minor=True)
        return
    places = {json.dumps(option): place for place, option in enumerate(setting.options)}
    _points(axes, rows, [places[json.dumps(row.values[setting.name])] for row in rows])
    labels = [short_value(option) for option in setting.options]
    long = sum(map(len, labels)) > _LABELS
    turned: dict[str, Any] = {"rotation": 20, "ha": "right"} if long else {}
    axes.set_xticks(range(len(places)), labels, **turned)
    axes.set_xlim(-0.5, len(places) - 0.5)


def _points(axes: Axes, rows: Sequence[Row], places: Sequence[float]) -> None:
    best = best_of(rows)
    for state, marker, color in (("done", "o", _DONE), ("pruned", "x", _FADED), ("failed", "v", _FADED)):
        found = [(place, row.score) for place, row in zip(places, rows, strict=True) if row.state == state]
        if found:
            across, up = zip(*found, strict=True)
            axes.scatter(across, up, marker=marker, color=color, s=28, label=state)
    if best is not None and best.score is not None:
        axes.scatter([places[rows.index(best)]], [best.score], s=110, facecolors="none", edgecolors=_BEST)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
