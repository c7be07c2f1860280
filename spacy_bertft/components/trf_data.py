"""`bertft_trf_data`: sets `doc._.trf_data`, for code that was written for spacy-transformers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from spacy.language import Language
from spacy.pipeline.pipe import Pipe
from spacy.tokens import Doc
from thinc.types import Ragged

from spacy_bertft.components import feature_store
from spacy_bertft.components.doc_texts import texts_of
from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.components.source import EncoderSource
from spacy_bertft.components.streams import annotated, reduced
from spacy_bertft.encoder.features import as_numpy, split
from spacy_bertft.encoder.pooling import take
from spacy_bertft.encoder.text_encoder import TextEncoder
from spacy_bertft.types import Features, Floats, Ints

if TYPE_CHECKING:
    from spacy_bertft.encoder.encoder import Encoder

_NAME, _HIDDEN, _POOLED = "trf_data", "last_hidden_state", "pooler_output"
_Pooler: TypeAlias = tuple[Floats, Floats]  # its weight (D, D) and bias (D,)
_data: WeakKeyDictionary[Doc, Any] = WeakKeyDictionary()


def _data_of(doc: Doc) -> Any:
    return _data.get(doc)


def _set_data(doc: Doc, data: Any) -> None:
    _data[doc] = data


class _ModelOutput(dict[str, NDArray[np.float32]]):
    """Arrays by name, which are attributes as well, as in transformers' own outputs."""

    def __getattr__(self, name: str) -> NDArray[np.float32]:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def to_tuple(self) -> tuple[NDArray[np.float32], ...]:
        """All arrays."""
        return tuple(self.values())


@dataclass(frozen=True)
class _Wordpieces:
    """The subwords of one Doc."""

    strings: list[list[str]]
    input_ids: Ints  # (1, S)

    @property
    def lengths(self) -> list[int]:
        """The number of subwords."""
        return [len(of_doc) for of_doc in self.strings]


class _TransformerData:
    """The part of spacy-transformers' TransformerData that is about results.

    The Doc is always one span of S rows: the first special subword, if the tokenizer adds one, then each subword of the
    text once, whatever the windows in which the encoder read it.

    model_output: "last_hidden_state" (1, S, D), and "pooler_output" (1, D) if the encoder has a pretrained pooler.
    align: the rows of each token, as in `last_hidden_state.reshape(-1, D)[align[token.i].data.flatten()]`.
    """

    def __init__(self, features: Features, encoder: TextEncoder, doc: Doc, pooler: _Pooler | None) -> None:
        """features: of this Doc alone."""
        first = features.cls_rows[:1]
        hidden = as_numpy(take(features.hidden, np.append(first, features.rows)))  # (S, D)
        self.model_output = _ModelOutput({_HIDDEN: hidden[None]})
        if pooler is not None and len(first):
            weight, bias = pooler
            self.model_output[_POOLED] = np.tanh(hidden[:1] @ weight.T + bias)
        rows = (features.token_subwords + len(first)).astype(np.int32)
        self.align = Ragged(rows, features.token_subword_counts.astype(np.int32))  # type: ignore[arg-type]
        self._encoder, self._texts = encoder, texts_of([doc])

    @property
    def tensors(self) -> tuple[NDArray[np.float32], ...]:
        """The arrays of model_output."""
        return self.model_output.to_tuple()

    @property
    def width(self) -> int:
        """D."""
        return int(self.model_output[_HIDDEN].shape[-1])

    @cached_property
    def wordpieces(self) -> _Wordpieces:
        """The subwords of the rows; the text is split again for them."""
        specials, ids = self._encoder.specials.prefix, self._encoder.splitter.split(self._texts).ids
        n_special = self.model_output[_HIDDEN].shape[1] - len(ids)
        ids = np.append(specials[:n_special], ids)
        strings = [self._encoder.tokenizer.id_to_token(number) or "" for number in ids.tolist()]
        return _Wordpieces([strings], ids[None])


class TrfDataPipe(Pipe):
    """Sets `doc._.trf_data` from the features of an encoder before it. It is never saved with the Doc."""

    def __init__(self, name: str, upstream: str | None) -> None:
        self.name = name
        self.upstream = upstream
        self._source = EncoderSource(self, upstream)
        self._pooler: tuple[TextEncoder, _Pooler | None] | None = None
        if not Doc.has_extension(_NAME):
            # Functions of this module, since spawned workers of nlp.pipe get pickled extensions. By force, since
            # another thread may set the same ones just now.
            Doc.set_extension(_NAME, getter=_data_of, setter=_set_data, force=True)

    def link(self, encoder: EncoderPipe) -> None:
        """Set the encoder to read."""
        self._source.link(encoder)

    def __call__(self, doc: Doc) -> Doc:
        """Set the data of one Doc."""
        self._set([doc])
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Set the data of a stream of Docs."""
        for doc in stream:
            yield from annotated(self, [doc], self._set)

    def _set(self, docs: Sequence[Doc]) -> None:
        features = self._source.read(docs, 0)
        encoder = self._source.linked().encoder
        for doc, of_doc in zip(docs, split(features), strict=True):
            doc._.trf_data = _TransformerData(of_doc, encoder, doc, self._pooler_of(encoder))
            feature_store.mark_read(doc, id(self))

    def _pooler_of(self, encoder: TextEncoder) -> _Pooler | None:
        """Weight (D, D) and bias (D,) of an encoder's pooler. Training leaves them as they are, so they are kept."""
        if self._pooler is None or self._pooler[0] is not encoder:
            trainable = encoder.trainable and encoder.checkpoint.trained_pooler
            self._pooler = encoder, _read_pooler(encoder) if trainable else None  # type: ignore[arg-type]
        return self._pooler[1]

    def __reduce__(self) -> tuple[Any, ...]:
        # For spawned worker processes: the encoder registers its readers again.
        return reduced(self, _rebuild, self.name, self.upstream, self._source.encoder)


def _rebuild(name: str, upstream: str | None, encoder: EncoderPipe | None) -> TrfDataPipe:
    pipe = TrfDataPipe(name, upstream)
    if encoder is not None:
        encoder.add_listener(pipe, name)
    return pipe


def _read_pooler(encoder: Encoder) -> _Pooler | None:
    weights = encoder.weights()
    found = next((name for name in ("pooler.dense", "pooler") if f"{name}.weight" in weights), None)
    return None if found is None else (as_numpy(weights[f"{found}.weight"]), as_numpy(weights[f"{found}.bias"]))


@Language.factory("bertft_trf_data", assigns=["doc._.trf_data"], default_config={"encoder": None})
def make_trf_data(nlp: Language, name: str, encoder: str | None) -> TrfDataPipe:
    """Create the component.

    encoder: name of the encoder component to read; None: the nearest before it.
    """
    return TrfDataPipe(name, encoder)
