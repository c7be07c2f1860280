"""Scorers of predictions for which spaCy has none."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from spacy.pipeline.textcat import textcat_score
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import registry

ANSWERS_KEY = "answers"
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)


# Answers: exact match and token F1, as in SQuAD's evaluation (Rajpurkar et al., 2016, SQuAD: 100,000+ questions for
# machine comprehension of text; for questions without an answer, 2018, Know what you don't know).


def normalise(answer: str) -> str:
    """Lowercase an answer, and remove ASCII punctuation, English articles and repeated white space."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(gold: Sequence[str], predicted: str) -> float:
    """1.0 if the predicted answer equals a gold one after normalisation, else 0.0. No answer: gold [], predicted ""."""
    return max(float(normalise(one) == normalise(predicted)) for one in _acceptable(gold))


def token_f1(gold: Sequence[str], predicted: str) -> float:
    """The best word F1 of the predicted answer with a gold one, normalised. No answer: gold [], predicted ""."""
    return max(_f1(normalise(one).split(), normalise(predicted).split()) for one in _acceptable(gold))


def _acceptable(gold: Sequence[str]) -> list[str]:
    """The gold answers that are not empty after normalisation; [""], no answer, if there are none."""
    return [one for one in gold if normalise(one)] or [""]


def _f1(gold: list[str], predicted: list[str]) -> float:
    common = sum((Counter(gold) & Counter(predicted)).values())
    if not gold or not predicted:
        return float(gold == predicted)
    return 2 * common / (len(gold) + len(predicted))


def gold_answers(doc: Doc) -> list[str] | None:
    """The gold answers of a Doc, as the annotators wrote them; [] if it has none, None if it is not annotated."""
    if ANSWERS_KEY not in doc.spans:
        return None
    group = doc.spans[ANSWERS_KEY]
    # The spans' tokens may be longer than the answer that a reader aligned them with.
    texts: Sequence[str] = group.attrs.get("texts") or [span.text for span in group]
    return list(texts)


def score_answers(examples: Iterable[Example], **_: Any) -> dict[str, Any]:
    """Exact match and F1 of the first answers, in [0, 1]: over all, answerable and unanswerable questions.

    Questions without gold annotation are left out.
    """
    rows = []
    for eg in examples:
        gold = gold_answers(eg.reference)
        if gold is not None:
            predicted = next((span.text for span in eg.predicted.spans.get(ANSWERS_KEY, [])), "")
            rows.append((any(map(normalise, gold)), exact_match(gold, predicted), token_f1(gold, predicted)))

    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    return {
        "answer_em": mean([em for _, em, _ in rows]),
        "answer_f": mean([f1 for _, _, f1 in rows]),
        "answer_em_answerable": mean([em for has, em, _ in rows if has]),
        "answer_f_answerable": mean([f1 for has, _, f1 in rows if has]),
        "answer_acc_unanswerable": mean([em for has, em, _ in rows if not has]),
    }


@registry.scorers("spacy-bertft.answer_scorer.v1")
def create_answer_scorer() -> Callable[..., dict[str, Any]]:
    """The scorer of bertft_qa."""
    return score_answers


# Exclusive categories, with or without an unknown one.


def score_categories(
    examples: Iterable[Example], *, labels: Sequence[str], unknown_label: str | None = None, **cfg: Any
) -> dict[str, Any]:
    """spaCy's scores of exclusive categories; with an unknown one, also how well it is detected.

    cats_known_acc: accuracy on texts of known categories. cats_unknown_r: recall of unknown texts. cats_unknown_auc:
    area under the ROC curve of the unknown category's probability. Texts without gold annotation are left out.
    """
    if unknown_label is None:
        return textcat_score(examples, labels=labels, **cfg)
    own = [*labels, unknown_label]
    examples = [eg for eg in examples if any(eg.reference.cats.get(label, 0.0) > 0.5 for label in own)]
    scores: dict[str, Any] = textcat_score(examples, labels=own, **cfg)
    pairs = [[_best(doc.cats, own) for doc in (eg.reference, eg.predicted)] for eg in examples]
    right = [gold == found for gold, found in pairs if gold != unknown_label]
    missed = [found != unknown_label for gold, found in pairs if gold == unknown_label]
    scores["cats_known_acc"] = sum(right) / len(right) if right else None
    scores["cats_unknown_r"] = 1 - sum(missed) / len(missed) if missed else None
    scores["cats_unknown_auc"] = scores["cats_auc_per_type"][unknown_label]
    return scores


def _best(cats: dict[str, float], labels: Sequence[str]) -> str:
    return max((label for label in cats if label in labels), key=lambda label: cats[label], default="")


@registry.scorers("spacy-bertft.textcat_scorer.v1")
def create_textcat_scorer() -> Callable[..., dict[str, Any]]:
    """The scorer of bertft_textcat."""
    return score_categories
