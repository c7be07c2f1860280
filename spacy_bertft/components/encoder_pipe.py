"""`bertft_encoder`: features for Docs, and the boundary between the encoder and the heads that learn with it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable
from weakref import ref

import numpy as np
from spacy.attrs import IDX, LENGTH, ORTH, SPACY
from spacy.language import Language
from spacy.pipeline.entity_linker import EntityLinker
from spacy.pipeline.trainable_pipe import TrainablePipe
from spacy.tokens import Doc, Span, Token
from spacy.training import Example, validate_examples
from spacy.util import registry
from spacy.vocab import Vocab
from thinc.api import Model, Optimizer
from torch import Tensor

from spacy_bertft import compat, files
from spacy_bertft.components import feature_store
from spacy_bertft.components.pairs import segment_bounds
from spacy_bertft.components.workers import ThreadGuard
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.features import gather
from spacy_bertft.encoder.loading import load, load_saved
from spacy_bertft.encoder.pooling import token_vectors
from spacy_bertft.encoder.settings import Backend, Batching, Device, EncoderSettings, LongPairs
from spacy_bertft.engines.base import Precision
from spacy_bertft.errors import ConfigError
from spacy_bertft.learning.optimizer import StepSettings
from spacy_bertft.learning.shim import TorchShim, read_settings, shim_of, wrap
from spacy_bertft.text.batches import chunk
from spacy_bertft.text.subwords import Texts
from spacy_bertft.types import Features

ENCODER_FOLDER = "encoder"
# Characters that the encoder takes at once from a stream, so that the features of long texts don't pile up.
STREAM_CHARACTERS = 400_000
# Docs of a stream after which free memory goes back to the system: batches of ever other sizes leave holes behind, in
# which a stream of many thousand texts would grow by the size of the encoder's arrays again and again.
TRIM_EVERY = 4096


@runtime_checkable
class Reader(Protocol):
    """What reads an encoder's features: a head, or a layer in the model of another component."""

    upstream: str | None  # the encoder's name; None: the nearest before it

    def link(self, encoder: EncoderPipe) -> None:
        """Note the encoder to read."""


@dataclass(frozen=True, slots=True)
class _Boundary:
    """The features that heads learn on now: their gradients gather in `leaf.grad`."""

    leaf: Tensor  # (N, D) float32, what the heads see
    backprop: Callable[[Tensor], None]  # takes the leaf's gradient into the encoder
    docs: tuple[Doc, ...]

    def originals(self, docs: Sequence[Doc]) -> list[Doc]:
        """For copies of these Docs the originals, for others themselves. Some components learn on copies."""
        known = {_content(doc): doc for doc in self.docs}
        return [known.get(_content(doc), doc) for doc in docs]


class EncoderPipe(TrainablePipe):  # type: ignore[misc]
    """A fine-tunable encoder whose features the heads of the pipeline read.

    In training the features end in a leaf tensor. The heads' backward passes add up in its gradient; the encoder goes
    on from there (it settles) when it is next touched: at an update, a prediction, finish_update or saving. So the
    order of heads does not matter, and a step that spaCy asks for before the heads have spoken is taken when they have.
    """

    def __init__(
        self,
        vocab: Vocab,
        model: Model[Any, Any],
        name: str = "encoder",
        *,
        keep_features: bool = False,
        set_tensor: bool = False,
        learn_rate_factor: float = 1.0,
    ) -> None:
        self.vocab = vocab
        self.model = model
        shim_of(model).rate_factor = learn_rate_factor
        self.name = name
        self.cfg: dict[str, Any] = {}
        self.keep_features = keep_features
        self.set_tensor = set_tensor
        self.listener_map: dict[str, list[Reader]] = {}
        self.nlp: Callable[[], Language | None] = lambda: None
        self._boundary: _Boundary | None = None
        self._owed: StepSettings | None = None
        self._guard_threads = ThreadGuard()
        self._since_trim = 0

    # --- the encoder inside

    @property
    def encoder(self) -> Encoder:
        """The encoder, settled. An error if it has no weights yet."""
        self.settle()
        return self._encoder()

    def _encoder(self) -> Encoder:
        module = shim_of(self.model).module
        if not isinstance(module, Encoder):
            raise ConfigError(
                f"The encoder component {self.name!r} has no weights yet. Expected an initialised or loaded one: call "
                "nlp.initialize(), train with `spacy train`, or load a saved pipeline with spacy.load()."
            )
        return module

    def load_pretrained(self) -> Encoder:
        """The encoder. One in frozen_components, which spaCy does not initialise, loads its pretrained weights now."""
        if shim_of(self.model).module is None:
            self.initialize(lambda: [])
        return self.encoder

    def set_encoder(self, encoder: Encoder) -> None:
        """Take another encoder, with weights."""
        self._boundary = self._owed = None
        shim_of(self.model).module = encoder
        for reader in self.listeners:
            reader.link(self)

    def initialize(self, get_examples: Callable[[], Iterable[Example]], *, nlp: Language | None = None) -> None:
        """Load the pretrained weights that the config names."""
        self.set_encoder(load_named(self.model))

    # --- features for Docs

    def predict(self, docs: Iterable[Doc]) -> Features:
        """Encode B Docs, without gradients."""
        docs = list(docs)
        if not self._awaited(docs):
            self.settle()
        return self._encode(docs)

    def _encode(self, docs: Sequence[Doc]) -> Features:
        self._guard_threads()
        self._encoder()
        features: Features = self.model.predict(texts_of(docs))
        return features

    def set_annotations(self, docs: Iterable[Doc], features: Features) -> None:
        """Publish the features of Docs to the heads; set doc.tensor where asked to."""
        docs = list(docs)
        if not self._awaited(docs):
            readers = map(id, self._active_readers())
            feature_store.publish(self.name, docs, features, readers=readers, keep=self.keep_features)
        if self.set_tensor:
            _set_tensors(docs, features)

    def _awaited(self, docs: Sequence[Doc]) -> bool:
        """Whether heads have still to learn on the leaf of these very Docs.

        So it is when an encoder in annotating_components predicts between its update and the heads'.
        """
        boundary = self._boundary
        return boundary is not None and boundary.leaf.grad is None and set(docs) <= set(boundary.docs)

    def _active_readers(self) -> list[Reader]:
        """The linked readers, without those that are disabled in the pipeline or read copies of the Docs."""
        nlp = self.nlp()
        if nlp is None:
            return self.listeners
        # An entity linker makes a Doc of each sentence.
        left_out = {*nlp.disabled, *(name for name, part in nlp.components if isinstance(part, EntityLinker))}
        return [reader for name, readers in self.listener_map.items() if name not in left_out for reader in readers]

    def features(self, docs: Sequence[Doc]) -> Features:
        """The features of Docs: those published, else (an encoder that is disabled or frozen) encoded now."""
        missing = [doc for doc in docs if feature_store.find(doc, self.name) is None]
        if missing and self._boundary is not None:
            originals = dict(zip(missing, self._boundary.originals(missing), strict=True))
            docs = [originals.get(doc, doc) for doc in docs]
            missing = [doc for doc in docs if feature_store.find(doc, self.name) is None]
        now: dict[Doc, tuple[Features, int]] = {}
        if missing:
            # Without settling: there may be heads that have still to learn on the boundary.
            encoded = self._encode(missing)
            self.set_annotations(missing, encoded)
            now = {doc: (encoded, place) for place, doc in enumerate(missing)}
        found = ((doc, feature_store.find(doc, self.name)) for doc in docs)
        return gather([(entry.features, entry.place) if entry else now[doc] for doc, entry in found])

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Encode a stream of Docs, in batches of at most `batch_size` Docs."""
        for docs in chunk(stream, size=batch_size, budget=STREAM_CHARACTERS, cost=_n_characters):
            yield from super().pipe(docs, batch_size=batch_size)
            self._since_trim += len(docs)
            if self._since_trim >= TRIM_EVERY:
                compat.give_back_memory()
                self._since_trim = 0

    # --- training

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | Literal[False] | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Encode the predicted Docs so that heads can learn on them; the heads add their losses to this one's.

        `drop` is for the heads: the encoder's own dropout is that of its Hugging Face config.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "EncoderPipe.update")
        self.settle()
        self._encoder().model  # noqa: B018  # an error for an encoder that can't be trained
        docs = tuple(eg.predicted for eg in examples)
        features, backprop = self.model.begin_update(texts_of(docs))
        leaf = features.hidden.detach().float().requires_grad_()
        self._boundary = _Boundary(leaf, backprop, docs)
        feature_store.publish(self.name, docs, replace(features, hidden=leaf), readers=(), keep=True)
        optimizer = shim_of(self.model).optimizer
        assert optimizer is not None
        optimizer.count(len(docs))
        if sgd:
            self.finish_update(sgd)
        return losses

    def settle(self) -> None:
        """Take the heads' gradient through the encoder, then the step that is owed, if one is."""
        boundary, self._boundary = self._boundary, None
        if boundary is not None:
            feature_store.withdraw(boundary.docs, boundary.leaf)
            if boundary.leaf.grad is not None:
                boundary.backprop(boundary.leaf.grad)
        owed, self._owed = self._owed, None
        optimizer = shim_of(self.model).optimizer
        if owed is not None and optimizer is not None:
            optimizer.step(owed)

    def finish_update(self, sgd: Optimizer) -> None:
        """Step now if the heads have spoken, else when they have."""
        self._owed = read_settings(sgd)
        if self._boundary is None or self._boundary.leaf.grad is not None:
            self.settle()

    # --- what reads this encoder (spaCy's ListenedToComponent)

    @property
    def listeners(self) -> list[Reader]:
        """The heads, and the layers of other components, that read this encoder."""
        return [reader for of_name in self.listener_map.values() for reader in of_name]

    @property
    def listening_components(self) -> list[str]:
        """The names of their components."""
        return list(self.listener_map)

    def add_listener(self, listener: Reader, component_name: str) -> None:
        """Register a reader, which belongs to a component."""
        self.listener_map.setdefault(component_name, []).append(listener)
        listener.link(self)

    def remove_listener(self, listener: Reader, component_name: str) -> bool:
        """Forget a reader. True if it was there."""
        readers = self.listener_map.get(component_name, [])
        kept = [reader for reader in readers if reader is not listener]
        if kept:
            self.listener_map[component_name] = kept
        else:
            self.listener_map.pop(component_name, None)
        return len(kept) < len(readers)

    def forget(self, listener: Reader) -> None:
        """Forget a reader, whatever its component."""
        for name in list(self.listener_map):
            self.remove_listener(listener, name)

    def find_listeners(self, component: Any) -> None:
        """Register what in a component wants to read this encoder; spaCy asks for each later component."""
        model = getattr(component, "model", None)
        parts = [component, *(model.walk() if isinstance(model, Model) else ())]
        for part in parts:
            if isinstance(part, Reader) and part.upstream in (None, self.name):
                self.add_listener(part, component.name)

    # --- disk and bytes: an ordinary Hugging Face folder

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write the encoder as a Hugging Face folder, path/encoder."""
        self.settle()
        Path(path).mkdir(parents=True, exist_ok=True)
        module = shim_of(self.model).module
        if isinstance(module, Encoder):
            module.save(Path(path) / ENCODER_FOLDER)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> EncoderPipe:
        """Load the encoder from path/encoder; nothing is looked up anywhere else."""
        folder = Path(path) / ENCODER_FOLDER
        if folder.is_dir():
            self.set_encoder(load_saved(folder, self.model.attrs["settings"]))
        return self

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """The files that to_disk writes, in one bytestring."""
        return files.to_bytes(self.to_disk)

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> EncoderPipe:
        """Load what to_bytes gave."""
        return files.from_bytes(bytes_data, self.from_disk)

    def __reduce__(self) -> tuple[Any, ...]:
        # For worker processes that are spawned: files instead of pickled modules. The heads link themselves again.
        settings = {
            "keep_features": self.keep_features,
            "set_tensor": self.set_tensor,
            "learn_rate_factor": shim_of(self.model).rate_factor,
        }
        attrs = {key: self.model.attrs[key] for key in ("name", "revision", "settings")}
        return _rebuild, (self.vocab, self.name, settings, attrs, self.to_bytes(), self._guard_threads)


def _rebuild(
    vocab: Vocab, name: str, settings: dict[str, Any], attrs: dict[str, Any], content: bytes, guard: ThreadGuard
) -> EncoderPipe:
    pipe = EncoderPipe(vocab, _model(attrs), name, **settings).from_bytes(content)
    pipe._guard_threads = guard
    return pipe


def texts_of(docs: Sequence[Doc]) -> Texts:
    """Texts, token offsets and segments of Docs."""
    bounds = [doc.to_array([IDX, LENGTH]).astype(np.int64).reshape(-1, 2) for doc in docs]
    tokens = np.concatenate([np.zeros((0, 2), dtype=np.int64), *bounds])  # (T, 2)
    return Texts(
        texts=[doc.text for doc in docs],
        token_starts=tokens[:, 0],
        token_ends=tokens.sum(axis=1),
        token_counts=np.array([len(doc) for doc in docs], dtype=np.int64),
        segments=segment_bounds(docs),
    )


def _content(doc: Doc) -> bytes:
    content: bytes = doc.to_array([ORTH, SPACY]).tobytes()
    return content


def _n_characters(doc: Doc) -> int:
    """The length of a Doc's text, but for white space at its end; `doc.text` would put it together first."""
    return doc[-1].idx + len(doc[-1]) if len(doc) else 0


def _set_tensors(docs: Sequence[Doc], features: Features) -> None:
    """doc.tensor (T, D): the mean of each token's subwords. doc.vector and similarities follow from it."""
    vectors = token_vectors(features, "mean").cpu().numpy()
    for doc, tensor in zip(docs, np.split(vectors, np.cumsum(features.token_counts)[:-1]), strict=True):
        doc.tensor = tensor
        # spaCy's own similarity is the same cosine, but warns that there are no static vectors.
        doc.user_hooks["similarity"] = doc.user_span_hooks["similarity"] = _cosine
        doc.user_token_hooks["similarity"] = _cosine


def _cosine(one: Doc | Span | Token, other: Doc | Span | Token) -> float:
    left, right = np.asarray(one.vector), np.asarray(other.vector)
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norms if norms else 0.0


def _hidden(features: Features) -> Tensor:
    return features.hidden


class EncoderShim(TorchShim):
    """Keeps its encoder as the files of a Hugging Face folder, where a model with an encoder inside is saved."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__(backward_from=_hidden)
        self.of_docs = texts_of
        self.settings = settings

    def copy(self) -> EncoderShim:
        """A copy with weights of its own and a fresh optimizer."""
        twin = EncoderShim(self.settings)
        twin.module = copy.deepcopy(self.module)
        return twin

    def to_bytes(self) -> bytes:
        """The files, or nothing if there is no encoder yet."""
        return files.to_bytes(self.module.save) if isinstance(self.module, Encoder) else b""

    def from_bytes(self, data: bytes) -> EncoderShim:
        """Load what to_bytes gave."""
        if data:
            self.module = files.from_bytes(data, lambda folder: load_saved(folder, self.settings))
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_shim, (self.settings, self.to_bytes())


def _rebuild_shim(settings: EncoderSettings, content: bytes) -> EncoderShim:
    return EncoderShim(settings).from_bytes(content)


def _model(attrs: dict[str, Any]) -> Model[Any, Any]:
    replacing = {"replace_listener": _replace_listener, "replace_listener_cfg": _replace_listener_cfg}
    return wrap("bertft-encoder", EncoderShim(attrs["settings"]), {**attrs, **replacing})


# What nlp.replace_listeners puts in the place of a listener: a copy of the encoder, for its component alone.


def _replace_listener(encoder: Model[Any, Any], listener: Any, pipe: EncoderPipe) -> Model[Any, Any]:
    replacement: Model[Any, Any] = listener.replaced_by(encoder)
    return replacement


def _replace_listener_cfg(encoder: dict[str, Any], listener: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in listener.items() if key in ("pooling", "grad_factor")}
    return {"@architectures": "spacy-bertft.Tok2Vec.v1", **kept, "encoder": encoder}


def load_named(model: Model[Any, Any]) -> Encoder:
    """Load the pretrained weights that the config of an encoder model names."""
    attrs = model.attrs
    return load(attrs["name"], attrs["settings"], revision=attrs["revision"])


@registry.architectures("spacy-bertft.Encoder.v1")
def build_encoder(
    name: str,
    revision: str = "main",
    device: Device = "auto",
    precision: Precision = "auto",
    window: int | None = None,
    overlap: int | None = None,
    batch_subwords: int | None = None,
    batching: Batching = "auto",
    backend: Backend = "torch",
    long_pairs: LongPairs = "windows",
) -> Model[Any, Any]:
    """An encoder from the Hugging Face family of BERT. Its weights are loaded at initialisation, or with the pipeline.

    name: a hub name ("bert-base-cased"), a local folder, or package/folder of an installed package.
    revision: branch, tag or commit on the hub.
    device: "auto" takes the GPU that spacy.require_gpu() chose, else CUDA, else MPS, else the CPU.
    precision: of the forward pass; weights, gradients and steps stay float32. "auto" is bfloat16 for prediction on a
        GPU that has it, else float32.
    window: subwords in one window, special ones included; None: as many as the encoder takes.
    overlap: subwords that neighbouring windows of a long text share, at least; None: an eighth of the window.
    batch_subwords: subwords in one forward pass, at most; None: by device.
    batching: "packed" puts windows side by side without padding, "padded" pads them; "auto" packs where possible.
    backend: "torch", or "onnxruntime" for an encoder that `bertft export` wrote: faster on a CPU, and not trainable.
    long_pairs: two segments that don't fit a window together get several "windows", or the longer one is cut off
        ("shorten").
    """
    settings = EncoderSettings(device, precision, window, overlap, batch_subwords, batching, backend, long_pairs)
    return _model({"name": name, "revision": revision, "settings": settings})


@Language.factory(
    "bertft_encoder",
    assigns=["doc.tensor"],
    default_config={
        "model": {"@architectures": "spacy-bertft.Encoder.v1", "name": "bert-base-cased"},
        "keep_features": False,
        "set_tensor": False,
        "learn_rate_factor": 1.0,
    },
)
def make_encoder(
    nlp: Language, name: str, model: Model[Any, Any], keep_features: bool, set_tensor: bool, learn_rate_factor: float
) -> EncoderPipe:
    """The encoder component.

    keep_features: keep the features of a Doc as long as the Doc lives, not just until its last head has read them.
    set_tensor: set doc.tensor to the tokens' vectors, from which doc.vector and similarities follow.
    learn_rate_factor: the encoder's learn rate, as a multiple of that of spaCy's own components.
    """
    pipe = EncoderPipe(
        nlp.vocab,
        model,
        name,
        keep_features=keep_features,
        set_tensor=set_tensor,
        learn_rate_factor=learn_rate_factor,
    )
    pipe.nlp = ref(nlp)
    return pipe
