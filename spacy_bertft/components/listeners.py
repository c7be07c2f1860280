"""Layers for spaCy's own components that give them a vector per token from an encoder, and train the encoder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from spacy.tokens import Doc
from spacy.util import registry
from thinc.api import CupyOps, Model, Ops, torch2xp
from thinc.types import Floats2d

from spacy_bertft.components import feature_store
from spacy_bertft.components.doc_texts import texts_of
from spacy_bertft.components.encoder_architecture import load_named
from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.encoder.features import as_numpy, as_torch
from spacy_bertft.encoder.pooling import TokenPooling, token_vectors
from spacy_bertft.encoder.text_encoder import TextEncoder
from spacy_bertft.errors import ConfigError, need_torch
from spacy_bertft.learning.shim import shim_of
from spacy_bertft.types import Features, Rows

if TYPE_CHECKING:
    from spacy_bertft.components.rehearsal import FrozenEncoder

Vectors = list[Floats2d]
_Backprop = Callable[[Vectors], list[Doc]]


class Listener(Model[list[Doc], Vectors]):
    """A layer inside another component's model that reads the encoder before it: one row per spaCy token.

    It replaces the `tok2vec` of spaCy's own components. Its gradients are added to the heads'.
    """

    def __init__(
        self, *, upstream: str | None, pooling: TokenPooling, grad_factor: float, width: int | None = None
    ) -> None:
        super().__init__("bertft-listener", _listen, init=_find_width, dims={"nO": width})
        self.width = width  # as in the config
        self.upstream = upstream
        self.pooling = pooling
        self.grad_factor = grad_factor
        self._encoder_pipe: EncoderPipe | None = None
        self.frozen: FrozenEncoder | None = None  # read instead, by a copy for rehearsal

    def link(self, encoder: EncoderPipe) -> None:
        """Set the encoder to read, and the width if the encoder has been loaded."""
        earlier, self._encoder_pipe = self._encoder_pipe, encoder
        if earlier is not None and earlier is not encoder and earlier.nlp() is encoder.nlp():
            earlier.forget(self)
        module = shim_of(encoder.model).module
        if isinstance(module, TextEncoder):
            self.set_width(module.width)

    def set_width(self, width: int) -> None:
        """Set the width to the encoder's. Raises a ConfigError if the config has another."""
        if self.width not in (None, width):
            raise ConfigError(
                f"A spacy-bertft.Listener.v1 has width = {self.width}, but its encoder's is {width}. Expected the "
                f"same. Set width = {width}, or null."
            )
        self.set_dim("nO", width, force=True)

    @property
    def encoder_pipe(self) -> EncoderPipe:
        """The encoder component that it reads."""
        if self._encoder_pipe is None:
            wanted = "a bertft_encoder component" if self.upstream is None else f"an encoder named {self.upstream!r}"
            raise ConfigError(
                f"A spacy-bertft.Listener.v1 needs {wanted} before its component in the pipeline, and found none. "
                'Expected for example pipeline = ["encoder", "tagger"] with [components.encoder] factory = '
                '"bertft_encoder". Add the encoder, or correct the listener\'s upstream.'
            )
        return self._encoder_pipe

    def read(self, docs: Sequence[Doc]) -> Features:
        """The features of Docs."""
        return self.encoder_pipe.features(docs) if self.frozen is None else self.frozen.features(docs)

    def replaced_by(self, encoder: Model[Any, Any]) -> Model[list[Doc], Vectors]:
        """An equivalent layer around an encoder that it does not share."""
        layer: Model[list[Doc], Vectors] = build_tok2vec(encoder, self.pooling, self.grad_factor)
        layer.set_dim("nO", self.get_dim("nO"))
        return layer

    def __reduce__(self) -> tuple[Any, ...]:
        # For spawned worker processes: the encoder registers its readers again.
        return _rebuild, (self._settings(), self.maybe_get_dim("nO"), self._encoder_pipe)

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("upstream", "pooling", "grad_factor", "width")}

    def __deepcopy__(self, memo: dict[int, Any]) -> Listener:
        # nlp.resume_training copies the models of components: the copies share one copy of their encoder. In a copy of
        # a whole pipeline, whose encoder has been copied by now, a listener reads that one.
        if self._encoder_pipe is not None and id(self._encoder_pipe) not in memo:
            twin = _rebuild(self._settings(), self.maybe_get_dim("nO"), None)
            twin.frozen = self._encoder_pipe.frozen()
            return twin
        return _rebuild(*copy.deepcopy(self.__reduce__()[1], memo))


def _rebuild(settings: dict[str, Any], width: int | None, encoder: EncoderPipe | None) -> Listener:
    listener = Listener(**settings)
    if width is not None:
        listener.set_dim("nO", width)
    if encoder is not None:
        encoder.add_listener(listener, f"listener {id(listener)}")
    return listener


def _load(model: Model[list[Doc], Vectors], X: Any = None, Y: Any = None) -> None:  # noqa: N803  # thinc's names
    (encoder,) = model.layers
    shim_of(encoder).module = module = load_named(encoder)
    model.set_dim("nO", module.width, force=True)


def _find_width(model: Model[list[Doc], Vectors], X: Any = None, Y: Any = None) -> None:  # noqa: N803  # thinc's names
    assert isinstance(model, Listener)
    model.set_width(model.encoder_pipe.load_pretrained().width)


def _listen(model: Model[list[Doc], Vectors], docs: list[Doc], is_train: bool) -> tuple[Vectors, _Backprop]:
    assert isinstance(model, Listener)
    if not docs:
        return [], lambda gradients: []
    if is_train and model.frozen is None:
        model.encoder_pipe.keep_outputs()
    features = model.read(docs)
    if not is_train:
        for doc in docs:
            feature_store.mark_read(doc, id(model))
    return _tokens(model, features, model.pooling, model.grad_factor, is_train)


def _encode(model: Model[list[Doc], Vectors], docs: list[Doc], is_train: bool) -> tuple[Vectors, _Backprop]:
    encoder = model.layers[0]
    texts = texts_of(docs)
    if is_train:
        features, _ = encoder.begin_update(texts)
        shim_of(encoder).count(len(docs), subwords=features.n_subwords)
    else:
        features = encoder.predict(texts)
    return _tokens(model, features, model.attrs["pooling"], model.attrs["grad_factor"], is_train)


def _tokens(
    model: Model[Any, Any], features: Features, pooling: TokenPooling, grad_factor: float, is_train: bool
) -> tuple[Vectors, _Backprop]:
    """An array (tokens, D) per Doc, of the type that thinc computes with, and its backprop."""
    if not is_train:
        return _per_doc(model.ops, token_vectors(features, pooling), features), lambda gradients: []
    need_torch("Training on an encoder")
    import torch
    from thinc.api import xp2torch

    with torch.enable_grad():
        vectors = token_vectors(as_torch(features), pooling)  # (T, D)

    def backprop(gradients: Vectors) -> list[Doc]:
        if vectors.requires_grad and gradients:  # else the encoder is frozen, or there are no Docs
            gradient = xp2torch(model.ops.xp.concatenate(gradients)).to(vectors.device)
            vectors.backward(gradient * grad_factor)
        return []

    return _per_doc(model.ops, vectors, features), backprop


def _per_doc(ops: Ops, vectors: Rows, features: Features) -> Vectors:
    """The tokens' vectors (T, D), in an array for each Doc, of the type that thinc computes with."""
    rows: Any = torch2xp(vectors.detach()) if isinstance(ops, CupyOps) else as_numpy(vectors)
    parts = ops.xp.split(rows, np.cumsum(features.token_counts)[:-1])
    return [ops.as_contig(part) for part in parts[: len(features.token_counts)]]


@registry.architectures("spacy-bertft.Listener.v1")
def build_listener(
    pooling: TokenPooling = "mean", upstream: str = "*", grad_factor: float = 1.0, width: int | None = None
) -> Model[list[Doc], Vectors]:
    """A Tok2Vec layer that reads a bertft_encoder component: list of Docs -> an array (tokens, width) per Doc.

    pooling: what represents a token: its "first" subword, or the "mean" of its subwords.
    upstream: name of the encoder component; "*": the nearest before the component.
    grad_factor: factor of the gradient that reaches the encoder; 0: this component does not train it.
    width: the encoder's, for components that need it when they are built (an entity_linker whose vectors have another
        length); None: it is set at initialisation.
    """
    name = None if upstream == "*" else upstream
    return Listener(upstream=name, pooling=pooling, grad_factor=grad_factor, width=width)


@registry.architectures("spacy-bertft.Tok2Vec.v1")
def build_tok2vec(
    encoder: Model[Any, Any], pooling: TokenPooling = "mean", grad_factor: float = 1.0
) -> Model[list[Doc], Vectors]:
    """A Tok2Vec layer with an encoder that no other component shares; nlp.replace_listeners creates it.

    encoder: a spacy-bertft.Encoder.v1. For the other settings see spacy-bertft.Listener.v1.
    """
    attrs = {"pooling": pooling, "grad_factor": grad_factor}
    return Model("bertft-tok2vec", _encode, init=_load, layers=[encoder], dims={"nO": None}, attrs=attrs)
