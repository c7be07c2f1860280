"""Heads that have no labels to count: answers of bertft_qa, and numbers of bertft_regression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from spacy.tokens import Doc
from spacy.training import Example

from spacy_bertft.components.doc_values import value_of
from spacy_bertft.components.pairs import find_segments
from spacy_bertft.jobs.report.heads import Calibration, Decisions, Judged, Mark, Mistake, Threshold, Unjudged
from spacy_bertft.jobs.report.measures import ANSWERS, NUMBERS, number_sums
from spacy_bertft.tasks.scorers import ANSWERS_KEY, exact_match, gold_answers, normalise, token_f1


def best_answer(doc: Doc) -> tuple[str, float, float]:
    """The best answer of a Doc that was annotated without a threshold, its score, and that of no answer."""
    group = doc.spans.get(ANSWERS_KEY)
    if group is None or not len(group):
        return "", 0.0, 1.0
    return group[0].text, float(group.attrs["scores"][0]), float(group.attrs["no_answer"])


def judge_answers(name: str, factory: str, examples: Sequence[Example], *, threshold: float) -> Judged | Unjudged:
    """Compare answers with the gold ones, on examples that the head has annotated with a threshold of 0."""
    golds = [gold_answers(eg.reference) for eg in examples]
    texts = np.array([number for number, gold in enumerate(golds) if gold is not None], dtype=np.int64)
    if not len(texts):
        return Unjudged(name, factory, "The data have no gold answers, so there is nothing to measure.")
    rows, confidence, mistakes, offers = [], [], [], []
    n_given = 0
    for number in texts.tolist():
        gold, eg = golds[number] or [], examples[number]
        text, score, no_answer = best_answer(eg.predicted)
        margin = score / (score + no_answer) if score + no_answer else 0.0
        given = text if text and margin >= threshold else ""
        n_given += bool(given)
        sure = score if given else no_answer
        exact, f_score, has = exact_match(gold, given), token_f1(gold, given), any(map(normalise, gold))
        rows.append([1.0, exact, f_score, has, f_score * has, not has, exact * (not has)])
        confidence.append(sure)
        offers.append((margin if text else 0.0, bool(text) and has and exact_match(gold, text) == 1.0))
        if not exact:
            mistakes.append(_mistake(number, eg, gold, given, sure))
    sums = np.array(rows, dtype=np.float64)
    decisions = Decisions(np.array(confidence), sums[:, 1] == 1.0)
    offered = Decisions(np.array([margin for margin, _ in offers]), np.array([right for _, right in offers]))
    n_answers = int(sums[:, 3].sum())
    note = "Precision: how many of the answers given match exactly; recall: of the questions that have an answer."
    return Judged(
        name=name,
        factory=factory,
        unit="answers",
        texts=texts,
        sums=sums,
        scores=ANSWERS,
        calibration=Calibration(decisions, note="A question is right if its answer, or none, matches exactly."),
        threshold=Threshold(offered, n_answers, threshold, note) if n_answers else None,
        mistakes=sorted(mistakes, key=lambda one: -(one.confidence or 0.0)),
        notes=tuple(_answer_notes(n_answers, n_given)),
    )


def _answer_notes(n_answers: int, n_given: int) -> Iterator[str]:
    if not n_answers:
        yield "No question has an answer in its context."
    if not n_given:
        yield "No answer reached the threshold, so none was given. `bertft calibrate` fits the threshold."


def _mistake(number: int, eg: Example, gold: Sequence[str], given: str, sure: float) -> Mistake:
    spans = eg.reference.spans[ANSWERS_KEY]
    wanted = tuple(Mark(span.start_char, span.end_char, "ANSWER", "missed") for span in list(spans)[:1])
    found = eg.predicted.spans[ANSWERS_KEY][0] if given else None
    kind = "partial" if found is not None and token_f1(gold, given) > 0 else "wrong type" if gold else "invented"
    marks = () if found is None else (Mark(found.start_char, found.end_char, f"ANSWER {sure:.2f}", kind),)
    segments = find_segments(eg.predicted)
    question = segments[0].text if segments else ""
    wrong, right = (f"“{answer}”" if answer else "no answer" for answer in (given, gold[0] if gold else ""))
    return Mistake(number, sure, f"{question} {wrong} instead of {right}", wanted, marks)


def judge_numbers(name: str, factory: str, examples: Sequence[Example]) -> Judged | Unjudged:
    """Compare numbers with the gold ones."""
    pairs = [(value_of(eg.reference), value_of(eg.predicted)) for eg in examples]
    texts = np.array([n for n, pair in enumerate(pairs) if None not in pair], dtype=np.int64)
    if not len(texts):
        return Unjudged(name, factory, "The data have no gold numbers, so there is nothing to measure.")
    numbers = np.array([pairs[number] for number in texts], dtype=np.float64)  # (B, 2)
    gold, found = numbers.T
    error = np.abs(gold - found)
    mistakes = [
        Mistake(int(texts[row]), None, f"{found[row]:.2f} instead of {gold[row]:.2f}: off by {error[row]:.2f}")
        for row in np.argsort(-error, kind="stable")
        if error[row] > 0
    ]
    notes = []
    if np.ptp(gold) == 0:
        notes.append("All gold numbers are equal, so the correlation says nothing.")
    elif np.ptp(found) == 0:
        notes.append("All predicted numbers are equal. The head may not have learned yet.")
    return Judged(
        name=name,
        factory=factory,
        unit="numbers",
        texts=texts,
        sums=number_sums(gold, found),
        scores=NUMBERS,
        mistakes=mistakes,
        numbers=numbers,
        notes=tuple(notes),
    )
