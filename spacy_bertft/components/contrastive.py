"""`spacy-bertft.contrastive.v1`: encoder and heads are prepared for few training texts when they are initialised.

First the encoder learns to put texts or tokens of one class close together and those of different classes apart, then
the output layer of each head starts where its loss is lowest (Kumar et al., 2022, Fine-tuning can distort pretrained
features). An ordinary training follows.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spacy.language import Language
from spacy.training import Example
from thinc.api import Model

from spacy_bertft.components.doc_texts import STREAM_CHARACTERS, n_characters
from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.components.task import HeadOutput, Started, Task
from spacy_bertft.components.upstream import Upstream
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.learning.contrastive import shared_classes, supervised_contrastive
from spacy_bertft.learning.losses import Loss, Targets
from spacy_bertft.learning.schedules import warmup_decay
from spacy_bertft.learning.shim import shim_of
from spacy_bertft.learning.step_settings import DEFAULTS, StepSettings
from spacy_bertft.learning.tally import Tally
from spacy_bertft.signatures import with_settings
from spacy_bertft.text.batches import chunk
from spacy_bertft.types import Features

if TYPE_CHECKING:
    from torch import Tensor

_TEXTS = 64  # encoded at a time
_MOST = 2048  # texts that an output layer is fitted on
_NAMED = 5  # labels in a message
_logger = logging.getLogger("spacy")  # whose messages `spacy train` shows


@dataclass(frozen=True)
class ContrastiveSettings:
    """How encoder and heads are prepared for few texts.

    steps: contrastive steps for each head; 0: none, so the encoder starts as it was pretrained.
    texts: texts in a batch, in equal parts of each category or entity label as far as they fit.
    rate: highest learning rate, after a warm-up over a tenth of the steps; it then falls to 0.
    temperature: divisor of the cosines; the lower it is, the more the nearest texts of other classes count.
    strength: how closely the output layers are fitted to the training texts: the inverse of the penalty on their
        weights, as logistic regression's C on vectors of length 1. 0: they start at random.
    """

    steps: int = 30
    texts: int = 16
    rate: float = 5e-5
    temperature: float = 0.1
    strength: float = 1.0

    def __post_init__(self) -> None:
        for name, fits, expected in (
            ("steps", self.steps >= 0, "at least 0; 0 leaves the encoder as it is"),
            ("texts", self.texts >= 2, "at least 2: texts are compared with each other"),
            ("rate", 0 < self.rate < math.inf, "more than 0, such as 5e-5"),
            ("temperature", 0 < self.temperature < math.inf, "more than 0, such as 0.1"),
            ("strength", 0 <= self.strength < math.inf, "at least 0; 0 starts at random"),
        ):
            if not fits:
                raise ConfigError(
                    f"{name} of spacy-bertft.contrastive.v1 is {getattr(self, name):g}; expected {expected}. Correct "
                    "it in [initialize.before_init]."
                )


class ContrastiveHead:
    """The part of a head that learns from few texts."""

    name: str
    model: Model[Any, Any]
    task: Task
    loss: Loss
    cfg: dict[str, Any]
    reads: Upstream
    contrastive: Contrastive | None = None
    _module: Callable[[], Any]
    _read: Callable[..., Features]
    _placed: Callable[[Features], Features]
    _output: Callable[[Any, Features], HeadOutput[Any]]

    def _begin_contrastive(self, examples: Sequence[Example]) -> None:
        """Prepare for few texts, together with the pipeline's other heads. Without the callback, it does nothing."""
        if self.contrastive is not None:
            self.contrastive.join(self, examples)

    def contrast(self, examples: Sequence[Example], step: StepSettings, *, temperature: float) -> float:
        """Take a step of the encoder, and of the head's hidden layer if it has one. Returns the loss before it."""
        encoder, docs = self.reads.encoder, [eg.predicted for eg in examples]
        assert encoder is not None
        encoder.update(examples)
        features, _ = self.reads.source.learn(docs, self.cfg["width"])
        vectors, targets = self._rows(self._placed(features), examples)
        in_common = shared_classes(targets, self._module().output.out_features)
        loss = supervised_contrastive(vectors, in_common, temperature=temperature)
        (loss * len(docs)).backward()  # type: ignore[no-untyped-call]
        encoder.settle()
        shim_of(self.model).count(len(docs))
        for model in self.models():
            shim_of(model).step(step)
        return float(loss.detach())  # sync

    def models(self) -> tuple[Model[Any, Any], Model[Any, Any]]:
        """The encoder's and its own."""
        assert self.reads.encoder is not None
        return self.reads.encoder.model, self.model

    def _rows(self, features: Features, examples: Sequence[Example]) -> tuple[Tensor, Targets]:
        """What the output layer reads, (R, D), of the R texts or tokens that are annotated, and their targets."""
        vectors = self._module().vectors(features)
        targets = self.task.targets(self._output(vectors, features), examples)
        annotated = targets.mask if targets.mask.ndim == 1 else targets.mask.any(dim=1)
        kept = replace(targets, values=targets.values[annotated], mask=targets.mask[annotated])
        return vectors[annotated], kept

    def fit_output(self, examples: Sequence[Example], *, strength: float) -> None:
        """Set the output layer to where its loss on the encoder's vectors, with a penalty on its weights, is lowest."""
        import torch

        module, found = self._module(), []
        examples = examples if len(examples) <= _MOST else random.sample(examples, _MOST)
        with torch.no_grad():
            for part in chunk(
                examples, size=_TEXTS, budget=STREAM_CHARACTERS, cost=lambda eg: n_characters(eg.predicted)
            ):
                module.eval()
                found.append(self._rows(self._placed(self._read([eg.predicted for eg in part])), part))
        rows = torch.cat([vectors for vectors, _ in found])
        penalty = rows.square().sum(dim=1).mean() / (2 * strength)
        output = module.output
        search = torch.optim.LBFGS(output.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            search.zero_grad()
            of_parts = [self.loss(output(vectors), targets) / targets.scale for vectors, targets in found]
            total: Tensor = sum(of_parts) + penalty * output.weight.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        with torch.enable_grad():
            search.step(loss)  # type: ignore[no-untyped-call]
        search.zero_grad()


class Contrastive:
    """The preparation of a pipeline's heads: it begins when the last of them is initialised."""

    def __init__(self, settings: ContrastiveSettings, heads: Sequence[ContrastiveHead], tuned: Sequence[Any]) -> None:
        """tuned: the encoder components that may learn; others are sourced or frozen, and keep their weights."""
        self.settings, self.tuned = settings, tuned
        self._waiting = {head.name for head in heads}
        self._heads: list[tuple[ContrastiveHead, Sequence[Example]]] = []

    def join(self, head: ContrastiveHead, examples: Sequence[Example]) -> None:
        """Take an initialised head with its training texts."""
        head.contrastive = None
        self._waiting.discard(head.name)
        self._heads.append((head, examples))
        if not self._waiting:
            self._run()

    def _run(self) -> None:
        learning = [(head, examples) for head, examples in self._heads if head.reads.encoder in self.tuned]
        if self.settings.steps and learning:
            self._tune(learning)
        if self.settings.strength:
            for head, examples in self._heads:
                head.fit_output(examples, strength=self.settings.strength)

    def _tune(self, heads: Sequence[tuple[ContrastiveHead, Sequence[Example]]]) -> None:
        """Take the steps, the heads by turns; each component then gets a new optimizer, for the training."""
        chosen = self.settings
        batches = [_batches(head, examples, chosen.texts) for head, examples in heads]
        n_steps = chosen.steps * len(heads)
        rates = iter(warmup_decay(chosen.rate, max_steps=n_steps + 1))
        next(rates)  # that before the first step
        losses = []
        for step, rate in zip(range(n_steps), rates, strict=False):
            head, batch = heads[step % len(heads)][0], next(batches[step % len(heads)])
            losses.append(head.contrast(batch, replace(DEFAULTS, learn_rate=rate), temperature=chosen.temperature))
        for model in {model for head, _ in heads for model in head.models()}:
            shim = shim_of(model)
            shim.module, shim.tally = shim.module, Tally()
        _logger.info(
            "%s contrastive steps: the loss of the first is %.3f, of the last %.3f", n_steps, losses[0], losses[-1]
        )


def _batches(head: ContrastiveHead, examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """Batches in which the labels have the same number of texts; those that don't fit come another time."""
    of_labels = _by_label(head, examples)
    n_each = max(2, size // len(of_labels))
    while True:
        batch: dict[int, Example] = {}
        for some in random.sample(of_labels, len(of_labels)):
            batch.update((id(eg), eg) for eg in random.sample(some, min(n_each, len(some))))
            if len(batch) >= size:
                break
        yield list(batch.values())


def _by_label(head: ContrastiveHead, examples: Sequence[Example]) -> list[list[Example]]:
    """The texts of each category or entity label; labels of a single text are left out, with a warning."""
    found: dict[str, list[Example]] = {label: [] for label in head.cfg["labels"]}
    for eg in examples:
        names = {label for label, value in eg.reference.cats.items() if value > 0.5}
        for name in names | {ent.label_ for ent in eg.reference.ents}:
            if name in found:
                found[name].append(eg)
    alone = [label for label, texts in found.items() if len(texts) < 2]
    if alone:
        _logger.warning(
            "The head %r has fewer than two training texts of %s. The contrastive steps leave them out: a text is "
            "compared with others of its label. Add texts.",
            head.name,
            ", ".join(alone[:_NAMED]) + (f" and {len(alone) - _NAMED} more" if len(alone) > _NAMED else ""),
        )
    if len(alone) == len(found):
        raise DataError(
            f"The head {head.name!r} has {len(examples)} training texts, but no label with two of them. Expected at "
            "least two texts of a label, to compare them. Add texts, or take spacy-bertft.contrastive.v1 out of "
            "[initialize.before_init]."
        )
    return [texts for texts in found.values() if len(texts) >= 2]


@with_settings(ContrastiveSettings)
def create_contrastive(**settings: Any) -> Callable[[Language], Language]:
    """For [initialize.before_init]: prepare encoder and heads for few texts at the end of their initialisation.

    settings: the fields of `ContrastiveSettings`.
    """
    chosen = ContrastiveSettings(**settings)

    def prepare(nlp: Language) -> Language:
        pipes: list[Any] = [pipe for _, pipe in nlp.pipeline]
        every = [pipe for pipe in pipes if isinstance(pipe, ContrastiveHead)]
        heads = [head for head in every if isinstance(head.task, Started)]  # not those of answers and numbers
        if not heads:
            raise ConfigError(
                "spacy-bertft.contrastive.v1 found no head to prepare. The components that are "
                f"initialised are {', '.join(nlp.pipe_names) or 'none'}. Expected bertft_textcat, "
                "bertft_textcat_multilabel, bertft_pair or bertft_ner. Add one, or set before_init = null in "
                "[initialize]."
            )
        shared = Contrastive(chosen, heads, [pipe for pipe in pipes if isinstance(pipe, EncoderPipe)])
        for head in heads:
            head.contrastive = shared
        return nlp

    return prepare
