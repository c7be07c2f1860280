"""`report`: a pipeline and annotated texts in, one HTML file out."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from spacy.language import Language

from spacy_bertft.errors import ConfigError
from spacy_bertft.files import replace_file
from spacy_bertft.jobs.evaluate import load_pipeline
from spacy_bertft.jobs.report import charts
from spacy_bertft.jobs.report.comparison import Compared, compare
from spacy_bertft.jobs.report.data import Lengths, Texts, Training, lengths_of, read_texts, read_training
from spacy_bertft.jobs.report.error_texts import ErrorText, error_text
from spacy_bertft.jobs.report.findings import data_findings
from spacy_bertft.jobs.report.heads import Judged, Mistake
from spacy_bertft.jobs.report.judge import Results, judge
from spacy_bertft.jobs.report.measures import Score
from spacy_bertft.jobs.report.page import render
from spacy_bertft.jobs.report.settings import components_of, training_of, versions
from spacy_bertft.jobs.report.slices import slices_of
from spacy_bertft.jobs.report.span_matches import KINDS
from spacy_bertft.jobs.report.statistics import RESAMPLES, Interval
from spacy_bertft.jobs.report.training_log import TrainingLog, read_log
from spacy_bertft.jobs.report.views import HeadView, view_of
from spacy_bertft.jobs.writing import writing

_ERRORS = 20  # texts with errors that are shown of each head
_MAIN_SCORES = ("_f", "_score", "_em", "_acc", "_pearson", "_spearman")  # ends of the keys that are drawn first


@dataclass(frozen=True, slots=True)
class Report:
    """What was written, and the main scores in it."""

    path: Path
    scores: tuple[tuple[str, Score, Interval], ...]  # head, score and its interval
    n_texts: int


def make_report(
    pipeline: Path,
    data: Sequence[Path],
    *,
    output: Path,
    other: Path | None = None,
    train: Sequence[Path] = (),
    seed: int = 0,
) -> Report:
    """Judge a saved pipeline on annotated texts, and write a page about it.

    pipeline: a folder, such as training/model-best; its training curves are read from the folder above.
    data: files that `bertft evaluate` takes; of several, each is a slice.
    output: the HTML file to write; it needs no other file and no network.
    other: a pipeline to compare with, on the same texts.
    train: the training texts; without them, those that the pipeline's config names, if they are there.
    seed: of the bootstrap.
    """
    charts.check_matplotlib()
    if output.is_dir():
        raise ConfigError(f"{output}: found a folder; expected an HTML file to write; fix: name a file in it")
    nlp = _load(pipeline)
    texts = read_texts(nlp, data)
    training = read_training(nlp, train)
    results = judge(nlp, texts.examples)
    lengths = lengths_of(nlp, [eg.predicted for eg in texts.examples])
    views = [
        _view(nlp, head, f"head-{number}", texts, lengths, training, seed)
        for number, head in enumerate(results.heads, 1)
    ]
    content = {
        "pipeline": str(pipeline),
        "data": [str(path) for path in data],
        "meta": nlp.meta,
        "views": views,
        "unjudged": results.unjudged,
        "scores": results.scores,
        "findings": [line for view in views for line in view.findings] + list(data_findings(texts, lengths, training)),
        "compared": None if other is None else _compared(nlp, results, texts, other, data, seed),
        "other": str(other),
        **_curves(pipeline, nlp.config.get("training", {}).get("score_weights", {})),
        **_data(texts, lengths, training),
        "components": components_of(nlp),
        "training_settings": training_of(nlp),
        "versions": versions(),
        "config": nlp.config.to_str(),
        "seed": seed,
        "resamples": RESAMPLES,
        "kinds": KINDS,
    }
    page = render(content)
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        replace_file(output, lambda part: part.write_text(page, encoding="utf-8"))
    main = tuple((view.head.name, *view.scores[0]) for view in views)
    return Report(output, main, len(texts.examples))


def _load(pipeline: Path) -> Language:
    """A pipeline that takes texts of any length, as our own readers do."""
    nlp = load_pipeline(pipeline)
    nlp.max_length = sys.maxsize
    return nlp


def _view(
    nlp: Language, head: Judged, id: str, texts: Texts, lengths: Lengths, training: Training | str, seed: int
) -> HeadView:
    slices = list(slices_of(head, texts, lengths, training, seed=seed))
    errors = [_error(nlp, texts, mistake) for mistake in head.mistakes[:_ERRORS]]
    return view_of(head, id, slices=slices, errors=errors, training=training, seed=seed)


def _error(nlp: Language, texts: Texts, mistake: Mistake) -> ErrorText:
    source = texts.sources[texts.source_of[mistake.text]] if len(texts.sources) > 1 else ""
    direction = nlp.vocab.writing_system.get("direction", "ltr")
    return error_text(texts.examples[mistake.text].reference, mistake, source=source, direction=direction)


def _compared(
    nlp: Language, results: Results, texts: Texts, other: Path, data: Sequence[Path], seed: int
) -> list[dict[str, Any] | str]:
    """The comparison of each head, with some of the texts that differ."""
    its_nlp = _load(other)
    its = judge(its_nlp, read_texts(its_nlp, data).examples)
    found: list[dict[str, Any] | str] = []
    for one in compare(results.heads, its.heads, seed=seed):
        if isinstance(one, str):
            found.append(one)
            continue
        worse = list(_shown(nlp, texts, _named(results, one).mistakes, one.worse))
        better = list(_shown(nlp, texts, _of_same_unit(its, _named(results, one)).mistakes, one.better))
        found.append({"head": one, "worse": worse, "better": better})
    return found


def _named(results: Results, compared: Compared) -> Judged:
    return next(head for head in results.heads if head.name == compared.name)


def _of_same_unit(results: Results, head: Judged) -> Judged:
    alike = [its for its in results.heads if its.unit == head.unit]
    return next((its for its in alike if its.name == head.name), alike[0])


def _shown(nlp: Language, texts: Texts, mistakes: Sequence[Mistake], numbers: Sequence[int]) -> Iterator[ErrorText]:
    yield from (_error(nlp, texts, mistake) for mistake in mistakes if mistake.text in numbers)


def _curves(pipeline: Path, weights: Mapping[str, float | None]) -> dict[str, Any]:
    log = read_log(pipeline)
    if isinstance(log, str):
        return {"curves": [], "no_curves": log, "log": None}
    drawn = []
    if log.losses:
        drawn.append(("Loss of the training texts, mean of neighbouring steps", charts.loss_chart(log, "loss")))
    keys = _main_scores(log, weights)
    if keys:
        drawn.append(("Scores on the development texts", charts.scores_chart(log, keys, "dev-scores")))
    if not np.isnan(log.columns.get("learn_rate", np.full(1, np.nan))).all():
        drawn.append(("Learning rate", charts.rate_chart(log, "rate")))
    return {"curves": drawn, "no_curves": "" if drawn else f"{log.path.name} holds no values to draw.", "log": log}


def _main_scores(log: TrainingLog, weights: Mapping[str, float | None]) -> list[str]:
    """The scores to draw: those that choose the best step first. Errors, which can exceed 1, are left out."""
    known = {name: of for name, of in log.scores.items() if not np.isnan(of).all()}
    within = {name: of for name, of in known.items() if np.nanmax(of) <= 1 and np.nanmin(of) >= -1}
    ranked = sorted(within, key=lambda name: (not weights.get(name), not name.endswith(_MAIN_SCORES)))
    distinct = {within[name].tobytes(): name for name in reversed(ranked)}  # cats_score is another name of one
    return [name for name in ranked if name in distinct.values() and not name.startswith("token_")][:3]


def _data(texts: Texts, lengths: Lengths, training: Training | str) -> dict[str, Any]:
    counts = lengths.counts
    distinct = len({eg.reference.text for eg in texts.examples})
    known = None
    if not isinstance(training, str):
        known = sum(eg.reference.text in training.texts for eg in texts.examples)
    n_texts = len(texts.examples)
    return {
        "texts": texts,
        "n_texts": n_texts,
        "n_repeated": n_texts - distinct,
        "n_known": known,
        "training": training,
        "lengths": lengths,
        "quantiles": [int(np.quantile(counts, share)) for share in (0, 0.5, 0.95, 1)],
        "n_long": None if lengths.window is None else int((counts > lengths.window).sum()),
        "lengths_chart": charts.lengths_chart(counts, lengths.unit, lengths.window, "lengths"),
        "sources": [(name, int((texts.source_of == number).sum())) for number, name in enumerate(texts.sources)],
    }
