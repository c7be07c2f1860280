"""An encoder that teaches another on raw text: the student learns its hidden rows, and how its subwords relate.

Jiao et al., 2020, TinyBERT, section 3.1 (hidden rows, layer by layer); Wang et al., 2021, MiniLMv2 (relations of
queries, keys and values in the highest layer). The teacher reads the whole text, the student the corrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, log_softmax, mse_loss

from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.masked_lm import Batch, MaskedModel
from spacy_bertft.engines.attention import spread
from spacy_bertft.engines.family_weights import linear_names
from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.pretraining.config import TeacherSettings
from spacy_bertft.jobs.pretraining.tokenise import tokenizer_hash
from spacy_bertft.learning.optimizer import ModuleOptimizer
from spacy_bertft.learning.step_settings import DEFAULTS
from spacy_bertft.types import Ints, Packed

_MAP = "to_teacher"  # name of the map in the student's module
_RELATED = ("query", "key", "value")
_EMBEDDED, _EMBEDDING_RATE, _EMBEDDING_WARMUP = 8192, 5e-3, 50  # subwords in a step on embeddings; rate and steps


class Teacher:
    """What a masked language model learns from another encoder.

    If their widths differ, a linear map from the student's rows to the teacher's is learned too. It is a part of the
    student's module, trained and resumed with it, but not of what is saved as an encoder.
    """

    def __init__(self, encoder: Encoder, student: MaskedModel, settings: TeacherSettings) -> None:
        """Raises a ConfigError if the two have different subwords, or layers that can't be compared."""
        self.encoder, self.student, self.settings = encoder.requires_grad_(False).eval(), student, settings
        _check_subwords(settings.name, encoder, student.encoder)
        self.layers = teaching_layers(_depth(encoder), _depth(student.encoder), settings.layers)
        if settings.rows and encoder.width != student.encoder.width:
            student.add_module(_MAP, nn.Linear(student.encoder.width, encoder.width).to(student.encoder.device))
        if settings.relations:
            for name, one in (("teacher", encoder), ("student", student.encoder)):
                _check_relations(name, one, settings.relation_heads)

    def teach_embeddings(self, seed: int) -> float:
        """Let the student's embeddings alone learn the teacher's; texts show most subwords too seldom for that.

        Returns the share of the variance that they leave unexplained in the last step; 1 if the settings want none.
        """
        steps, loss = self.settings.embedding_steps, torch.ones(())
        optimizer = ModuleOptimizer(self.student)
        generator = np.random.default_rng([seed, 0])
        both = (self.encoder, self.student.encoder)
        window = min(_EMBEDDED, *filter(None, (one.checkpoint.limit(one.first_position) for one in both)))
        lengths = np.full(_EMBEDDED // window, window)
        places = np.tile(np.arange(window), len(lengths))
        for step in range(steps):
            ids = generator.integers(self.encoder.tokenizer.get_vocab_size(), size=len(places))
            packed = Packed(ids, places, lengths)
            with torch.no_grad():
                (target,) = self.encoder.engine().layer_rows(packed, 0)
            (own,) = self.student.encoder.engine().layer_rows(packed, 0)
            loss = self._unexplained(own, target)
            loss.backward()  # type: ignore[no-untyped-call]
            rate = _EMBEDDING_RATE * min((step + 1) / _EMBEDDING_WARMUP, 1.0) * (1 - step / steps)
            optimizer.step(replace(DEFAULTS, learn_rate=rate, weight_decay=0.0))
        return loss.item()

    def loss(self, batch: Batch, layers: Sequence[Tensor]) -> Tensor:
        """The loss of a batch, summed over its N subwords. ().

        layers: (N, D) each, what the student's lowest layer reads, and the rows after each layer.
        """
        ids = batch.packed.ids.copy()
        ids[batch.rows] = batch.targets
        with torch.no_grad():
            theirs = self.encoder.engine().layer_rows(replace(batch.packed, ids=ids))
        total = layers[-1].new_zeros(())
        if self.settings.rows:
            total = total + self.settings.rows * self._rows(layers, theirs)
        if self.settings.relations:
            total = total + self.settings.relations * self._relations(layers, theirs, batch.packed.lengths)
        return total * len(ids)

    def _rows(self, layers: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        """The share of the teacher's variance that the student's rows leave unexplained. ().

        The mean over the embeddings and the layers: without them, rare subwords learn only through the layers.
        The teacher's rows are divided by their standard deviation: a new encoder's rows have 1, and its norms would
        take hundreds of steps to learn another.
        """
        pairs = zip(layers, (0, *self.layers), strict=True)
        return torch.stack([self._unexplained(own, theirs[number]) for own, number in pairs]).mean()

    def _unexplained(self, own: Tensor, target: Tensor) -> Tensor:
        """The share of the variance of the teacher's rows that the student's leave unexplained. ()."""
        to_teacher = getattr(self.student, _MAP, nn.Identity())
        deviation = target.var(dim=0, correction=0).mean().sqrt().clamp_min(1e-3)
        return mse_loss(to_teacher(own), target / deviation)

    def _relations(self, layers: Sequence[Tensor], theirs: Sequence[Tensor], lengths: Ints) -> Tensor:
        """The divergence of the student's relations from the teacher's, mean over heads and rows. ()."""
        heads = self.settings.relation_heads
        real = np.arange(lengths.max()) < lengths[:, None]  # (W, longest)
        mask = torch.from_numpy(real).to(layers[-1].device)
        places = mask.flatten().nonzero().flatten()
        own = _related_rows(self.student.encoder, layers)
        with torch.no_grad():
            targets = [_relations_of(rows, places, mask, heads) for rows in _related_rows(self.encoder, theirs)]
        found = layers[-1].new_zeros(())
        for rows, target in zip(own, targets, strict=True):
            logs = _relations_of(rows, places, mask, heads)
            # Columns that are padded have probability 0, and a logarithm that is finite in both.
            divergence = (target.exp() * (target - logs)).sum(dim=-1)  # (W, heads, longest)
            found = found + divergence.masked_fill(~mask[:, None], 0.0).sum()
        return found / (len(own) * heads * max(1, len(places)))


def teaching_layers(depth: int, student_depth: int, layers: Sequence[int] | None) -> list[int]:
    """The teacher's layer, from 1, that each of the student's learns; evenly spaced, with the last, if None."""
    found = [math.ceil(number * depth / student_depth) for number in range(1, student_depth + 1)]
    if layers is None:
        return found
    if len(layers) != student_depth or not all(1 <= layer <= depth for layer in layers):
        raise ConfigError(
            f"teacher.layers is {list(layers)}; expected one of the teacher's {depth} layers, from 1, for each of the "
            f"student's {student_depth}, such as {found}. Correct them, or set null, which means these."
        )
    return list(layers)


def _depth(encoder: Encoder) -> int:
    return int(encoder.shape.layers if encoder.shape else encoder.model.config.num_hidden_layers)


def _check_subwords(name: str | None, teacher: Encoder, student: Encoder) -> None:
    if tokenizer_hash(teacher.tokenizer) != tokenizer_hash(student.tokenizer):
        raise ConfigError(
            f"The encoder and its teacher {name!r} have different tokenizers. Expected the same: rows are compared "
            "subword by subword. Set encoder.name to null, and the new encoder gets its teacher's, or choose another "
            "teacher."
        )
    if teacher.window < student.window:
        raise ConfigError(
            f"training.window is {student.window}, but the teacher {name!r} takes at most {teacher.window} subwords. "
            "Expected no longer windows. Lower training.window."
        )


def _check_relations(name: str, encoder: Encoder, heads: int) -> None:
    names = linear_names(encoder.shape)[-1] if encoder.shape else {}
    if not set(_RELATED) <= names.keys() or _depth(encoder) < 2:
        raise ConfigError(
            "teacher.relations needs at least two layers, with a matrix each for query, key and value. The "
            f"{name} has others. Set teacher.relations = 0 and learn the rows alone."
        )
    if encoder.width % heads:
        raise ConfigError(
            f"teacher.relation_heads is {heads}; expected a divisor of the {name}'s width, {encoder.width}. Change it."
        )


def _related_rows(encoder: Encoder, layers: Sequence[Tensor]) -> list[Tensor]:
    """Queries, keys and values of the highest layer. (N, D) each."""
    assert encoder.shape is not None
    weights: Mapping[str, Any] = dict(encoder.model.named_parameters())
    names = linear_names(encoder.shape)[-1]
    return [linear(layers[-2], weights[f"{names[part]}.weight"], weights[f"{names[part]}.bias"]) for part in _RELATED]


def _relations_of(rows: Tensor, places: Tensor, mask: Tensor, heads: int) -> Tensor:
    """How the rows of each window relate, as logarithms of shares. (N, D) -> (W, heads, longest, longest)."""
    by_window = spread(rows, places, mask.numel()).view(*mask.shape, heads, -1).transpose(1, 2)
    scores = by_window @ by_window.transpose(2, 3) * by_window.shape[-1] ** -0.5
    return log_softmax(scores.float().masked_fill(~mask[:, None, None], -1e4), dim=-1)
