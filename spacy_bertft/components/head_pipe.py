"""`HeadPipe`: the component class of all heads. Its Task defines what it predicts, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from spacy.tokens import Doc
from spacy.vocab import Vocab
from thinc.api import Model

from spacy_bertft.components import feature_store, head_files
from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.components.finite import check_logits
from spacy_bertft.components.head_inference import HeadWeights, misfit
from spacy_bertft.components.hidden_layer import HiddenLayer
from spacy_bertft.components.learning_head import LearningHead
from spacy_bertft.components.pairs import need_segments
from spacy_bertft.components.source import check_tokens
from spacy_bertft.components.streams import DocwisePipe, annotated, reduced
from spacy_bertft.components.task import HeadOutput, InNumpy, Task
from spacy_bertft.components.upstream import Upstream
from spacy_bertft.encoder.features import as_numpy, as_torch
from spacy_bertft.errors import ConfigError, DataError, need_torch
from spacy_bertft.learning.losses import CrossEntropy, Loss
from spacy_bertft.learning.shim import TorchShim, shim_of, wrap
from spacy_bertft.text.batches import chunk
from spacy_bertft.types import Features, Floats, Rows

if TYPE_CHECKING:
    from torch import nn

    from spacy_bertft.components.head_modules import Head

# Tokens per batch of a stream: without a limit, the features held for a head would fill the memory.
_STREAM_TOKENS = 100_000


class HeadPipe(LearningHead, DocwisePipe):
    """A task head that reads and trains the encoder before it in the pipeline.

    On a CPU it predicts in numpy. Its torch module is built when it is trained or predicts on a GPU.
    """

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
        shim.of_docs = lambda docs: self._placed(self._read(docs))
        self.model: Model[Any, Any] = wrap("bertft-head", shim, layers=self.reads.layers)
        self._loaded: tuple[bytes, HeadWeights] = b"", {}  # while the shim's module is yet to be built
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
        shim = shim_of(self.model)
        module = self._module() if shim.waits or shim.module is not None else None  # built with the labels known so far
        if module is not None:
            self.task.check([*self.labels, label])
        self.cfg["labels"].append(label)
        self.vocab.strings.add(label)
        if module is not None:
            module.n_trained = None if shim.n_steps else module.n_trained
            module.grow(len(self.labels))
            shim.module = module
        return 1

    # --- its source of features, and its module

    def link(self, encoder: EncoderPipe) -> None:
        """Set the encoder to read. When spaCy links the pipeline, all its encoders call this, in order."""
        self.reads.link(encoder)

    def _module(self) -> Head:
        module = shim_of(self.model).module
        if module is None:
            raise self._no_weights()
        head: Head = module
        return head

    def _no_weights(self) -> ConfigError:
        return ConfigError(
            f"The head {self.name!r} has no weights yet. Expected an initialised or loaded one: call "
            "nlp.initialize(), train with `spacy train`, or load a saved pipeline with spacy.load()."
        )

    def _build(self, pooler: nn.Linear | None = None) -> Head:
        module = self.task.build(self.cfg["width"], len(self.labels), pooler)
        shim_of(self.model).module = module
        return module

    def _read(self, docs: Sequence[Doc]) -> Features:
        """Read the features of Docs."""
        self._check_segments(docs)
        features = self.reads.source.read(docs, self.cfg["width"])
        check_tokens(self.name, docs, features)
        return features

    def _placed(self, features: Features) -> Features:
        """The features as tensors, with the module moved to their device."""
        features = as_torch(features)
        self._module()
        shim_of(self.model).move(features.hidden.device)
        return features

    def _check_segments(self, docs: Sequence[Doc]) -> None:
        if self.task.needs_segments:
            need_segments(docs, self.name)

    # --- predicting

    def predict(self, docs: Iterable[Doc]) -> HeadOutput[Floats]:
        """Compute the logits of Docs."""
        features = self._read(list(docs))
        if isinstance(self.task, InNumpy) and _on_cpu(features.hidden):
            logits = self.task.logits(self._weights(), replace(features, hidden=as_numpy(features.hidden)))
        else:
            logits = as_numpy(self.model.predict(self._placed(features)))  # sync
        check_logits(self.name, logits)
        return self._output(logits, features)

    def _weights(self) -> HeadWeights:
        """The current weights as numpy's arrays; those of a module on a CPU share its memory."""
        if shim_of(self.model).waits:
            return self._loaded[1]
        return {name: as_numpy(tensor) for name, tensor in self._module().state_dict().items()}

    def _output(self, logits: Any, features: Features) -> HeadOutput[Any]:
        return HeadOutput(logits, features, self.labels, self.cfg["statistics"], self.cfg["labels_given"])

    def set_annotations(self, docs: Iterable[Doc], output: HeadOutput[Floats]) -> None:
        """Set the annotations decoded from the logits, and release the features."""
        docs = list(docs)
        self.task.annotate(docs, output)
        for doc in docs:
            feature_store.mark_read(doc, id(self))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Annotate a stream of Docs, in batches of at most `batch_size` Docs."""
        for docs in chunk(stream, size=batch_size, budget=_STREAM_TOKENS, cost=len):
            yield from annotated(self, docs)

    # --- disk and bytes

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write cfg and model.safetensors."""
        head_files.write_head(Path(path), *self._at_rest(), head=self.name)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> HeadPipe:
        """Load what to_disk wrote."""
        return self._load(*head_files.read_head(Path(path)))

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """Pack cfg and weights into one bytestring."""
        return head_files.pack_head(*self._at_rest())

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> HeadPipe:
        """Load the result of to_bytes."""
        return self._load(*head_files.unpack_head(bytes_data))

    def _at_rest(self) -> tuple[dict[str, Any], bytes]:
        shim, cfg = shim_of(self.model), {**self.cfg, head_files.SAVE_ID: self.reads.save_id}
        if shim.waits:
            return cfg, self._loaded[0]
        return cfg, b"" if shim.module is None else shim.to_bytes()

    def _load(self, cfg: dict[str, Any], weights: bytes) -> HeadPipe:
        self._teacher = None  # it is of other labels
        save_id = self.reads.save_id
        arrays = head_files.checked(cfg, weights, head=self.name, save_id=save_id)
        # Other keys keep the config's values, which may have been edited on purpose.
        self.cfg.update({key: cfg[key] for key in ("labels", "width", "targets_per_doc")})
        self.cfg.update(statistics=cfg.get("statistics", {}), labels_given=cfg.get("labels_given", False))
        for label in self.labels:
            self.vocab.strings.add(label)
        if arrays:
            self._take(weights, arrays)
        return self

    def _take(self, content: bytes, arrays: HeadWeights) -> None:
        """Check loaded weights, and build the module with them, or leave that for later."""
        task, settings = self.task, f"{self.task!r}, {len(self.labels)} labels"
        if not (isinstance(task, InNumpy) and isinstance(task, HiddenLayer)):
            self._build_with(arrays, settings)
            return
        n_outputs = task.n_outputs(len(self.labels))
        found = misfit(arrays, task, width=self.cfg["width"], n_outputs=n_outputs)
        if found:
            raise head_files.dont_fit(self.name, settings, f"{found}.")
        self._loaded = content, arrays
        shim_of(self.model).build_later(partial(self._build_with, arrays, settings))

    def _build_with(self, arrays: HeadWeights, settings: str) -> nn.Module:
        need_torch(f"Training the head {self.name!r}, or changing its labels,")
        module = self._build()
        head_files.load_weights(module, arrays, head=self.name, settings=settings)
        self._loaded = b"", {}
        return module

    def __reduce__(self) -> tuple[Any, ...]:
        # For spawned worker processes: bytes instead of pickled modules.
        settings = {
            "scorer": self.scorer,
            "upstream": self.upstream,
            "learn_rate_factor": self.learn_rate_factor,
            "loss": self.loss,
            "cfg": self.cfg,
        }
        return reduced(self, _rebuild, self.vocab, self.task, self.name, settings, self.to_bytes(), self.reads.encoder)


def _rebuild(
    vocab: Vocab, task: Task, name: str, settings: dict[str, Any], content: bytes, encoder: EncoderPipe | None
) -> HeadPipe:
    pipe = HeadPipe(vocab, task, name, **settings).from_bytes(content)
    if encoder is not None:
        encoder.add_listener(pipe, name)
    return pipe


def _on_cpu(hidden: Rows) -> bool:
    return isinstance(hidden, np.ndarray) or hidden.device.type == "cpu"
