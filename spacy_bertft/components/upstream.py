"""What a head reads: a bertft_encoder, or spacy-transformers' component if no encoder is linked."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from spacy.language import Language
from thinc.api import Model

from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.components.source import EncoderSource, Source
from spacy_bertft.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from spacy_bertft.components.transformer_source import TransformerSource

# The module of spacy-transformers that has its listener.
_LISTENER = "spacy_transformers.layers.listener"


class Upstream:
    """The sources that a head could have, and the one that it has."""

    def __init__(self, head: Any, name: str | None) -> None:
        """head: the component that reads; name: of the component to read, None: the nearest before the head."""
        self._head = head
        self._encoder = EncoderSource(head, name)
        self._transformer = _find_transformer(name)

    @property
    def layers(self) -> list[Model[Any, Any]]:
        """The listener by which a transformer finds the head."""
        return [] if self._transformer is None else [self._transformer.node]

    @property
    def encoder(self) -> EncoderPipe | None:
        """The linked encoder component."""
        return self._encoder.encoder

    @property
    def save_id(self) -> str | None:
        """The id of the encoder's save, if an encoder is linked."""
        return None if self.encoder is None else self.encoder.save_id

    @property
    def source(self) -> Source:
        """The source of the head's features."""
        if self.encoder is None and self._transformer is not None:
            return self._transformer
        return self._encoder

    def link(self, encoder: EncoderPipe) -> None:
        """Set the encoder to read. When spaCy links the pipeline, all its encoders call this, in order."""
        self._encoder.link(encoder)
        nlp = encoder.nlp()
        if self._transformer is not None and nlp is not None:
            self._transformer.unlink(nlp)

    def start(self, nlp: Language | None, *, needs_segments: bool) -> tuple[int, nn.Linear | None]:
        """Start the source; return its width and pretrained pooler."""
        source = self.source
        if source is self._transformer and not self._transformer.linked:
            source = self._encoder  # it raises the error that says what is missing
        if needs_segments and not source.knows_segments:
            raise ConfigError(
                f"The head {self._head.name!r} reads pairs of texts, which spacy-transformers' component does not "
                "support. Expected a bertft_encoder component before it. Replace the transformer with one."
            )
        return source.start(nlp)


def _find_transformer(name: str | None) -> TransformerSource | None:
    """A source for a head; None if spacy-transformers is not in use."""
    # A pipeline with a transformer has imported this module before it creates the heads after it.
    listener = sys.modules.get(_LISTENER)
    if listener is None:
        return None
    from spacy_bertft.components.transformer_source import TransformerSource

    return TransformerSource.of(listener, name)
