"""Rehearsal: training that keeps what a pipeline says of texts as it was at nlp.resume_training().

The teacher is the pipeline of that time: a copy of each head, and one copy of the encoder that they share. Its outputs
are the targets (Li & Hoiem, 2016, Learning without forgetting). See docs/decisions/0014 for labels added since.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example, validate_examples
from thinc.api import Model, Optimizer

from spacy_bertft.components.boundary import Boundary, Rehearsal
from spacy_bertft.components.doc_texts import texts_of
from spacy_bertft.components.task import HeadOutput, Task
from spacy_bertft.encoder.features import as_torch
from spacy_bertft.encoder.text_encoder import TextEncoder
from spacy_bertft.learning.losses import CrossEntropy, MeanSquaredError
from spacy_bertft.learning.shim import TorchShim, shim_of
from spacy_bertft.learning.step_settings import StepSettings
from spacy_bertft.types import Features

if TYPE_CHECKING:
    from torch import Tensor

    from spacy_bertft.components.head_modules import Head
    from spacy_bertft.components.upstream import Upstream

_NEVER = -1e4  # logit of a probability of 0


class FrozenEncoder:
    """An encoder as it was at one time. It is the encoder itself, and copied when that begins to learn."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self.copied = False
        self._last: tuple[list[weakref.ref[Doc]], Features] | None = None  # Docs, and their features

    def copy(self) -> None:
        """Copy the weights, unless that was done."""
        if not self.copied:
            self.encoder = _copied(self.encoder)
            self.copied = True

    def features(self, docs: Sequence[Doc]) -> Features:
        """The features of Docs; those of the last Docs are kept for the next head."""
        if self._last is None or [doc() for doc in self._last[0]] != list(docs):
            self._last = None
            self._last = [weakref.ref(doc) for doc in docs], self.encoder.predict(texts_of(docs))
        return self._last[1]


def _copied(encoder: TextEncoder) -> TextEncoder:
    """An encoder with a copy of the weights, or of an adapter beside weights that nobody changes."""
    from spacy_bertft.encoder.encoder import Encoder

    if not encoder.trainable:
        return encoder
    checkpoint = encoder.to_save()  # an adapter's matrices are copies
    if checkpoint.adapter is None:
        # The model that is trained may use the very tensors of a checkpoint that it was built from.
        weights = {name: weight.detach().to("cpu", copy=True) for name, weight in checkpoint.weights.items()}
        checkpoint = replace(checkpoint, weights=weights)
    return Encoder(checkpoint, encoder.settings)


class RehearsedEncoder:
    """The part of an encoder component that rehearses."""

    name: str
    model: Model[Any, Any]
    nlp: Callable[[], Language | None]
    settle: Callable[[], None]
    _boundary: Boundary | None
    _owed: StepSettings | None
    _frozen: Callable[[], FrozenEncoder | None] = staticmethod(lambda: None)

    def frozen(self) -> FrozenEncoder | None:
        """The settled encoder as it is now; None if it has no weights. Until it learns, all callers get the same."""
        self.settle()
        shim = shim_of(self.model)
        if not isinstance(shim.module, TextEncoder):
            return None
        found = self._frozen()
        if found is None or found.copied or found.encoder is not shim.module:
            found = FrozenEncoder(shim.module)
            self._frozen = weakref.ref(found)  # the teachers own it
            shim.before_change = self._copy_frozen
        return found

    def _copy_frozen(self) -> None:
        found = self._frozen()
        if found is not None:
            found.copy()

    def rehearse(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | Literal[False] | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Take the gradients of the heads' rehearsals, and step when the encoder settles.

        Does nothing before nlp.resume_training(), and while the encoder has not been trained since. As in an update,
        `drop` applies to the heads only.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "EncoderPipe.rehearse")
        rehearsal = self.join(self.name, [eg.predicted for eg in examples])
        if rehearsal is not None:
            shim_of(self.model).count(len(examples))
            losses[self.name] += rehearsal.loss
            if sgd:
                _prepare(shim_of(self.model), self.nlp())
                # Heads may follow: the step is due when the encoder settles.
                self._owed = shim_of(self.model).settings_of(sgd)
        return losses

    def join(self, name: str, docs: Sequence[Doc]) -> Rehearsal | None:
        """Let a component take part in the rehearsal of Docs; the first one has them encoded for all.

        Language.rehearse calls the components in a random order. The gradients reach the encoder if it takes part too.
        None: it has not learned since nlp.resume_training().
        """
        frozen, boundary = self._frozen(), self._boundary
        if frozen is None or not frozen.copied or not docs:
            return None
        found = boundary.rehearsal if boundary is not None and boundary.docs == tuple(docs) else None
        if found is None or name in found.joined:
            found = self._open(docs)
        found.joined.add(name)
        return found

    def _open(self, docs: Sequence[Doc]) -> Rehearsal:
        self.settle()
        features, backprop = self.model.begin_update(texts_of(docs))
        rehearsal = Rehearsal()

        def backprop_if_joined(gradient: Tensor) -> None:
            if self.name in rehearsal.joined:
                backprop(gradient)

        self._boundary = Boundary.open(self.name, docs, features, backprop_if_joined, learns=True, rehearsal=rehearsal)
        return rehearsal


@dataclass(frozen=True, slots=True)
class Teacher:
    """A head with its encoder, as they were at nlp.resume_training()."""

    module: Head
    n_outputs: int  # those of labels that had been trained
    frozen: FrozenEncoder
    n_steps: int  # that the head had taken

    def differs(self, model: Model[Any, Any]) -> bool:
        """Whether the head has been trained, or got labels, since. Else its rehearsal would learn rounding errors."""
        module = shim_of(model).module
        grown = module is not None and module.output.out_features != self.n_outputs
        return grown or shim_of(model).n_steps != self.n_steps

    def logits(self, docs: Sequence[Doc], current: Features, encoder: TextEncoder | None) -> Tensor:
        """Its logits, for the labels that it was trained for. current: the features from the encoder as it is now."""
        import torch

        unchanged = not self.frozen.copied and self.frozen.encoder is encoder
        features = current if unchanged else self.frozen.features(docs)
        features = as_torch(features)
        with torch.no_grad():
            logits: Tensor = self.module.to(features.hidden.device).eval()(features)
        return logits[:, : self.n_outputs].to(current.hidden.device)


class RehearsedHead:
    """The part of a head that rehearses."""

    name: str
    model: Model[Any, Any]
    task: Task
    reads: Upstream
    finish_update: Callable[[Optimizer], None]
    _learn: Callable[[Sequence[Doc], Callable[[HeadOutput[Tensor]], Tensor], float, dict[str, float]], None]
    _teacher: Teacher | None = None

    @property
    def _rehearsal_model(self) -> Teacher | None:
        """nlp.resume_training sets it to a copy of the model."""
        return self._teacher

    @_rehearsal_model.setter
    def _rehearsal_model(self, model: Model[Any, Any] | None) -> None:
        self._teacher = None
        module = None if model is None else shim_of(model).module
        frozen = None if self.reads.encoder is None else self.reads.encoder.frozen()
        if module is not None and frozen is not None:
            n_outputs = module.output.out_features
            if module.n_trained is not None and shim_of(self.model).n_steps == 0:
                n_outputs = module.n_trained  # labels were added before nlp.resume_training()
            head: Any = module.requires_grad_(False)
            self._teacher = Teacher(head, n_outputs, frozen, shim_of(self.model).n_steps)

    def rehearse(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | Literal[False] | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Compute gradients that pull the output towards that at nlp.resume_training(), and step if `sgd` is given.

        The targets are the teacher's distributions over classes, tags or places of an answer, its probabilities of
        labels, or its numbers. The examples need no annotation. Labels added since have no target, but tokens (or texts
        with exclusive categories) that are annotated as something else are none of them. The loss is the divergence
        from the teacher, in the unit of an update's. It is cross-entropy or squared error, whatever the head's own loss
        is, because the lowest point of others is not at the target.

        Does nothing before nlp.resume_training(), and for a head after spacy-transformers' component.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        teacher, encoder = self._teacher, self.reads.encoder
        examples = list(examples)
        validate_examples(examples, "HeadPipe.rehearse")
        if teacher is None or encoder is None or not examples:
            return losses
        docs = [eg.predicted for eg in examples]
        rehearsal = encoder.join(self.name, docs)
        if rehearsal is None and not teacher.differs(self.model):
            return losses
        own = {self.name: 0.0}
        self._learn(docs, lambda found: self._divergence(found, examples, teacher), drop, own)
        losses[self.name] += own[self.name]
        if rehearsal is not None and encoder.name in rehearsal.joined:
            losses[encoder.name] = losses.get(encoder.name, 0.0) + own[self.name]
        elif rehearsal is not None:
            rehearsal.loss += own[self.name]
        if sgd:
            _prepare(shim_of(self.model), encoder.nlp())
            self.finish_update(sgd)
        return losses

    def _divergence(self, output: HeadOutput[Tensor], examples: Sequence[Example], teacher: Teacher) -> Tensor:
        """The loss on the teacher's output, less the lowest that it can be. ()."""
        from torch.nn.functional import pad

        logits, encoder = output.logits, self.reads.encoder
        docs = [eg.predicted for eg in examples]
        known = teacher.logits(docs, output.features, encoder and shim_of(encoder.model).module)
        targets = self.task.targets(output, examples).taught(known, logits.shape[1])
        loss = MeanSquaredError() if targets.kind == "number" else CrossEntropy()
        lowest = pad(known, (0, logits.shape[1] - known.shape[1]), value=_NEVER)
        return loss(logits, targets) - loss(lowest, targets)


def _prepare(shim: TorchShim, nlp: Language | None) -> None:
    """Let a shim that has taken no step yet know the pipeline's optimizer, of which Language.rehearse tells a part."""
    optimizer = None if nlp is None else nlp._optimizer
    if shim.n_steps == 0 and isinstance(optimizer, Optimizer):
        shim.settings_of(optimizer)
