"""The sources of a head's features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from spacy.language import Language
from spacy.tokens import Doc

from spacy_bertft.components import feature_store
from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.encoder.features import gather
from spacy_bertft.errors import ConfigError
from spacy_bertft.types import Features

if TYPE_CHECKING:
    from torch import nn


class Source(Protocol):
    """A source of features for the prediction and training of a head."""

    knows_segments: bool  # whether it supports Docs of two segments

    def start(self, nlp: Language | None) -> tuple[int, nn.Linear | None]:
        """Prepare for training. Returns the width of the features, and the pretrained pooler if there is one."""

    def read(self, docs: Sequence[Doc], width: int) -> Features:
        """The features of Docs. width: of the features that the head was built for."""

    def learn(self, docs: Sequence[Doc], width: int) -> tuple[Features, Callable[[], None]]:
        """Features to train on, and a function to call once the gradient of their hidden rows is computed."""


class EncoderSource:
    """A bertft_encoder component; none until spaCy links the pipeline."""

    knows_segments = True

    def __init__(self, head: Any, upstream: str | None) -> None:
        """head: the component that reads; upstream: the encoder's name, None: the nearest before the head."""
        self.head = head
        self.upstream = upstream
        self.encoder: EncoderPipe | None = None

    def link(self, encoder: EncoderPipe) -> None:
        """Read this encoder from now on."""
        earlier, self.encoder = self.encoder, encoder
        # A head that is sourced into a second pipeline stays a reader of the first pipeline's encoder.
        if earlier is not None and earlier is not encoder and earlier.nlp() is encoder.nlp():
            earlier.forget(self.head)

    def start(self, nlp: Language | None) -> tuple[int, nn.Linear | None]:
        """Load the encoder's pretrained weights if it has none yet."""
        encoder = self.linked(nlp).load_pretrained()
        return encoder.width, encoder.pooler()

    def read(self, docs: Sequence[Doc], width: int) -> Features:
        """The published features. Docs without any (the encoder is disabled or frozen) are encoded now."""
        entries = [feature_store.find(doc, self.upstream) for doc in docs]
        if None in entries:
            return self.linked().features(docs)
        return gather([(entry.features, entry.place) for entry in entries if entry is not None])

    def learn(self, docs: Sequence[Doc], width: int) -> tuple[Features, Callable[[], None]]:
        """The features. Nothing needs to be called: the encoder reads the gradient when it settles."""
        self.linked().keep_outputs()
        return self.read(docs, width), lambda: None

    def linked(self, nlp: Language | None = None) -> EncoderPipe:
        """The encoder. Raises a ConfigError if there is none, or none before the head in a pipeline."""
        if self.encoder is None or (nlp is not None and not _before(nlp, self.encoder, self.head)):
            name = self.head.name
            wanted = "a bertft_encoder component" if self.upstream is None else f"an encoder named {self.upstream!r}"
            found = f" Found: {', '.join(nlp.component_names) or 'nothing'}." if nlp is not None else ""
            raise ConfigError(
                f"The head {name!r} needs {wanted} before it in the pipeline.{found} Expected for example "
                f'pipeline = ["encoder", "{name}"] with [components.encoder] factory = "bertft_encoder"; in '
                f'Python, nlp.add_pipe("bertft_encoder", before="{name}").'
            )
        return self.encoder


def _before(nlp: Language, encoder: EncoderPipe, head: Any) -> bool:
    components = [component for _, component in nlp.components]
    return encoder in components and components.index(encoder) < components.index(head)


def check_tokens(head: str, docs: Sequence[Doc], features: Features) -> None:
    """Raise a ConfigError if a Doc's number of tokens has changed since it was encoded. head: its name."""
    for doc, n_tokens in zip(docs, features.token_counts.tolist(), strict=True):
        if len(doc) != n_tokens:
            raise ConfigError(
                f"The head {head!r} got a Doc of {len(doc)} tokens that had {n_tokens} when it was encoded: "
                "a component between the encoder and this head changes the tokens. Move that component before the "
                "encoder or after the head."
            )
