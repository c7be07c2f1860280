"""Distillation: heads that learn what the heads of trained pipelines, their teachers, say of the texts.

The targets are the teachers' distributions over classes, tags or places of an answer, their probabilities of labels, or
their numbers (Hinton et al., 2015, Distilling the knowledge in a neural network).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Model

from spacy_bertft.components.distill_settings import DistillSettings
from spacy_bertft.components.doc_texts import STREAM_CHARACTERS, digest_of, n_characters
from spacy_bertft.components.hidden_rows import HiddenRows
from spacy_bertft.components.rehearsal import FrozenEncoder
from spacy_bertft.components.task import HeadOutput, Scaled, Task
from spacy_bertft.encoder.features import as_torch
from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.losses import CrossEntropy, Loss, MeanSquaredError, Targets
from spacy_bertft.learning.shim import shim_of
from spacy_bertft.text.batches import chunk

if TYPE_CHECKING:
    from torch import Tensor

    from spacy_bertft.components.head_modules import Head

    _OfDoc = tuple[Tensor, ...]  # a Doc's rows of logits, by what they are for: Head.rows

_TEXTS = 128  # that teachers read at a time
_MIB = 2**20
_SHOWN = 5  # labels in a message
_logger = logging.getLogger("spacy")  # whose messages `spacy train` shows


@dataclass(frozen=True, slots=True)
class Teacher:
    """A head of a trained pipeline, with its encoder.

    source           the pipeline, for messages
    factory          of the head, such as "bertft_ner"
    targets_per_doc  as in the head's cfg
    encoder          shared by the heads of a pipeline
    """

    source: str
    factory: str
    module: Head
    labels: tuple[str, ...]
    statistics: Mapping[str, Any]
    targets_per_doc: float
    encoder: FrozenEncoder

    def logits(self, docs: Sequence[Doc]) -> Tensor:
        """Its logits on the CPU, as its head shapes them; -inf for tokens of which its tokenizer makes no subword."""
        import torch

        features = as_torch(self.encoder.features(docs))
        with torch.no_grad():
            logits: Tensor = self.module.to(features.hidden.device).eval()(features).float().cpu()
        if "tokens" in self.module.rows:
            unread = torch.from_numpy(features.token_subword_counts == 0)
            logits[: len(unread)].masked_fill_(unread[:, None], -math.inf)
        return logits

    def order(self, head: str, columns: Sequence[str]) -> list[int]:
        """Which of its columns is each of a student's. Raises a ConfigError if they don't have the same.

        head: the student's, for the message.
        """
        own = self.module.columns(self.labels)
        if set(own) != set(columns):
            alone = [sorted(set(one) - set(other)) for one, other in ((own, columns), (columns, own))]
            raise ConfigError(
                f"The outputs of the head {head!r} are not those of its teacher {self.source!r}. Only the teacher has "
                f"{_listed(alone[0])}; only the student has {_listed(alone[1])}. Expected the same labels, and for "
                f"entities the same scheme. Take the labels out of [initialize.components.{head}], so that they are "
                "the teacher's; and annotations of others out of the training texts."
            )
        places = {name: place for place, name in enumerate(own)}
        return [places[name] for name in columns]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "no others"


class Distillation:
    """What the heads of a pipeline learn from their teachers."""

    def __init__(self, teachers: Mapping[str, Sequence[Teacher]], settings: DistillSettings) -> None:
        """teachers: of each head, by its name; a head learns the mean of what its teachers say."""
        self.teachers, self.settings = teachers, settings
        self.hidden_rows: list[HiddenRows] = []  # of the encoders that learn them
        self._kept: dict[tuple[str, bytes], list[_OfDoc]] | None = None  # by head and Doc; one for each teacher

    def keep(self, docs: Iterable[Doc]) -> None:
        """Let the teachers read the texts of a run, for all heads; later calls do nothing.

        Nothing is added afterwards: in other batches, a text gets slightly other logits, and a run that is resumed
        would not be the same.
        """
        if self._kept is not None:
            return
        self._kept, left = {}, self.settings.cache_mb * _MIB
        for encoder in self.hidden_rows:
            encoder.begin(self.settings.cache_mb)
        distinct = {digest_of(doc): doc for doc in docs}
        for part in chunk(
            distinct.items(), size=_TEXTS, budget=STREAM_CHARACTERS, cost=lambda item: n_characters(item[1])
        ):
            for encoder in self.hidden_rows:
                encoder.read([doc for _, doc in part])
            for head in self.teachers:
                for (key, _), found in zip(part, self._read(head, [doc for _, doc in part]), strict=True):
                    left -= sum(rows.nbytes for of_doc in found for rows in of_doc)
                    if left < 0:
                        _logger.info(
                            "The cache of the teachers' outputs is full (%s MiB): the teachers read later texts in "
                            "every epoch. Set a larger cache_mb in [initialize.before_init] if there is memory.",
                            self.settings.cache_mb,
                        )
                        return
                    self._kept[head, key] = found
        size = (self.settings.cache_mb * _MIB - left) / _MIB
        _logger.info("The teachers have read %s texts; their outputs take %.1f MiB", f"{len(distinct):,}", size)

    def logits(self, head: str, docs: Sequence[Doc]) -> list[Tensor]:
        """The logits of each teacher of a head, on the CPU, in the shape that the head has them."""
        kept, keys = self._kept or {}, list(map(digest_of, docs))
        missing = {key: doc for key, doc in zip(keys, docs, strict=True) if (head, key) not in kept}
        now = dict(zip(missing, self._read(head, list(missing.values())), strict=True)) if missing else {}
        found = [now[key] if key in now else kept[head, key] for key in keys]
        return [_joined([of_doc[place] for of_doc in found]) for place in range(len(self.teachers[head]))]

    def _read(self, head: str, docs: Sequence[Doc]) -> list[list[_OfDoc]]:
        """For each Doc, its logits of each teacher."""
        of_teachers = [_split(one.logits(docs), docs, one.module.rows) for one in self.teachers[head]]
        return [list(of_doc) for of_doc in zip(*of_teachers, strict=True)]


def _split(logits: Tensor, docs: Sequence[Doc], rows: Sequence[str]) -> list[_OfDoc]:
    import torch

    sizes = [len(doc) if kind == "tokens" else 1 for kind in rows for doc in docs]
    parts = torch.split(logits, sizes)
    return list(zip(*(parts[start : start + len(docs)] for start in range(0, len(parts), len(docs))), strict=True))


def _joined(of_docs: Sequence[_OfDoc]) -> Tensor:
    import torch

    return torch.cat([rows for of_kind in zip(*of_docs, strict=True) for rows in of_kind])


class DistilledHead:
    """The part of a head that learns from teachers."""

    name: str
    model: Model[Any, Any]
    task: Task
    loss: Loss
    cfg: dict[str, Any]
    distillation: Distillation | None = None

    @property
    def _teachers(self) -> Sequence[Teacher]:
        return () if self.distillation is None else self.distillation.teachers.get(self.name, ())

    def _columns(self) -> tuple[str, ...]:
        module: Head = shim_of(self.model).module
        return module.columns(self.cfg["labels"])

    def _begin_distillation(self, examples: Sequence[Example]) -> None:
        """Check that the teachers fit, and let them read the training texts. Without teachers, it does nothing."""
        for teacher in self._teachers:
            teacher.order(self.name, self._columns())
        if self.distillation is not None and self._teachers:
            if isinstance(self.task, Scaled):  # the texts may have no numbers that a scale could follow from
                self.cfg["statistics"] = dict(self._teachers[0].statistics)
            self.distillation.keep(eg.predicted for eg in examples)

    def _loss_of(self, output: HeadOutput[Tensor], examples: Sequence[Example]) -> Tensor:
        """The loss on annotations, on the teachers' outputs, or the weighted sum; over all targets. ()."""
        targets = self.task.targets(output, examples)
        if self.distillation is None or not self._teachers:
            own: Tensor = self.loss(output.logits, targets)
            return own
        weight, temperature = self.distillation.settings.weight, self.distillation.settings.temperature
        taught = self._taught(output, targets, [eg.predicted for eg in examples])
        loss = MeanSquaredError() if taught.kind == "number" else CrossEntropy(temperature=temperature)
        lowest = _entropy(taught) * taught.scale * temperature**2
        # Texts without annotation count for the average of the head, but not for the teacher's.
        per_doc = self.cfg["targets_per_doc"] / self._teachers[0].targets_per_doc
        soft: Tensor = (loss(output.logits, taught) - lowest) * per_doc
        if weight == 1:
            return soft
        total: Tensor = weight * soft + (1 - weight) * self.loss(output.logits, targets)
        return total

    def _taught(self, output: HeadOutput[Tensor], targets: Targets, docs: Sequence[Doc]) -> Targets:
        """Targets of the same kind from the mean of the teachers' outputs."""
        import torch

        assert self.distillation is not None
        columns, divisor, found = self._columns(), self.distillation.settings.temperature, []
        for teacher, logits in zip(self._teachers, self.distillation.logits(self.name, docs), strict=True):
            logits = logits[:, teacher.order(self.name, columns)].to(output.logits.device)
            if isinstance(self.task, Scaled):
                logits = self.task.rescaled(logits, teacher.statistics, output.statistics)
            logits = logits if targets.kind == "number" else logits / divisor
            found.append(targets.taught(logits, logits.shape[1]))
        taught = replace(found[0], values=torch.stack([one.values for one in found]).mean(dim=0))
        if self._teachers[0].module.rows != ("tokens",):
            return taught
        # Tokens that the tokenizer of the student or of a teacher makes no subword of.
        unread = torch.from_numpy(output.features.token_subword_counts == 0).to(taught.mask.device)
        mask = ~unread & taught.values.isfinite().all(dim=1)
        return replace(taught, values=taught.values.masked_fill(~mask[:, None], 0.0), mask=mask)


def _entropy(targets: Targets) -> Tensor:
    """The lowest cross-entropy that soft targets can have, summed; 0 for numbers. ()."""
    import torch

    values = targets.values[targets.mask]
    if targets.kind == "number":
        return values.new_zeros(())
    total = -torch.xlogy(values, values).sum()
    return total - torch.xlogy(1 - values, 1 - values).sum() if targets.kind == "independent" else total
