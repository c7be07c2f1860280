"""doc.tensor from the encoder, and the vectors and similarities computed from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from spacy.tokens import Doc, Span, Token

from spacy_bertft.encoder.features import as_numpy
from spacy_bertft.encoder.pooling import token_vectors
from spacy_bertft.types import Features


def set_tensors(docs: Sequence[Doc], features: Features) -> None:
    """Set doc.tensor (T, D): the mean of each token's subwords. doc.vector and similarities are computed from it."""
    if not docs:
        return
    vectors = as_numpy(token_vectors(features, "mean"))
    for doc, tensor in zip(docs, np.split(vectors, np.cumsum(features.token_counts)[:-1]), strict=True):
        doc.tensor = tensor  # type: ignore[assignment]  # spaCy's types know float64 alone
        # spaCy's own similarity is the same cosine, but warns that there are no static vectors.
        doc.user_hooks["similarity"] = doc.user_span_hooks["similarity"] = _cosine
        doc.user_token_hooks["similarity"] = _cosine


def _cosine(one: Doc | Span | Token, other: Doc | Span | Token) -> float:
    left, right = np.asarray(one.vector), np.asarray(other.vector)
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norms if norms else 0.0
