"""An encoder that learns the hidden rows of a teacher's: the output of its last layer for each subword.

Romero et al., 2015, FitNets: hints for thin deep nets; Jiao et al., 2020, TinyBERT, section 3.1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from spacy.tokens import Doc
from thinc.api import Model

from spacy_bertft.components.boundary import Boundary
from spacy_bertft.components.feature_cache import FeatureCache
from spacy_bertft.components.rehearsal import FrozenEncoder
from spacy_bertft.encoder.features import as_torch
from spacy_bertft.encoder.pooling import take
from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.shim import shim_of
from spacy_bertft.types import Features, Ints

if TYPE_CHECKING:
    from torch import Tensor

    from spacy_bertft.encoder.encoder import Encoder

_MAP = "to_teacher"  # name of the map in the encoder's module
_SAME = ("normalizer", "pre_tokenizer", "model", "post_processor")  # parts of a tokenizer that make its subwords


class HiddenRows:
    """What an encoder learns from a teacher's: the rows of the same subwords.

    If their widths differ, a linear map between them is learned too. It is a part of the encoder's module, trained and
    resumed with it, but not of what a pipeline saves.
    """

    def __init__(self, source: str, teacher: FrozenEncoder, student: Callable[[], Encoder], weight: float) -> None:
        """source: the teacher's pipeline, for messages; weight: factor of the loss."""
        self.source, self.teacher, self.student, self.weight = source, teacher, student, weight
        self._cache: FeatureCache | None = None

    def begin(self, cache_mb: int) -> None:
        """Check that both encoders have the same subwords, and make the map if there is one."""
        from spacy_bertft.components.head_modules import new_linear

        student, teacher = self.student(), self.teacher.encoder
        one, other = (json.loads(encoder.tokenizer.to_str()) for encoder in (student, teacher))
        windows = [(encoder.window, encoder.overlap) for encoder in (student, teacher)]
        different = [part for part in _SAME if one.get(part) != other.get(part)]
        if different or windows[0] != windows[1]:
            what = f"tokenizers ({', '.join(different)})" if different else "windows, in subwords, and overlaps"
            raise ConfigError(
                f"hidden is {self.weight:g}, but the encoders of the student and of its teacher {self.source!r} have "
                f"different {what}. Expected the same: rows are compared subword by subword. Set hidden = 0 in "
                "[initialize.before_init], which needs no more than the same spaCy tokens."
            )
        if student.width != teacher.width and getattr(student, _MAP, None) is None:
            student.add_module(_MAP, new_linear(student.width, teacher.width).to(student.device))
        self._cache = FeatureCache(cache_mb) if cache_mb else None

    def read(self, docs: Sequence[Doc]) -> Features:
        """The teacher's features of Docs."""
        return self._encode(docs) if self._cache is None else self._cache.features(docs, self._encode)

    def _encode(self, docs: Sequence[Doc]) -> Features:
        return as_torch(self.teacher.features(docs))

    def gradient(self, docs: Sequence[Doc], features: Features) -> tuple[float, Tensor]:
        """The loss per Doc, and its gradient at the student's hidden rows, which are a leaf, summed over the Docs.

        It is the squared difference of the rows, mean over widths and the rows of a batch. The map gets its gradient.
        """
        import torch

        theirs = self.read(docs)
        (own_rows, n_own), (rows, n) = _rows(features), _rows(theirs)
        if n_own != n:  # texts that the teacher cuts elsewhere
            raise ConfigError(
                f"hidden is {self.weight:g}, but the student and its teacher {self.source!r} cut a batch into {n_own} "
                f"and {n} subwords. Expected the same. Give both the same window, or set hidden = 0."
            )
        target = take(theirs.hidden, rows).to(features.hidden.device)
        leaf = features.hidden.detach().float().requires_grad_()
        chosen = take(leaf, own_rows)
        to_teacher = getattr(self.student(), _MAP, None)
        with torch.enable_grad():
            mapped = chosen if to_teacher is None else to_teacher(chosen)
            loss = self.weight * len(docs) * torch.nn.functional.mse_loss(mapped, target)
            loss.backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return float(loss.detach()) / len(docs), leaf.grad  # sync


def _rows(features: Features) -> tuple[Ints, int]:
    """The rows of all subwords, then of the special ones, in the order of the Docs; and their number."""
    special = features.special_rows
    rows = features.rows if special is None else np.concatenate([features.rows, special])
    return rows, len(rows)


class DistilledEncoder:
    """The part of an encoder component that learns a teacher's hidden rows."""

    name: str
    model: Model[Any, Any]
    _boundary: Boundary | None
    hidden_rows: HiddenRows | None = None

    def student(self) -> Encoder:
        """The encoder as it is, without settling."""
        module: Encoder = shim_of(self.model).module
        return module

    def _match(self, features: Features, losses: dict[str, float]) -> None:
        """Add the gradient of the hidden rows to what the boundary hands to the encoder."""
        if self.hidden_rows is None or self._boundary is None or not shim_of(self.model).tuning.learns:
            return
        value, gradient = self.hidden_rows.gradient(self._boundary.docs, features)
        self._boundary = replace(self._boundary, extra=gradient)
        losses[self.name] += value
