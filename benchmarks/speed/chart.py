"""A bar chart of the throughput as SVG, for light and dark pages."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from measure import SETS, Results
from report import Spread, limit_ratio, present, ratio, reference
from subjects import Subject

Bar = tuple[Subject, Spread]

LEFT, PLOT, RIGHT = 250, 480, 70  # widths in pixels: names, bars, room for the last figure
TOP, BAR, GAP, GROUP, BOTTOM = 46, 16, 6, 34, 52  # heights in pixels
MOST_TICKS = 10
STYLE = """
  svg { --text: #1f2328; --faint: #59636e; --grid: #d1d9e0; --ours: #0969da; --peer: #8c959f; --limit: #bc4c00; }
  @media (prefers-color-scheme: dark) {
    svg { --text: #f0f6fc; --faint: #9198a1; --grid: #3d444d; --ours: #4493f8; --peer: #6e7781; --limit: #f0883e; }
  }
  text { font: 12px system-ui, sans-serif; fill: var(--text); }
  .title { font-weight: 600; font-size: 14px; }
  .group { font-weight: 600; }
  .faint { fill: var(--faint); }
  .end { text-anchor: end; }
  .middle { text-anchor: middle; }
  .grid { stroke: var(--grid); }
  .ours { fill: var(--ours); }
  .peer { fill: var(--peer); }
  .range { stroke: var(--text); }
  .limit { stroke: var(--limit); stroke-width: 2; stroke-dasharray: 5 3; }
  .limit-text { fill: var(--limit); }
"""


def draw(title: str, results: Results) -> str | None:
    """Speeds in ratio to the reference with as many heads, by set of texts; None where none was measured."""
    unit = reference(results, 1)
    if unit is None:
        return None
    bars = {of_set: list(_bars(results, of_set)) for of_set in SETS}
    bounds = {of_set: limit_ratio(results, of_set, unit).median for of_set in SETS}
    longest = max(*bounds.values(), *(spread.high for of_set in SETS for _, spread in bars[of_set]))
    step = next(step for step in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if longest / step <= MOST_TICKS)
    scale = PLOT / longest
    parts = [f'<text class="title" x="12" y="24">{escape(title)}</text>']
    bottom = TOP + sum(GROUP + len(bars[of_set]) * (BAR + GAP) for of_set in SETS)
    parts += _axis(unit, longest, step, scale, bottom)
    y = TOP
    for of_set in SETS:
        parts += _group(of_set, bars[of_set], bounds[of_set], scale, y)
        y += GROUP + len(bars[of_set]) * (BAR + GAP)
    width, height = LEFT + PLOT + RIGHT, bottom + BOTTOM
    body = "\n".join(f"  {part}" for part in parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">\n<style>{STYLE}</style>\n{body}\n</svg>\n'
    )


def _bars(results: Results, of_set: str) -> Iterator[Bar]:
    """Each subject whose reference was measured, with its ratio to it."""
    for subject in present(results):
        unit = reference(results, subject.heads)
        if unit is not None:
            yield subject, ratio(results, of_set, subject.name, unit)


def _axis(unit: str, longest: float, step: float, scale: float, bottom: float) -> Iterator[str]:
    for tick in range(int(longest / step) + 1):
        x = LEFT + tick * step * scale
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>'
        yield f'<text class="faint middle" x="{x:.1f}" y="{bottom + 16}">{tick * step:g}</text>'
    label = f"words a second, in ratio to {unit} with as many heads"
    yield f'<text class="faint middle" x="{LEFT + PLOT / 2}" y="{bottom + 38}">{label}</text>'


def _group(of_set: str, bars: list[Bar], bound: float, scale: float, top: float) -> Iterator[str]:
    first = top + GROUP
    x = LEFT + bound * scale
    last = first + sum(subject.heads == 1 for subject, _ in bars) * (BAR + GAP)
    yield f'<text class="group" x="12" y="{first - 10}">{of_set} texts</text>'
    yield f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{first - 6}" y2="{last}"/>'
    yield f'<text class="limit-text middle" x="{x:.1f}" y="{first - 10}">limit {bound:.1f}</text>'
    for place, bar in enumerate(bars):
        yield from _bar(bar, scale, first + place * (BAR + GAP))


def _bar(bar: Bar, scale: float, top: float) -> Iterator[str]:
    subject, spread = bar
    middle, base = top + BAR / 2, top + BAR - 4
    low, end, high = (LEFT + value * scale for value in (spread.low, spread.median, spread.high))
    kind = "ours" if subject.ours else "peer"
    yield f'<text class="end" x="{LEFT - 8}" y="{base}">{escape(subject.name)}</text>'
    yield f'<rect class="{kind}" x="{LEFT}" y="{top}" width="{end - LEFT:.1f}" height="{BAR}"/>'
    yield f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
    yield f'<text x="{max(end, high) + 5:.1f}" y="{base}">{spread.median:.2f}</text>'
