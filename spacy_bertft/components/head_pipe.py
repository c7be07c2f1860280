"""`HeadPipe`: the one trainable head. What it predicts, and how it learns it, is its Task's business."""

# No postponed annotations here: spaCy validates [initialize] settings by those of `HeadPipe.initialize`.
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import safetensors.torch
import srsly
import torch
from spacy.language import Language
from spacy.pipeline.trainable_pipe import TrainablePipe
from spacy.tokens import Doc
from spacy.training import Example, validate_examples
from spacy.vocab import Vocab
from thinc.api import Model, Optimizer
from torch import Tensor, nn

from spacy_bertft.components import feature_store
from spacy_bertft.components import transformer_source as bridge
from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.components.pairs import need_segments
from spacy_bertft.encoder.features import gather
from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.learning.shim import TorchShim, shim_of, wrap
from spacy_bertft.text.batches import chunk
from spacy_bertft.types import Features

# Tokens that a head takes at once from a stream, so that features held for it don't pile up.
STREAM_TOKENS = 100_000


class Task(Protocol):
    """What sets one kind of head apart from another."""

    @property
    def needs_segments(self) -> bool:
        """Whether it can't do without Docs of two segments."""

    def labels_in(self, examples: Sequence[Example]) -> Iterable[str]:
        """The labels that the gold annotations use, repeats allowed."""

    def check(self, labels: Sequence[str]) -> None:
        """Raise a ConfigError if the task can't work with these labels."""

    def n_outputs(self, n_labels: int) -> int:
        """How many logits there are for so many labels; labels that come later add theirs at the end."""

    def targets_per_doc(self, examples: Sequence[Example]) -> float:
        """How many targets a Doc has on average: what the summed loss of a Doc is divided by."""

    def build(self, width: int, n_outputs: int, pooler: nn.Linear | None) -> nn.Module:
        """A new module, Features -> logits, whose last layer is a Linear named `output`."""

    def loss(self, logits: Tensor, examples: Sequence[Example], features: Features, labels: Sequence[str]) -> Tensor:
        """The loss summed over all targets; targets without gold annotation are left out. ()."""

    def annotate(self, docs: Sequence[Doc], logits: Tensor, features: Features, labels: Sequence[str]) -> None:
        """Set the annotations that the logits mean."""


class HeadPipe(TrainablePipe):  # type: ignore[misc]
    """A task head that reads and trains the encoder before it in the pipeline."""

    def __init__(
        self,
        vocab: Vocab,
        task: Task,
        name: str,
        *,
        scorer: Callable[..., dict[str, Any]] | None,
        upstream: str | None = None,
        learn_rate_factor: float = 1.0,
        cfg: dict[str, Any] | None = None,
    ) -> None:
        self.vocab = vocab
        self.task = task
        self.name = name
        self.scorer = scorer
        self.upstream = upstream
        self.learn_rate_factor = learn_rate_factor
        self._transformer = bridge.listener(upstream)  # reads spacy-transformers' component where we have none
        layers = [] if self._transformer is None else [self._transformer]
        shim = TorchShim(rate_factor=learn_rate_factor)
        shim.of_docs = self._read
        self.model: Model[Any, Any] = wrap("bertft-head", shim, layers=layers)
        self.cfg: dict[str, Any] = {"labels": [], "width": None, "targets_per_doc": 1.0, **(cfg or {})}
        self._encoder_pipe: EncoderPipe | None = None

    # --- labels

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the outputs."""
        return tuple(self.cfg["labels"])

    @property
    def label_data(self) -> list[str]:
        """What `spacy init labels` writes and initialize(labels=…) takes."""
        return list(self.cfg["labels"])

    def add_label(self, label: str) -> int:
        """Add a label, also to a trained head: its outputs start at random. 1 if it is new, else 0."""
        if not isinstance(label, str) or not label:
            raise DataError(f"The label {label!r} is a {type(label).__name__}; expected a text, not empty.")
        if label in self.cfg["labels"]:
            return 0
        self.cfg["labels"].append(label)
        self.vocab.strings.add(label)
        if shim_of(self.model).module is not None:
            self._grow()
        return 1

    def _grow(self) -> None:
        module = self._module()
        old = module.output
        assert isinstance(old, nn.Linear)
        module.output = new = new_linear(old.in_features, self.task.n_outputs(len(self.labels))).to(old.weight.device)
        with torch.no_grad():
            new.weight[: old.out_features] = old.weight
            new.bias[: old.out_features] = old.bias
        shim_of(self.model).module = module

    # --- the encoder it reads, and its own module

    def link(self, encoder: EncoderPipe) -> None:
        """Note the encoder to read; encoders call this, in their order, when spaCy links the pipeline."""
        earlier = self._encoder_pipe
        # A head that is sourced into a second pipeline still reads the encoder of the first one there.
        if earlier is not None and earlier is not encoder and earlier.nlp() is encoder.nlp():
            earlier.forget(self)
        self._encoder_pipe = encoder
        nlp = encoder.nlp()
        if self._transformer is not None and nlp is not None:
            bridge.unlink(self._transformer, nlp)

    def _linked(self, nlp: Language | None = None) -> EncoderPipe:
        if self._encoder_pipe is None or (nlp is not None and not _before(nlp, self._encoder_pipe, self)):
            wanted = "a bertft_encoder component" if self.upstream is None else f"an encoder named {self.upstream!r}"
            found = f" Found: {', '.join(nlp.component_names) or 'nothing'}." if nlp is not None else ""
            raise ConfigError(
                f"The head {self.name!r} needs {wanted} before it in the pipeline.{found} Expected for example "
                f'pipeline = ["encoder", "{self.name}"] with [components.encoder] factory = "bertft_encoder"; in '
                f'Python, nlp.add_pipe("bertft_encoder", before="{self.name}").'
            )
        return self._encoder_pipe

    def _module(self) -> nn.Module:
        module = shim_of(self.model).module
        if module is None:
            raise ConfigError(
                f"The head {self.name!r} has no weights yet. Expected an initialised or loaded one: call "
                "nlp.initialize(), train with `spacy train`, or load a saved pipeline with spacy.load()."
            )
        return module

    def _build(self, pooler: nn.Linear | None = None) -> nn.Module:
        module = self.task.build(self.cfg["width"], self.task.n_outputs(len(self.labels)), pooler)
        shim_of(self.model).module = module
        return module

    def _read(self, docs: Sequence[Doc]) -> Features:
        """The features of Docs, on whose device the head works from now on."""
        self._check_segments(docs)
        entries = [feature_store.find(doc, self.upstream) for doc in docs]
        if None not in entries:
            features = gather([(entry.features, entry.place) for entry in entries if entry is not None])
        elif self._encoder_pipe is None and self._transformer is not None:
            features = bridge.read(docs, self.cfg["width"])
        else:
            features = self._linked().features(docs)
        return self._checked(docs, features)

    def _read_to_learn(self, docs: Sequence[Doc]) -> tuple[Features, Callable[[], None]]:
        """The features of Docs, and what is to be called when their gradient is there."""
        if self._encoder_pipe is None and self._transformer is not None:
            features, send = bridge.learn(self._transformer, docs, self.cfg["width"])
            return self._checked(docs, features), send
        return self._read(docs), lambda: None

    def _checked(self, docs: Sequence[Doc], features: Features) -> Features:
        self._check_tokens(docs, features)
        module = self._module()
        if next(module.parameters()).device != features.hidden.device:
            shim_of(self.model).module = module.to(features.hidden.device)
        return features

    def _source(self, nlp: Language | None) -> tuple[int, nn.Linear | None]:
        """Width and pretrained pooler of what it reads."""
        transformer = self._transformer
        if self._encoder_pipe is None and transformer is not None and transformer.has_dim("nO"):
            if self.task.needs_segments:
                raise ConfigError(
                    f"The head {self.name!r} reads pairs of texts, which spacy-transformers' component does not know. "
                    "Expected a bertft_encoder component before it. Put one in the place of the transformer."
                )
            return int(transformer.get_dim("nO")), None
        encoder = self._linked(nlp).load_pretrained()
        return encoder.width, encoder.pooler()

    def _check_segments(self, docs: Sequence[Doc]) -> None:
        if self.task.needs_segments:
            need_segments(docs, self.name)

    def _check_tokens(self, docs: Sequence[Doc], features: Features) -> None:
        for doc, n_tokens in zip(docs, features.token_counts.tolist(), strict=True):
            if len(doc) != n_tokens:
                raise ConfigError(
                    f"The head {self.name!r} got a Doc of {len(doc)} tokens that had {n_tokens} when it was encoded: "
                    "a component between the encoder and this head changes the tokens. Move that component before the "
                    "encoder or behind the head."
                )

    # --- predicting

    def predict(self, docs: Iterable[Doc]) -> tuple[Tensor, Features]:
        """Logits of Docs, and the features they came from."""
        features = self._read(list(docs))
        logits: Tensor = self.model.predict(features)
        return logits, features

    def set_annotations(self, docs: Iterable[Doc], scores: tuple[Tensor, Features]) -> None:
        """Set what the logits mean, and let the features go."""
        docs = list(docs)
        self.task.annotate(docs, *scores, self.labels)
        for doc in docs:
            feature_store.mark_read(doc, id(self))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Annotate a stream of Docs, in batches of at most `batch_size` Docs."""
        for docs in chunk(stream, size=batch_size, budget=STREAM_TOKENS, cost=len):
            yield from super().pipe(docs, batch_size=batch_size)

    # --- training

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Make the head anew, for the labels given, else for those of the examples and of add_label."""
        width, pooler = self._source(nlp)
        examples = self._all_examples(get_examples)
        self._check_segments([eg.predicted for eg in examples])
        if labels is None:
            # Sorted, so that the order of the training texts does not matter.
            labels = [*self.labels, *sorted(set(self.task.labels_in(examples)) - set(self.labels))]
        if not labels:
            raise DataError(
                f"The head {self.name!r} found no labels: {len(examples)} training examples, none with an annotation "
                "for it. Expected annotated examples, labels added by add_label(), or a label file in "
                f"[initialize.components.{self.name}.labels]. Check the path and the content of the training data "
                "(`spacy debug data` shows it)."
            )
        self.task.check(labels)
        self.cfg["labels"] = []
        shim_of(self.model).module = None
        for label in labels:
            self.add_label(label)
        self.cfg["targets_per_doc"] = self.task.targets_per_doc(examples)
        self.cfg["width"] = width
        self._build(pooler)

    def _all_examples(self, get_examples: Callable[[], Iterable[Example]]) -> list[Example]:
        try:
            examples = list(get_examples())
        except FileNotFoundError as error:
            raise DataError(
                f"The training data {str(error.filename)!r} is not there ({Path(error.filename).absolute()}). Expected "
                "a .spacy file or a folder of them. Correct --paths.train, or make the file with `bertft convert`."
            ) from error
        validate_examples(examples, "HeadPipe.initialize")
        return examples

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | Literal[False] | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Learn on the gold annotations: gradients for this head, and for the encoder if it trains."""
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "HeadPipe.update")
        if not examples:
            return losses
        features, send = self._read_to_learn([eg.predicted for eg in examples])
        for dropout in (m for m in self._module().modules() if isinstance(m, nn.Dropout)):
            dropout.p = drop
        logits, _ = self.model.begin_update(features)
        loss = self.task.loss(logits, examples, features, self.labels) / self.cfg["targets_per_doc"]
        value = float(loss.detach()) / len(examples)  # sync
        if not math.isfinite(value):
            raise DataError(
                f"The loss of {self.name!r} is {value}: training has diverged. Expected a finite number. Lower the "
                "learn rate in [training.optimizer] (2e-5 to 3e-4 is usual), use warm-up, or set grad_clip = 1.0."
            )
        if loss.requires_grad:
            loss.backward()
        send()
        optimizer = shim_of(self.model).optimizer
        assert optimizer is not None
        optimizer.count(len(examples))
        self._report(value, losses, trains_encoder=features.hidden.requires_grad)
        if sgd:
            self.finish_update(sgd)
        return losses

    def _report(self, value: float, losses: dict[str, float], *, trains_encoder: bool) -> None:
        losses[self.name] += value
        if trains_encoder and self._encoder_pipe is not None and self._encoder_pipe.name in losses:
            losses[self._encoder_pipe.name] += value

    # --- disk and bytes

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write cfg and model.safetensors."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        srsly.write_json(folder / "cfg", self.cfg)
        if shim_of(self.model).module is not None:
            (folder / "model.safetensors").write_bytes(shim_of(self.model).to_bytes())

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "HeadPipe":
        """Load what to_disk wrote."""
        weights = Path(path) / "model.safetensors"
        return self._load(srsly.read_json(Path(path) / "cfg"), weights.read_bytes() if weights.exists() else b"")

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """cfg and weights in one bytestring."""
        weights = b"" if shim_of(self.model).module is None else shim_of(self.model).to_bytes()
        packed: bytes = srsly.msgpack_dumps({"cfg": self.cfg, "model": weights})
        return packed

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> "HeadPipe":
        """Load what to_bytes gave."""
        content = srsly.msgpack_loads(bytes_data)
        return self._load(content["cfg"], content["model"])

    def _load(self, cfg: dict[str, Any], weights: bytes) -> "HeadPipe":
        # Settings of the config win over those saved: the config may have been edited on purpose.
        self.cfg.update({key: cfg[key] for key in ("labels", "width", "targets_per_doc")})
        for label in self.labels:
            self.vocab.strings.add(label)
        if not weights:
            return self
        try:
            self._build().load_state_dict(safetensors.torch.load(weights))
        except RuntimeError as error:
            raise ConfigError(
                f"The saved weights of the head {self.name!r} don't fit its settings ({self.task!r}, "
                f"{len(self.labels)} labels): {str(error).splitlines()[-1].strip()} Expected the settings it was "
                "trained with. Undo the change in config.cfg, or train it anew."
            ) from error
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # For worker processes that are spawned: bytes instead of pickled modules.
        settings = {
            "scorer": self.scorer,
            "upstream": self.upstream,
            "learn_rate_factor": self.learn_rate_factor,
            "cfg": self.cfg,
        }
        return _rebuild, (self.vocab, self.task, self.name, settings, self.to_bytes(), self._encoder_pipe)


def _rebuild(
    vocab: Vocab, task: Task, name: str, settings: dict[str, Any], content: bytes, encoder: EncoderPipe | None
) -> "HeadPipe":
    pipe = HeadPipe(vocab, task, name, **settings).from_bytes(content)
    if encoder is not None:
        encoder.add_listener(pipe, name)
    return pipe


def _before(nlp: Language, encoder: EncoderPipe, head: HeadPipe) -> bool:
    components = [component for _, component in nlp.components]
    return encoder in components and components.index(encoder) < components.index(head)


def not_learned(kind: str, label: str, known: Sequence[str]) -> DataError:
    """The error for a gold label that a head was not made for."""
    return DataError(
        f"A gold {kind} is {label!r}, which the head doesn't know. Expected one of: {', '.join(known)}. Add it with "
        "add_label() before training goes on, or initialise the head with examples that have it."
    )


def new_linear(width: int, n_outputs: int) -> nn.Linear:
    """A linear layer that starts as BERT's do: normal weights of deviation 0.02, biases 0."""
    layer = nn.Linear(width, n_outputs)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
