"""Texts with errors, drawn by displaCy: gold above predicted."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from spacy import displacy
from spacy.tokens import Doc

from spacy_bertft.components.pairs import find_segments
from spacy_bertft.jobs.report.heads import Mark, Mistake

_AROUND = 140  # characters before the first and after the last error
_LONGEST = 900  # characters of a text
_PLAIN = 420  # characters of a text without marks
_ENTITY = '<mark class="entity {kind}">{text}<span>{label}</span></mark>'
_SPAN = {
    "span": '<span class="token" style="height:{total_height}px">{text}{span_slices}{span_starts}</span>',
    "slice": '<span class="slice" style="background:{bg};top:{top_offset}px"></span>',
    "start": '<span class="slice" style="background:{bg};top:{top_offset}px"><span class="start" '
    'style="background:{bg}">{label}{kb_link}</span></span>',
}


@dataclass(frozen=True, slots=True)
class ErrorText:
    """A text to show. HTML, whose parts from the data are escaped."""

    number: int  # of the text, from 1
    source: str
    confidence: float | None
    says: str
    gold: str  # HTML; empty if the text has no marks
    predicted: str
    text: str  # HTML of the text without marks


def error_text(doc: Doc, mistake: Mistake, *, source: str, direction: str = "ltr") -> ErrorText:
    """Draw a text. doc: the gold one; direction: of its script, "ltr" or "rtl"."""
    gold = predicted = text = ""
    if mistake.gold or mistake.predicted:
        start, end = _part([*mistake.gold, *mistake.predicted], doc.text)
        gold, predicted = (
            _drawn(doc, _within(marks, start, end), start, end, direction)
            for marks in (mistake.gold, mistake.predicted)
        )
    else:
        text = _plain(doc)
    return ErrorText(mistake.text + 1, source, mistake.confidence, mistake.says, gold, predicted, text)


def _part(marks: Sequence[Mark], text: str) -> tuple[int, int]:
    """The characters to show: the errors with some text around them."""
    length = len(text)
    wrong = [mark for mark in marks if mark.kind != "right"] or marks
    first = min(mark.start for mark in wrong)
    start = max(0, first - _AROUND)
    end = min(length, max(mark.end for mark in wrong) + _AROUND, start + _LONGEST)
    # Whole words, but a text need not have spaces.
    space = text.find(" ", start, first) + 1 if start else 0
    last = text.rfind(" ", max(mark.end for mark in wrong), end) if end < length else -1
    return space or start, last if last > 0 else end


def _within(marks: Sequence[Mark], start: int, end: int) -> list[Mark]:
    return sorted((mark for mark in marks if start <= mark.start and mark.end <= end), key=lambda one: one.start)


def _label(mark: Mark) -> str:
    """displaCy puts labels into the page as they are."""
    return html.escape(mark.label if mark.kind == "right" else f"{mark.label} · {mark.kind}")


def _drawn(doc: Doc, marks: Sequence[Mark], start: int, end: int, direction: str) -> str:
    overlap = any(after.start < before.end for before, after in pairwise(marks))
    content = _spans(doc, marks, start, end) if overlap else _entities(doc, marks, start, end)
    content["settings"] = {"direction": direction}
    style = "span" if overlap else "ent"
    colors = {_label(mark).upper(): f"var(--k-{mark.kind.replace(' ', '-')})" for mark in marks}
    options = {"template": _SPAN if overlap else _ENTITY, "colors": colors, "top_offset": 26, "span_label_offset": 14}
    drawn = displacy.render(content, style=style, manual=True, jupyter=False, options=options)
    return str(drawn).replace("\n", " ")


def _entities(doc: Doc, marks: Sequence[Mark], start: int, end: int) -> dict[str, Any]:
    before, after = _cut_marks(doc, start, end)
    shift = len(before) - start
    ents = [
        {
            "start": mark.start + shift,
            "end": mark.end + shift,
            "label": _label(mark),
            "params": {"kind": mark.kind.replace(" ", "-")},
        }
        for mark in marks
    ]
    return {"text": f"{before}{doc.text[start:end]}{after}", "ents": ents}


def _cut_marks(doc: Doc, start: int, end: int) -> tuple[str, str]:
    return "… " if start else "", " …" if end < len(doc.text) else ""


def _spans(doc: Doc, marks: Sequence[Mark], start: int, end: int) -> dict[str, Any]:
    """The tokens in spans, and what lies between spans as one word each: displaCy writes a space after such a word."""
    before, after = _cut_marks(doc, start, end)
    words, between, places = [], before, {}
    for token in doc:
        if not start <= token.idx <= token.idx + len(token) <= end:
            continue
        if not any(mark.start <= token.idx < mark.end for mark in marks):
            between += token.text_with_ws
            continue
        if between:
            words.append(between.rstrip(" "))
            between = ""
        places[token.idx] = len(words)
        words.append(token.text_with_ws)
    spans = []
    for mark in marks:
        inside = [place for at, place in places.items() if mark.start <= at < mark.end]
        if inside:
            spans.append({"start_token": inside[0], "end_token": inside[-1] + 1, "label": _label(mark)})
    return {"text": doc.text[start:end], "tokens": [*words, f"{between}{after}"], "spans": spans}


def _plain(doc: Doc) -> str:
    segments = find_segments(doc)
    if segments is not None:
        return '<span class="between">⟷</span>'.join(html.escape(_shortened(span.text)) for span in segments)
    return html.escape(_shortened(doc.text))


def _shortened(text: str) -> str:
    return text if len(text) <= _PLAIN else f"{text[:_PLAIN].rstrip()} …"
