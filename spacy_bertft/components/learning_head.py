"""The part of a head that is trained."""

# No postponed annotations here: spaCy validates [initialize] settings by the annotations of `initialize`.
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example, validate_examples
from thinc.api import Optimizer

from spacy_bertft.components.contrastive import ContrastiveHead
from spacy_bertft.components.distillation import DistilledHead
from spacy_bertft.components.finite import check_loss
from spacy_bertft.components.rehearsal import RehearsedHead
from spacy_bertft.components.run import plan_run
from spacy_bertft.components.source import check_tokens
from spacy_bertft.components.task import HeadOutput, Started
from spacy_bertft.components.training_data import all_examples, find_labels
from spacy_bertft.errors import need_torch
from spacy_bertft.learning.losses import Loss
from spacy_bertft.learning.shim import shim_of
from spacy_bertft.types import Features

if TYPE_CHECKING:
    from torch import Tensor

    from spacy_bertft.learning.state import TensorsByName

# Default of learn_rate_factor on a frozen encoder; see docs/training.md for the measurements.
_FROZEN_FACTOR = 50.0


class LearningHead(RehearsedHead, DistilledHead, ContrastiveHead):
    """Initialisation, updates and the state of training of a HeadPipe."""

    cfg: dict[str, Any]
    loss: Loss
    learn_rate_factor: float | None
    add_label: Callable[[str], int]
    _module: Callable[[], Any]
    _build: Callable[..., Any]
    _placed: Callable[[Features], Features]
    _output: Callable[[Any, Features], HeadOutput[Any]]
    _check_segments: Callable[[Sequence[Doc]], None]

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Build a new head for the given labels, or else for the labels of add_label and of the examples."""
        need_torch(f"Training the head {self.name!r}")
        width, pooler = self.reads.start(nlp, needs_segments=self.task.needs_segments)
        examples = all_examples(get_examples)
        plan_run(nlp, self, get_examples)
        self._check_segments([eg.predicted for eg in examples])
        self.cfg["labels_given"] = labels is not None
        labels = find_labels(self.task, self.name, examples, given=labels, known=tuple(self.cfg["labels"]))
        self.task.check(labels)
        self.cfg["labels"], self._teacher = [], None
        self.cfg["width"] = shim_of(self.model).module = None
        shim_of(self.model).examples_per_epoch = len(examples)
        for label in labels:
            self.add_label(label)
        statistics = self.task.prepare(examples)
        self.cfg["targets_per_doc"] = statistics.pop("targets_per_doc", 1.0)
        self.cfg["statistics"] = statistics
        self.cfg["width"] = width
        module = self._build(pooler)
        if isinstance(self.task, Started):
            self.task.start(module, tuple(self.cfg["labels"]), statistics)
        self._begin_distillation(examples)
        self._begin_contrastive(examples)

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | Literal[False] | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Compute gradients on the gold annotations, for this head and for the encoder if it is trained."""
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "HeadPipe.update")
        if examples:
            self._learn([eg.predicted for eg in examples], lambda found: self._loss_of(found, examples), drop, losses)
            if sgd:
                self.finish_update(sgd)
        return losses

    def _learn(
        self,
        docs: Sequence[Doc],
        loss_of: "Callable[[HeadOutput[Tensor]], Tensor]",
        drop: float,
        losses: dict[str, float],
    ) -> None:
        """Compute the gradients of a loss, a sum over all targets, and add its value per Doc to `losses`."""
        self._check_segments(docs)
        need_torch(f"Training the head {self.name!r}")
        from torch import nn

        features, send = self.reads.source.learn(docs, self.cfg["width"])
        check_tokens(self.name, docs, features)
        features = self._placed(features)
        for dropout in (m for m in self._module().modules() if isinstance(m, nn.Dropout)):
            dropout.p = drop
        shim_of(self.model).set_rate_factor(self._rate_factor(features))
        logits, _ = self.model.begin_update(features)
        loss = loss_of(self._output(logits, features)) / self.cfg["targets_per_doc"]
        value = float(loss.detach()) / len(docs)  # sync
        check_loss(self.name, value)
        if loss.requires_grad:
            loss.backward()
        send()
        shim_of(self.model).count(len(docs), subwords=features.n_subwords, loss=value * len(docs))
        losses[self.name] += value
        encoder = self.reads.encoder
        if features.hidden.requires_grad and encoder is not None and encoder.name in losses:
            losses[encoder.name] += value

    def _rate_factor(self, features: Features) -> float:
        usual = 1.0 if features.hidden.requires_grad else _FROZEN_FACTOR
        return usual if self.learn_rate_factor is None else self.learn_rate_factor

    def training_state(self) -> "TensorsByName":
        """The state to resume training from after the last update."""
        return shim_of(self.model).training_state()

    def load_training_state(self, state: "Mapping[str, Tensor]") -> None:
        """Resume training from the result of training_state."""
        if self.reads.encoder is not None:  # a later move would replace the optimizer
            shim_of(self.model).module = self._module().to(self.reads.encoder.encoder.device)
        shim_of(self.model).load_training_state(state)
