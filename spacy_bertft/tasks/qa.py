"""`bertft_qa`: the span of a context that answers a question, or none."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from spacy.tokens import Doc, Span
from spacy.training import Example
from torch import Tensor, nn

from spacy_bertft.components.head_factory import head_factory
from spacy_bertft.components.hidden_layer import HiddenHead, HiddenLayer
from spacy_bertft.components.pairs import find_segments
from spacy_bertft.components.spans import set_scored_spans
from spacy_bertft.components.task import HeadOutput, new_linear
from spacy_bertft.encoder.pooling import token_vectors
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.learning.losses import Targets
from spacy_bertft.tasks.answer_spans import Candidates, best_spans, probability_of_margin
from spacy_bertft.tasks.calibration import fit_answer_threshold
from spacy_bertft.tasks.scorers import ANSWERS_KEY, exact_match, gold_answers, token_f1
from spacy_bertft.text.alignment import ramps
from spacy_bertft.types import Features, Ints

LABEL = "ANSWER"
MISSING = -1  # target of a question without gold annotation


class AnswerHead(HiddenHead):
    """BERT's answer head: start and end logits for each token, and for "no answer" in each Doc.

    Features -> (T + B, 2): tokens first. A token's start logit is from its first subword, its end logit from its last.
    The no-answer logits are the first special subword's (Devlin et al., 2019, section 4.3): the minimum over windows.
    """

    rows = ("tokens", "docs")

    def __init__(self, width: int, hidden: HiddenLayer) -> None:
        super().__init__(width, hidden)
        self.output = new_linear(width, 2)

    def n_outputs(self, n_labels: int) -> int:
        """Two: start and end."""
        return 2

    def columns(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The same two."""
        return "start", "end"

    def forward(self, features: Features) -> Tensor:
        """Logits of all tokens and Docs; those of tokens without a subword are meaningless."""
        if not features.window_counts.all():
            raise ConfigError(
                "The encoder's tokenizer puts no special subword before a text. Expected one like [CLS], which "
                'bertft_qa reads as "no answer". Use another encoder.'
            )
        of_rows = replace(features, hidden=self.output(self.dropout(self.hidden(features.hidden))))  # (N, 2)
        starts, ends = token_vectors(of_rows, "first")[:, :1], token_vectors(of_rows, "last")[:, 1:]
        of_windows = of_rows.hidden[torch.from_numpy(features.cls_rows).to(features.hidden.device)]  # (W, 2)
        doc_of = torch.from_numpy(np.repeat(np.arange(len(features.window_counts)), features.window_counts))
        index = doc_of.to(of_windows.device)[:, None].expand(-1, 2)
        of_docs = of_windows.new_zeros(len(features.window_counts), 2)
        of_docs = of_docs.scatter_reduce(0, index, of_windows, "amin", include_self=False)  # (B, 2)
        return torch.cat([torch.cat([starts, ends], dim=1), of_docs])


@dataclass(frozen=True)
class AnswerTask(HiddenLayer):
    """Extractive answers for Docs of a question and its context.

    max_tokens: maximum length of an answer.
    n_best: maximum number of answers to set, the best first; they may overlap.
    threshold: minimum probability of the best answer, against "no answer", to set answers; 0 always answers. `bertft
        calibrate` fits it.
    """

    max_tokens: int = 30
    n_best: int = 1
    threshold: float = 0.5
    needs_segments = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold of bertft_qa is {self.threshold:g}; expected 0 to 1. Set one in this range.")
        for name in ("max_tokens", "n_best"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} of bertft_qa is {getattr(self, name)}; expected at least 1. Set a larger one."
                )

    def labels_in(self, examples: Sequence[Example]) -> Iterable[str]:
        """One label for all answers, if any question is annotated; warns once about answers that fit no tokens."""
        _warn_of_misaligned(examples)
        return (LABEL for eg in examples if gold_answers(eg.reference) is not None)

    def check(self, labels: Sequence[str]) -> None:
        """Accept only the one label."""
        if list(labels) != [LABEL]:
            raise ConfigError(
                f"bertft_qa got the labels {', '.join(labels)}; expected only {LABEL}. Leave the labels out: the "
                "head has no others."
            )

    def prepare(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Nothing: the loss of a question is already the mean of the losses of its start and end."""
        return {}

    def build(self, width: int, n_labels: int, pooler: nn.Linear | None) -> AnswerHead:
        """A new AnswerHead."""
        return AnswerHead(width, self)

    def targets(self, output: HeadOutput, examples: Sequence[Example]) -> Targets:
        """Start and end of each answer: each is a token of the context, or no answer.

        All windows share one softmax (Clark & Gardner, 2018, Simple and effective multi-paragraph reading
        comprehension). The first gold answer is the target.
        """
        contexts = _contexts([eg.predicted for eg in examples])
        targets = np.array(
            [self._target(eg, context) for eg, context in zip(examples, contexts, strict=True)], dtype=np.int64
        ).reshape(-1, 2)  # (B, 2)
        places = self._places(contexts, output.features)  # (B, 1 + longest)
        # A target token without a subword (in a context that was shortened) can't be learned.
        targets[np.take_along_axis(places, np.maximum(targets, 0), axis=1) < 0] = MISSING
        starts_and_ends = np.stack([2 * places, 2 * places + 1], axis=1)  # (B, 2, 1 + longest)
        candidates = np.where(places[:, None] < 0, -1, starts_and_ends).reshape(-1, places.shape[1])
        device = output.logits.device
        values = torch.from_numpy(targets.reshape(-1)).to(device)
        return Targets("exclusive", values, values != MISSING, torch.from_numpy(candidates).to(device), scale=0.5)

    def _target(self, eg: Example, context: Span) -> tuple[int, int]:
        """Columns of `_places` where the answer starts and ends: 0 is no answer."""
        answers = eg.reference.spans.get(ANSWERS_KEY)
        if answers is None:
            return MISSING, MISSING
        if not len(answers):
            return 0, 0
        answer = answers[0]
        span = eg.predicted.char_span(answer.start_char, answer.end_char, alignment_mode="expand")
        if span is None or not context.start <= span.start < span.end <= context.end:
            raise DataError(
                f"The gold answer {answer.text[:60]!r} (characters {answer.start_char} to {answer.end_char}) is not in "
                f"the context, {context.start_char} to {context.end_char}. Expected a span of the second segment. "
                "Correct its offsets."
            )
        return span.start - context.start + 1, span.end - context.start

    def _places(self, contexts: Sequence[Span], features: Features) -> Ints:
        """The row of the logits for each candidate (B, 1 + longest): no answer first; -1 where there is none."""
        n_tokens = len(features.token_subword_counts)
        lengths = np.array([len(context) for context in contexts], dtype=np.int64)
        first_tokens = np.cumsum(features.token_counts) - features.token_counts
        starts = np.array([context.start for context in contexts], dtype=np.int64)
        tokens = np.repeat(first_tokens + starts, lengths) + ramps(lengths)
        places = np.full((len(contexts), 1 + lengths.max(initial=0)), -1, dtype=np.int64)
        places[:, 0] = n_tokens + np.arange(len(contexts))
        is_token = np.arange(places.shape[1] - 1) < lengths[:, None]
        places[:, 1:][is_token] = np.where(features.token_subword_counts[tokens] > 0, tokens, -1)
        return places

    def annotate(self, docs: Sequence[Doc], output: HeadOutput) -> None:
        """Set doc.spans: the best answers with their probabilities, or none if the best one is below the threshold."""
        for doc, found in zip(docs, self._candidates(docs, output), strict=True):
            limit = self.n_best if probability_of_margin(found.margin) >= self.threshold else 0
            spans = [
                Span(doc, start, end, label=LABEL)
                for start, end in zip(found.starts[:limit].tolist(), found.ends[:limit].tolist(), strict=True)
            ]
            scores = np.exp(found.scores[: len(spans)] - found.log_total)
            no_answer = float(np.exp(found.no_answer - found.log_total))
            set_scored_spans(doc, ANSWERS_KEY, spans, scores.tolist(), no_answer=no_answer)

    def _candidates(self, docs: Sequence[Doc], output: HeadOutput) -> list[Candidates]:
        contexts = _contexts(docs)
        places = self._places(contexts, output.features)
        values = (
            output.logits.float().cpu().numpy()[np.maximum(places, 0)].astype(np.float64)
        )  # sync  # (B, 1 + longest, 2)
        values[places < 0] = -np.inf
        return [
            best_spans(
                of_doc[1 : 1 + len(context)], float(of_doc[0].sum()), context.start, self.max_tokens, self.n_best
            )
            for of_doc, context in zip(values, contexts, strict=True)
        ]

    def evidence(self, output: HeadOutput, examples: Sequence[Example]) -> list[tuple[float, float, float]]:
        """For each annotated question: the margin of its best answer, that answer's F1, and the F1 of no answer."""
        found = []
        docs = [eg.predicted for eg in examples]
        for eg, spans in zip(examples, self._candidates(docs, output), strict=True):
            gold = gold_answers(eg.reference)
            if gold is not None:
                text = eg.predicted[spans.starts[0] : spans.ends[0]].text if len(spans.starts) else ""
                found.append((spans.margin, token_f1(gold, text), exact_match(gold, "")))
        return found

    def fit(self, evidence: Sequence[tuple[float, float, float]]) -> dict[str, float]:
        """The threshold with the best F1 over all questions."""
        if not evidence:
            raise DataError("Found no annotated questions to fit on. Expected some. Add gold answers to the data.")
        return {"threshold": probability_of_margin(fit_answer_threshold(evidence))}


def _contexts(docs: Sequence[Doc]) -> list[Span]:
    return [segments[1] for segments in map(find_segments, docs) if segments is not None]


def _warn_of_misaligned(examples: Sequence[Example]) -> None:
    """Warn once about answers that begin or end inside a token: they are learned with the whole token."""
    n_answers = n_wider = 0
    for eg in examples:
        texts = gold_answers(eg.reference) or []
        for text, span in zip(texts[:1], eg.reference.spans.get(ANSWERS_KEY, ()), strict=False):
            n_answers += 1
            learned = eg.predicted.char_span(span.start_char, span.end_char, alignment_mode="expand")
            n_wider += learned is not None and learned.text != text
    if n_wider:
        warnings.warn(
            f"{n_wider} of {n_answers} gold answers begin or end inside a token of this pipeline's tokenizer. They are "
            "learned with the whole token. Correct the offsets, or the tokenizer.",
            stacklevel=2,
        )


make_qa = head_factory(
    "bertft_qa",
    AnswerTask,
    AnswerTask,
    assigns=["doc.spans"],
    scorer="spacy-bertft.answer_scorer.v1",
    score_weights={
        "answer_f": 1.0,
        "answer_em": 0.0,
        "answer_em_answerable": None,
        "answer_f_answerable": None,
        "answer_acc_unanswerable": None,
    },
    scored_by=["threshold"],
)
