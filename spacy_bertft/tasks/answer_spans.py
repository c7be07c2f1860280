"""Logits of starts and ends -> the best spans of a context. Pure numpy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from spacy_bertft.errors import ConfigError
from spacy_bertft.types import Features, Ints

_SUREST = 36.0  # beyond this margin, the probability is 1 in float64


class Candidates(NamedTuple):
    """The spans that could answer one question."""

    starts: Ints  # (C,) tokens
    ends: Ints  # (C,) token after the last
    scores: np.ndarray[Any, np.dtype[np.float64]]  # (C,) logits, best first
    no_answer: float  # logit
    log_total: float  # log of the sum over all spans and no answer

    @property
    def margin(self) -> float:
        """Logit of the best answer minus that of no answer; -inf without candidates."""
        return float(self.scores[0]) - self.no_answer if len(self.scores) else -np.inf


def check_first_special(features: Features) -> None:
    """Raise a ConfigError if a text has no first special subword, whose logits are those of no answer."""
    if not features.window_counts.all():
        raise ConfigError(
            "The encoder's tokenizer puts no special subword before a text. Expected one like [CLS], which "
            'bertft_qa reads as "no answer". Use another encoder.'
        )


def best_spans(logits: np.ndarray[Any, Any], no_answer: float, shift: int, max_tokens: int, n_best: int) -> Candidates:
    """The best spans of a context. logits: (C, 2), -inf for tokens that are not candidates."""
    length = len(logits)
    longest = min(max_tokens, length)
    ends = np.concatenate([logits[:, 1], np.full(longest - 1, -np.inf)])
    scores = logits[:, :1] + np.lib.stride_tricks.sliding_window_view(ends, longest)  # (C, longest)
    flat = scores.ravel()
    top = np.argpartition(-flat, min(n_best, len(flat)) - 1)[:n_best]
    top = top[np.argsort(-flat[top], kind="stable")]
    top = top[np.isfinite(flat[top])]
    largest = max(no_answer, float(flat[top[0]]) if len(top) else no_answer)
    total = np.exp(flat - largest).sum() + np.exp(no_answer - largest)
    starts = top // longest + shift
    return Candidates(starts, starts + top % longest + 1, flat[top], no_answer, largest + float(np.log(total)))


def probability_of_margin(margin: float) -> float:
    """The probability of the best answer if no answer is the only alternative."""
    return float(1 / (1 + np.exp(-np.clip(margin, -_SUREST, _SUREST))))
