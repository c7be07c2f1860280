"""The page: an HTML file with everything in it, made from page.html.jinja and page.css."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from spacy_bertft.components.metric_kinds import titled
from spacy_bertft.jobs.report.measures import Score
from spacy_bertft.jobs.report.statistics import Interval
from spacy_bertft.jobs.templates import templates

_MISSING = "–"


def render(content: Mapping[str, Any]) -> str:
    """The page as HTML. content: what the template reads; strings of it are escaped, charts and error texts are not."""
    environment = templates("spacy_bertft.jobs.report", html=True)
    environment.filters.update(
        shown=_shown, points=_points, span=_span, number=_number, titled=titled, left=_left, marked=_marked
    )
    style = environment.loader.get_source(environment, "page.css")[0]  # type: ignore[union-attr]
    now = datetime.now()
    made = f"{now.day} {now:%B %Y, %H:%M}"
    return environment.get_template("page.html.jinja").render(style=style, made=made, **content)


def _number(value: float | None, digits: int = 1) -> str:
    return _MISSING if value is None or math.isnan(value) else f"{value:,.{digits}f}".replace("-", "−")


def _points(value: float | None) -> str:
    """A fraction in points, from 0 to 100."""
    return _number(None if value is None else 100 * value)


def _shown(value: float, score: Score) -> str:
    """A score as its kind is shown: in points, or, if it is an error, in the unit of the data."""
    return _number(score.kind.shown(value), 1 if score.kind.more_is_better else 3)


def _span(found: Interval, score: Score | None = None) -> str:
    """The interval of a score, from its lower to its upper end."""
    if math.isnan(found.low):
        return _MISSING
    ends = [_points(end) if score is None else _shown(end, score) for end in (found.low, found.high)]
    return " to ".join(ends)


def _marked(text: str) -> Any:
    """A sentence whose `commands` are set as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _left(value: float) -> str:
    """A fraction as a length in CSS."""
    return f"{100 * min(1.0, max(0.0, 0.0 if math.isnan(value) else value)):.1f}%"
