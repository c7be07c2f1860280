"""`bertft_encoder`: computes features for Docs, and is trained through the heads that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example, validate_examples
from spacy.vocab import Vocab
from thinc.api import Model, Optimizer

from spacy_bertft import files
from spacy_bertft.components import feature_store
from spacy_bertft.components.boundary import Boundary
from spacy_bertft.components.doc_tensors import set_tensors
from spacy_bertft.components.doc_texts import STREAM_CHARACTERS, n_characters, texts_of
from spacy_bertft.components.encoder_architecture import encoder_model, load_from, load_named
from spacy_bertft.components.feature_cache import FeatureCache
from spacy_bertft.components.hidden_rows import DistilledEncoder
from spacy_bertft.components.readers import FeatureReader, WithReaders
from spacy_bertft.components.rehearsal import RehearsedEncoder
from spacy_bertft.components.run import check_name, plan_run
from spacy_bertft.components.streams import DocwisePipe, Trimmer, annotated, reduced
from spacy_bertft.components.workers import ThreadGuard
from spacy_bertft.encoder.checkpoint import Checkpoint, read_save_id
from spacy_bertft.encoder.features import as_torch, gather
from spacy_bertft.encoder.text_encoder import TextEncoder
from spacy_bertft.errors import ConfigError, need_torch
from spacy_bertft.learning.shim import shim_of
from spacy_bertft.learning.step_settings import StepSettings
from spacy_bertft.learning.tuning import FullTuning, Tuning
from spacy_bertft.locks import Lock
from spacy_bertft.text.batches import chunk
from spacy_bertft.types import Features

if TYPE_CHECKING:
    from torch import Tensor

    from spacy_bertft.learning.state import TensorsByName

ENCODER_FOLDER = "encoder"


class EncoderPipe(WithReaders, RehearsedEncoder, DistilledEncoder, DocwisePipe):
    """A fine-tunable encoder whose features the heads of the pipeline read.

    In training, the heads' backward passes end in a leaf tensor, which accumulates their gradients. The encoder
    backpropagates the sum (it settles) when it is next used: in an update, a prediction, finish_update or saving. So
    the order of heads does not matter, and a step that spaCy requests before the heads' backward passes is deferred.
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
        tuning: Tuning | None = None,
    ) -> None:
        self.vocab, self.model = vocab, model
        shim = shim_of(model)
        shim.name, shim.rate_factor, shim.tuning = name, learn_rate_factor, tuning or FullTuning()
        shim.settle = self.settle
        self.name = name
        self.cfg: dict[str, Any] = {}
        self.keep_features, self.set_tensor = keep_features, set_tensor
        self.listener_map: dict[str, list[FeatureReader]] = {}
        self.nlp: Callable[[], Language | None] = lambda: None
        self.save_id: str | None = None  # identifies the weights last saved or loaded
        self._boundary: Boundary | None = None
        self._cache: FeatureCache | None = None
        self._owed: StepSettings | None = None  # of a deferred step
        self._settling = Lock()
        self._guard_threads, self._trim = ThreadGuard(), Trimmer()

    # --- the encoder inside

    @property
    def encoder(self) -> Any:
        """The settled encoder: an Encoder, or an ExportedEncoder. Raises a ConfigError if it has no weights yet."""
        self.settle()
        return self._encoder()

    def _encoder(self) -> TextEncoder:
        module = shim_of(self.model).module
        if not isinstance(module, TextEncoder):
            raise ConfigError(
                f"The encoder component {self.name!r} has no weights yet. Expected an initialised or loaded one: call "
                "nlp.initialize(), train with `spacy train`, or load a saved pipeline with spacy.load()."
            )
        return module

    def load_pretrained(self) -> Any:
        """The encoder, after loading its pretrained weights if spaCy did not initialise it (frozen_components)."""
        if shim_of(self.model).module is None:
            self.set_encoder(load_named(self.model))
        plan_run(self.nlp())
        return self.encoder

    def set_encoder(self, encoder: TextEncoder) -> None:
        """Replace the encoder with one that has weights."""
        self._boundary = self._owed = self.save_id = self._cache = None
        shim_of(self.model).module = encoder
        for reader in self.listeners:
            reader.link(self)

    def initialize(self, get_examples: Callable[[], Iterable[Example]], *, nlp: Language | None = None) -> None:
        """Load the pretrained weights that the config names."""
        if nlp is not None:
            check_name(nlp, self)
        plan_run(nlp, self, get_examples)
        encoder = load_named(self.model)
        shim = shim_of(self.model)
        shim.tuning.begin(encoder, std=encoder.initializer_range)
        if shim.tuning.unit == "epochs":
            shim.examples_per_epoch = sum(1 for _ in get_examples())
        self.set_encoder(encoder)

    # --- features for Docs

    def predict(self, docs: Iterable[Doc]) -> Features:
        """Encode B Docs, without gradients."""
        docs = list(docs)
        if not self._awaited(docs):
            self.settle()
        return self._encode(docs)

    def _encode(self, docs: Sequence[Doc]) -> Features:
        self._guard_threads()
        self._trim(len(docs))
        encoder = self._encoder()
        if self._cache is None or not self._cache.fits(encoder):
            return encoder.predict(texts_of(docs))
        return self._cache.features(docs, lambda some: as_torch(encoder.predict(texts_of(some))))

    def keep_outputs(self) -> None:
        """Keep the features of all Docs from now on, until the encoder is trained."""
        if self._boundary is None and (self._cache is None or not self._cache.fits(self._encoder())):
            self._cache = FeatureCache.of(shim_of(self.model).tuning)

    def set_annotations(self, docs: Iterable[Doc], features: Features) -> None:
        """Publish the features of Docs to the heads; set doc.tensor if `set_tensor`."""
        docs = list(docs)
        if not self._awaited(docs):
            readers = map(id, self.active_readers())
            feature_store.publish(self.name, docs, features, readers=readers, keep=self.keep_features)
        if self.set_tensor:
            set_tensors(docs, features)

    def _awaited(self, docs: Sequence[Doc]) -> bool:
        return self._boundary is not None and self._boundary.awaits(docs)

    def features(self, docs: Sequence[Doc]) -> Features:
        """The features of Docs. Where none are published (the encoder is disabled or frozen), Docs are encoded now."""
        missing = [doc for doc in docs if feature_store.find(doc, self.name) is None]
        if missing and self._boundary is not None:
            originals = dict(zip(missing, self._boundary.originals(missing), strict=True))
            docs = [originals.get(doc, doc) for doc in docs]
            missing = [doc for doc in docs if feature_store.find(doc, self.name) is None]
        now: dict[Doc, tuple[Features, int]] = {}
        if missing:
            # Without settling: some heads may not have been trained on the boundary yet.
            encoded = self._encode(missing)
            self.set_annotations(missing, encoded)
            now = {doc: (encoded, place) for place, doc in enumerate(missing)}
        found = ((doc, feature_store.find(doc, self.name)) for doc in docs)
        return gather([(entry.features, entry.place) if entry else now[doc] for doc, entry in found])

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Encode a stream of Docs, in batches of at most `batch_size` Docs."""
        for docs in chunk(stream, size=batch_size, budget=STREAM_CHARACTERS, cost=n_characters):
            yield from annotated(self, docs)

    # --- training

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | Literal[False] | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Encode the predicted Docs for the updates of the heads, which add their losses to the encoder's.

        `drop` applies to the heads only: the encoder's dropout is set in its Hugging Face config.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "EncoderPipe.update")
        need_torch(f"Training the encoder {self.name!r}")
        self.settle()
        learns, docs = shim_of(self.model).tuning.learns, [eg.predicted for eg in examples]
        if learns:
            self._cache = None
            features, backprop = self.model.begin_update(texts_of(docs))
        else:
            self.keep_outputs()
            shim_of(self.model).report(0)
            features, backprop = as_torch(self._encode(docs)), lambda gradient: None
        self._boundary = Boundary.open(self.name, docs, features, backprop, learns=learns)
        self._match(features, losses)
        shim_of(self.model).count(len(docs), subwords=features.n_subwords)
        if sgd:
            self.finish_update(sgd)
        return losses

    def settle(self) -> None:
        """Backpropagate the heads' gradient through the encoder, then take the deferred step, if any."""
        if self._boundary is None and self._owed is None:
            return
        with self._settling:  # threads that predict after training wait for the one that settles first
            try:
                if self._boundary is not None:
                    self._boundary.close()
                if self._owed is not None:
                    shim_of(self.model).step(self._owed)
            finally:
                self._boundary = self._owed = None

    def finish_update(self, sgd: Optimizer) -> None:
        """Step now if a head has backpropagated, else when the encoder settles."""
        self._owed = shim_of(self.model).settings_of(sgd)
        if self._boundary is None or self._boundary.answered:
            self.settle()

    def training_state(self) -> TensorsByName:
        """The state to resume training from after the last update. Settles first, so that no step is pending."""
        self.settle()
        return shim_of(self.model).training_state()

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Resume training from the result of training_state."""
        self._boundary = self._owed = self._cache = None
        shim_of(self.model).load_training_state(state)

    # --- disk and bytes: an ordinary Hugging Face folder

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write a Hugging Face folder, path/encoder, or peft's for an adapter. Heads saved later store its save id."""
        checkpoint = self._at_rest()
        # A digest, not a random number: an encoder that was not trained keeps its id, so other heads still match it.
        save_id = checkpoint.digest() if checkpoint else None
        self._write(checkpoint, Path(path), save_id)
        self.save_id = save_id

    def _at_rest(self) -> Checkpoint | None:
        """The files and weights of the settled encoder; None if it has no weights yet."""
        self.settle()
        module = shim_of(self.model).module
        return module.to_save() if isinstance(module, TextEncoder) else None

    def _write(self, checkpoint: Checkpoint | None, folder: Path, save_id: str | None) -> None:
        with files.saving(f"encoder {self.name!r}", folder):
            folder.mkdir(parents=True, exist_ok=True)
            if checkpoint:
                checkpoint.write(folder / ENCODER_FOLDER, save_id=save_id)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> EncoderPipe:
        """Load the encoder from path/encoder; nothing is looked up anywhere else."""
        folder = Path(path) / ENCODER_FOLDER
        if folder.is_dir():
            encoder = load_from(folder, self.model)
            self.set_encoder(encoder)
            self.save_id = read_save_id(folder) if encoder.trainable else None
        return self

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """The files that to_disk writes, in one bytestring, which can't be half saved: it needs no new save id."""
        return files.to_bytes(lambda folder: self._write(self._at_rest(), folder, self.save_id))

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> EncoderPipe:
        """Load the result of to_bytes."""
        return files.from_bytes(bytes_data, self.from_disk)

    def __reduce__(self) -> tuple[Any, ...]:
        # For spawned worker processes: files instead of pickled modules. The heads relink themselves.
        settings = {
            "keep_features": self.keep_features,
            "set_tensor": self.set_tensor,
            "learn_rate_factor": shim_of(self.model).rate_factor,
            "tuning": shim_of(self.model).tuning,
        }
        attrs = {key: self.model.attrs[key] for key in ("name", "revision", "settings")}
        return reduced(self, _rebuild, self.vocab, self.name, settings, attrs, self.to_bytes(), self._guard_threads)


def _rebuild(
    vocab: Vocab, name: str, settings: dict[str, Any], attrs: dict[str, Any], content: bytes, guard: ThreadGuard
) -> EncoderPipe:
    pipe = EncoderPipe(vocab, encoder_model(attrs), name, **settings).from_bytes(content)
    pipe._guard_threads = guard
    return pipe
