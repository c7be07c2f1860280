"""The table of evaluations: its columns, and how they are laid out in a given width."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spacy_bertft.components.metric_kinds import POINTS, ScoreKind, kind_of
from spacy_bertft.components.progress.figures import Evaluation, StepFigures

_GAP = "  "
_MIN_DIGITS, _MAX_DIGITS = 2, 3  # after the point, of scores in points
_BEST = "*"

# The text of a column in a row. digits: of scores in points.
_Text = Callable[[StepFigures, Evaluation, int], str]


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    name: str
    unit: str
    room: int  # characters of the longest text, with _MIN_DIGITS
    text: _Text
    grows: bool = False  # whether more digits make it longer
    needed: bool = True  # False: it is left out where there is no room
    main: bool = False  # in the first line of a row that has several

    def width(self, digits: int) -> int:
        """In characters."""
        more = digits - _MIN_DIGITS if self.grows else 0
        return max(len(self.name), len(self.unit), self.room + more)


class Table:
    """Lays out the columns once; gives the header and a row for each evaluation.

    width: of the terminal, in characters. Columns that are not needed are left out until the table fits; what is left
    over goes to digits. If the needed columns alone are too wide, each row has several lines. None: no limit.
    """

    def __init__(self, columns: Sequence[Column], width: int | None) -> None:
        chosen = [column for column in columns if column.needed]
        fits = width is None or _width(chosen, _MIN_DIGITS) <= width
        for column in (column for column in columns if not column.needed):
            if width is None or _width([*chosen, column], _MIN_DIGITS) <= width:
                chosen.append(column)
        chosen.sort(key=list(columns).index)
        all_digits = range(_MAX_DIGITS, _MIN_DIGITS, -1)
        self.digits = next((n for n in all_digits if width is None or _width(chosen, n) <= width), _MIN_DIGITS)
        if not fits:
            chosen.sort(key=lambda column: not column.main)
        self.lines = [chosen] if fits else list(_wrapped(chosen, width or 0))

    def header(self) -> str:
        """The names of the columns and their units; where rows have several lines, the names alone."""
        names = self._lines(lambda column: column.name)
        if len(self.lines) > 1:
            return f"{names}\n{_rule(names)}"
        return f"{names}\n{self._lines(lambda column: column.unit)}\n{_rule(names)}"

    def row(self, figures: StepFigures) -> str:
        """An evaluated step."""
        found = figures.evaluation
        assert found is not None
        return self._lines(lambda column: column.text(figures, found, self.digits))

    def _lines(self, text_of: Callable[[Column], str]) -> str:
        indent = " " * len(_GAP.join(" " * column.width(self.digits) for column in self.lines[0][:2]))
        lines = [
            _GAP.join(text_of(column).rjust(column.width(self.digits)) for column in columns) for columns in self.lines
        ]
        return "\n".join([lines[0].rstrip(), *((indent + _GAP + line).rstrip() for line in lines[1:])])


def _rule(names: str) -> str:
    return "-" * max(map(len, names.splitlines()))


def _width(columns: Sequence[Column], digits: int) -> int:
    return sum(column.width(digits) for column in columns) + len(_GAP) * (len(columns) - 1)


def _wrapped(columns: Sequence[Column], width: int) -> Iterator[list[Column]]:
    """Lines of columns; those after the first are indented by the width of the first two columns."""
    indent = _width(columns[:2], _MIN_DIGITS) + len(_GAP)
    line: list[Column] = []
    room = width
    for column in columns:
        if line and _width([*line, column], _MIN_DIGITS) > room:
            yield line
            line, room = [], max(0, width - indent)
        line.append(column)
    yield line


def columns_of(
    losses: Sequence[str], others: Sequence[str], score_weights: Mapping[str, Any], *, gpu: bool = False
) -> list[Column]:
    """The columns for a pipeline. losses: its heads; others: its other trained components, with losses per step."""
    scores = [name for name, weight in score_weights.items() if weight is not None]
    mixed = any(kind_of(name) is not POINTS for name in scores if score_weights[name])
    return [
        Column("epoch", "", 5, lambda now, _, __: str(now.epoch), main=True),
        Column("step", "", 6, lambda now, _, __: f"{now.step:,}", main=True),
        Column("time", "", 7, lambda now, _, __: duration(now.seconds), needed=False),
        Column("learning", "rate", 8, lambda now, _, __: number(now.learn_rate, ".2e"), needed=False),
        Column("gradient", "norm", 8, lambda _, found, __: number(found.stretch.norm, ".3g"), needed=False),
        *(_loss(name, "loss") for name in losses),
        *(_loss(name, "loss/step") for name in others),
        *(_score(name, kind_of(name)) for name in scores),
        Column("score", "weighted" if mixed else "points", 7, _main_score(mixed), grows=True, main=True),
        Column("subwords", "/s", 8, _subwords_per_second, needed=False),
        Column("memory", "MiB", 7, lambda now, _, __: f"{now.memory:,.0f}", needed=False),
        *([Column("GPU", "MiB", 7, lambda now, _, __: number(now.gpu_memory, ",.0f"), needed=False)] if gpu else []),
    ]


def _loss(name: str, unit: str) -> Column:
    return Column(name, unit, 7, lambda _, found, __: loss(found.stretch.losses.get(name)))


def _subwords_per_second(_: StepFigures, found: Evaluation, __: int) -> str:
    return number(found.stretch.subwords_per_second, ",.0f")


def _score(name: str, kind: ScoreKind) -> Column:
    def text(_: StepFigures, found: Evaluation, digits: int) -> str:
        value = found.scores.get(name)
        if value is None:
            return "-"
        return f"{kind.shown(value):.{digits}f}" if kind is POINTS else f"{kind.shown(value):.{digits + 2}g}"

    return Column(name, kind.unit, 6 if kind is POINTS else 8, text, grows=True)


def _main_score(mixed: bool) -> _Text:
    return lambda _, found, digits: main_score(found, digits, mixed) + (_BEST if found.best else " ")


def main_score(found: Evaluation, digits: int = _MIN_DIGITS, mixed: bool = False) -> str:
    """The score by which the best pipeline is chosen. mixed: some of the scores in it are not in points."""
    return f"{found.score:.{digits + 2}f}" if mixed else f"{100 * found.score:.{digits}f}"


def loss(value: float | None) -> str:
    """A loss."""
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}" if abs(value) < 1e5 else f"{value:.2e}"


def number(value: float | None, form: str) -> str:
    """A number in a format, or a dash if it is not known."""
    return "-" if value is None else format(value, form)


def duration(seconds: float) -> str:
    """Seconds as 0:07, 12:05 or 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
