"""`HeadPipe`: the component class of all heads. Its Task defines what it predicts, and how it is trained."""

# No postponed annotations here: spaCy validates [initialize] settings by the annotations of `HeadPipe.initialize`.
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from spacy.language import Language
from spacy.pipeline.trainable_pipe import TrainablePipe
from spacy.tokens import Doc
from spacy.training import Example, validate_examples
from spacy.vocab import Vocab
from thinc.api import Model, Optimizer
from torch import Tensor, nn

from spacy_bertft.components import feature_store, head_files
from spacy_bertft.components.distillation import DistilledHead
from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.components.finite import check_logits, check_loss
from spacy_bertft.components.pairs import need_segments
from spacy_bertft.components.rehearsal import RehearsedHead
from spacy_bertft.components.run import plan_run
from spacy_bertft.components.source import check_tokens
from spacy_bertft.components.task import Head, HeadOutput, Started, Task
from spacy_bertft.components.training_data import all_examples, find_labels
from spacy_bertft.components.upstream import Upstream
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.learning.losses import CrossEntropy, Loss
from spacy_bertft.learning.shim import TorchShim, shim_of, wrap
from spacy_bertft.learning.state import TensorsByName
from spacy_bertft.text.batches import chunk
from spacy_bertft.types import Features

# Tokens per batch of a stream: without a limit, the features held for a head would fill the memory.
_STREAM_TOKENS = 100_000
# Default of learn_rate_factor on a frozen encoder; see docs/training.md for the measurements.
_FROZEN_FACTOR = 50.0


class HeadPipe(RehearsedHead, DistilledHead, TrainablePipe):  # type: ignore[misc]
    """A task head that reads and trains the encoder before it in the pipeline."""

    def __init__(
        self,
        vocab: Vocab,
        task: Task,
        name: str,
        *,
        scorer: Callable[..., dict[str, Any]] | None,
        upstream: str | None = None,
        learn_rate_factor: float | None = None,
        loss: Loss | None = None,
        cfg: dict[str, Any] | None = None,
    ) -> None:
        """cfg: settings that the scorer and `spacy find-threshold` read."""
        self.vocab = vocab
        self.task = task
        self.name = name
        self.scorer = scorer
        self.upstream = upstream
        self.learn_rate_factor = learn_rate_factor
        self.loss = loss or CrossEntropy()
        self.reads = Upstream(self, upstream)
        shim = TorchShim(name=name)
        shim.of_docs = self._read
        self.model: Model[Any, Any] = wrap("bertft-head", shim, layers=self.reads.layers)
        self.cfg: dict[str, Any] = {"labels": [], "width": None, "targets_per_doc": 1.0, "statistics": {}}
        self.cfg.update({"labels_given": False, **(cfg or {})})

    # --- labels

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the outputs."""
        return tuple(self.cfg["labels"])

    @property
    def label_data(self) -> list[str]:
        """The labels for `spacy init labels` to write and for initialize(labels=…)."""
        return list(self.cfg["labels"])

    def add_label(self, label: str) -> int:
        """Add a label; a trained head keeps what it knows. Returns 1 if the label is new, else 0."""
        if not isinstance(label, str) or not label:
            raise DataError(f"The label {label!r} is a {type(label).__name__}; expected a non-empty string.")
        if label in self.cfg["labels"]:
            return 0
        is_built = shim_of(self.model).module is not None
        if is_built:
            self.task.check([*self.labels, label])
        self.cfg["labels"].append(label)
        self.vocab.strings.add(label)
        if is_built:
            module = self._module()
            module.n_trained = None if shim_of(self.model).n_steps else module.n_trained
            module.grow(len(self.labels))
            shim_of(self.model).module = module
        return 1

    # --- its source of features, and its module

    def link(self, encoder: EncoderPipe) -> None:
        """Set the encoder to read. When spaCy links the pipeline, all its encoders call this, in order."""
        self.reads.link(encoder)

    def _module(self) -> Head:
        module = shim_of(self.model).module
        if not isinstance(module, Head):
            raise ConfigError(
                f"The head {self.name!r} has no weights yet. Expected an initialised or loaded one: call "
                "nlp.initialize(), train with `spacy train`, or load a saved pipeline with spacy.load()."
            )
        return module

    def _build(self, pooler: nn.Linear | None = None) -> Head:
        module = self.task.build(self.cfg["width"], len(self.labels), pooler)
        shim_of(self.model).module = module
        return module

    def _read(self, docs: Sequence[Doc]) -> Features:
        """Read the features of Docs, and move the head to their device."""
        self._check_segments(docs)
        return self._checked(docs, self.reads.source.read(docs, self.cfg["width"]))

    def _checked(self, docs: Sequence[Doc], features: Features) -> Features:
        check_tokens(self.name, docs, features)
        module = self._module()
        if next(module.parameters()).device != features.hidden.device:
            shim_of(self.model).module = module.to(features.hidden.device)
        return features

    def _check_segments(self, docs: Sequence[Doc]) -> None:
        if self.task.needs_segments:
            need_segments(docs, self.name)

    # --- predicting

    def predict(self, docs: Iterable[Doc]) -> HeadOutput:
        """Compute the logits of Docs."""
        features = self._read(list(docs))
        logits = self.model.predict(features)
        check_logits(self.name, logits)
        return self._output(logits, features)

    def _output(self, logits: Tensor, features: Features) -> HeadOutput:
        return HeadOutput(logits, features, self.labels, self.cfg["statistics"], self.cfg["labels_given"])

    def set_annotations(self, docs: Iterable[Doc], output: HeadOutput) -> None:
        """Set the annotations decoded from the logits, and release the features."""
        docs = list(docs)
        self.task.annotate(docs, output)
        for doc in docs:
            feature_store.mark_read(doc, id(self))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Annotate a stream of Docs, in batches of at most `batch_size` Docs."""
        for docs in chunk(stream, size=batch_size, budget=_STREAM_TOKENS, cost=len):
            yield from super().pipe(docs, batch_size=batch_size)

    # --- training

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Build a new head for the given labels, or else for the labels of add_label and of the examples."""
        width, pooler = self.reads.start(nlp, needs_segments=self.task.needs_segments)
        examples = all_examples(get_examples)
        plan_run(nlp, self, get_examples)
        self._check_segments([eg.predicted for eg in examples])
        self.cfg["labels_given"] = labels is not None
        labels = find_labels(self.task, self.name, examples, given=labels, known=self.labels)
        self.task.check(labels)
        self.cfg["labels"], self._teacher = [], None
        self.cfg["width"] = shim_of(self.model).module = None
        shim_of(self.model).examples_per_epoch = len(examples)
        for label in labels:
            self.add_label(label)
        statistics = self.task.prepare(examples)
        self.cfg["targets_per_doc"] = statistics.pop("targets_per_doc", 1.0)
        self.cfg["statistics"], self.cfg["width"] = statistics, width
        module = self._build(pooler)
        if isinstance(self.task, Started):
            self.task.start(module, self.labels, statistics)
        self._begin_distillation(examples)

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
        self, docs: Sequence[Doc], loss_of: Callable[[HeadOutput], Tensor], drop: float, losses: dict[str, float]
    ) -> None:
        """Compute the gradients of a loss, a sum over all targets, and add its value per Doc to `losses`."""
        self._check_segments(docs)
        features, send = self.reads.source.learn(docs, self.cfg["width"])
        self._checked(docs, features)
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

    def training_state(self) -> TensorsByName:
        """The state to resume training from after the last update."""
        return shim_of(self.model).training_state()

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Resume training from the result of training_state."""
        if self.reads.encoder is not None:  # a later move would replace the optimizer
            shim_of(self.model).module = self._module().to(self.reads.encoder.encoder.device)
        shim_of(self.model).load_training_state(state)

    # --- disk and bytes

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write cfg and model.safetensors."""
        head_files.write_head(Path(path), *self._at_rest(), head=self.name)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "HeadPipe":
        """Load what to_disk wrote."""
        return self._load(*head_files.read_head(Path(path)))

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """Pack cfg and weights into one bytestring."""
        return head_files.pack_head(*self._at_rest())

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> "HeadPipe":
        """Load the result of to_bytes."""
        return self._load(*head_files.unpack_head(bytes_data))

    def _at_rest(self) -> tuple[dict[str, Any], bytes]:
        shim, save_id = shim_of(self.model), self.reads.save_id
        return {**self.cfg, head_files.SAVE_ID: save_id}, b"" if shim.module is None else shim.to_bytes()

    def _load(self, cfg: dict[str, Any], weights: bytes) -> "HeadPipe":
        self._teacher = None  # it is of other labels
        save_id = self.reads.save_id
        tensors = head_files.checked(cfg, weights, head=self.name, save_id=save_id)
        # Other keys keep the config's values, which may have been edited on purpose.
        self.cfg.update({key: cfg[key] for key in ("labels", "width", "targets_per_doc")})
        self.cfg.update(statistics=cfg.get("statistics", {}), labels_given=cfg.get("labels_given", False))
        for label in self.labels:
            self.vocab.strings.add(label)
        if tensors:
            settings = f"{self.task!r}, {len(self.labels)} labels"
            head_files.load_weights(self._build(), tensors, head=self.name, settings=settings)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # For spawned worker processes: bytes instead of pickled modules.
        settings = {
            "scorer": self.scorer,
            "upstream": self.upstream,
            "learn_rate_factor": self.learn_rate_factor,
            "loss": self.loss,
            "cfg": self.cfg,
        }
        return _rebuild, (self.vocab, self.task, self.name, settings, self.to_bytes(), self.reads.encoder)


def _rebuild(
    vocab: Vocab, task: Task, name: str, settings: dict[str, Any], content: bytes, encoder: EncoderPipe | None
) -> "HeadPipe":
    pipe = HeadPipe(vocab, task, name, **settings).from_bytes(content)
    if encoder is not None:
        encoder.add_listener(pipe, name)
    return pipe
