"""What stands out in the report, in a few sentences for its top."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from spacy_bertft.jobs.report.data import Lengths, Texts, Training
from spacy_bertft.jobs.report.heads import Judged
from spacy_bertft.jobs.report.measures import f_score
from spacy_bertft.jobs.report.slices import Slices
from spacy_bertft.jobs.report.statistics import interval

_FEW = 50  # texts
_RARE = 5  # gold instances of a label
_NAMED = 6  # labels
_OFF = 0.05  # from which confidence counts as too high or too low


def findings_of(head: Judged, slices: Sequence[Slices]) -> list[str]:
    """The weakest label, the most frequent confusion, wrong confidence, and the weakest part of the data."""
    found = [
        *_few(head),
        *_never_given(head),
        *_weakest_label(head),
        *_confused(head),
        *_confidence(head),
        *_weakest_part(head, slices),
    ]
    return [f"{head.name}: {sentence}" for sentence in found]


def data_findings(texts: Texts, lengths: Lengths, training: Training | str) -> Iterator[str]:
    """Texts longer than the window, texts that were trained on, entities that fit no tokens."""
    if lengths.window is not None:
        share = float((lengths.counts > lengths.window).mean())
        if share >= _OFF:
            yield (
                f"{share:.0%} of the texts are longer than the encoder's window of {lengths.window} {lengths.unit}; "
                "they are read in several windows."
            )
    if not isinstance(training, str):
        n_known = sum(eg.reference.text in training.texts for eg in texts.examples)
        if n_known:
            share = n_known / len(texts.examples)
            yield f"{n_known:,} texts ({share:.1%}) are also training texts, so the scores may be too good."
    if texts.n_misaligned:
        yield (
            f"{texts.n_misaligned:,} of {texts.n_entities:,} gold entities don't begin and end with a token: the "
            "pipeline can't find them exactly."
        )


def _few(head: Judged) -> Iterator[str]:
    if len(head.texts) < _FEW:
        n_texts = len(head.texts)
        yield f"only {n_texts} annotated text{'s' if n_texts > 1 else ''}, so the intervals are wide and only rough."


def _never_given(head: Judged) -> Iterator[str]:
    sums = head.of_labels.sum(axis=0) if head.labels else np.zeros((0, 3))
    never = np.flatnonzero((sums[:, :2].sum(axis=1) == 0) & (sums[:, 2] >= _RARE))
    if len(never):
        more = f" and {len(never) - _NAMED} more" if len(never) > _NAMED else ""
        yield f"never predicted: {', '.join(head.labels[place] for place in never[:_NAMED])}{more}."


def _weakest_label(head: Judged) -> Iterator[str]:
    if len(head.labels) < 2:
        return
    sums = head.of_labels.sum(axis=0)  # (L, 3)
    n_gold = sums[:, 0] + sums[:, 2]
    scores = np.where((n_gold >= _RARE) & (sums[:, :2].sum(axis=1) > 0), f_score(sums), np.nan)
    if (~np.isnan(scores)).sum() > 1:
        weakest = int(np.nanargmin(scores))
        label, score, n_instances = head.labels[weakest], 100 * scores[weakest], int(n_gold[weakest])
        yield f"weakest label “{label}”, F-score {score:.1f} ({n_instances:,} gold)."


def _confused(head: Judged) -> Iterator[str]:
    if head.confusion is None or not len(head.labels):
        return
    counts = head.confusion[:-1, :-1].copy()
    np.fill_diagonal(counts, 0)
    if counts.max(initial=0) > 1:
        gold, predicted = np.unravel_index(int(counts.argmax()), counts.shape)
        yield f"“{head.labels[gold]}” was taken for “{head.labels[predicted]}” {counts.max()} times."


def _confidence(head: Judged) -> Iterator[str]:
    if head.calibration is None or head.unit == "labels":
        return
    saved = head.calibration.saved
    gap = float(saved.confidence.mean() - saved.right.mean())
    if abs(gap) >= _OFF:
        yield (
            f"too {'sure of itself' if gap > 0 else 'cautious'}: mean confidence {100 * saved.confidence.mean():.0f} "
            f"%, right in {100 * saved.right.mean():.0f} %."
        )


def _weakest_part(head: Judged, slices: Sequence[Slices]) -> Iterator[str]:
    main = head.scores[0]
    whole = interval(head.sums, main.of).value
    parts = [(one, part) for one in slices if one.score is main for part in one.parts if part.n >= 10]
    below = [
        (abs(part.score.value - whole), one, part)
        for one, part in parts
        if (part.score.high < whole if main.kind.more_is_better else part.score.low > whole)
    ]
    if below:
        _, one, part = max(below, key=lambda found: found[0])
        here, everywhere = main.kind.shown(part.score.value), main.kind.shown(whole)
        yield (
            f"weaker on {one.title.lower()} “{part.title}”: {main.title} {here:.1f} instead of {everywhere:.1f} "
            f"({part.n} texts)."
        )
