"""Readers of an encoder's features: heads, and layers in the models of other components."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from spacy.language import Language
from spacy.pipeline.entity_linker import EntityLinker
from thinc.api import Model

if TYPE_CHECKING:
    from spacy_bertft.components.encoder_pipe import EncoderPipe


@runtime_checkable
class FeatureReader(Protocol):
    """A reader of an encoder's features: a head, or a layer in the model of another component."""

    upstream: str | None  # the encoder's name; None: the nearest before it

    def link(self, encoder: EncoderPipe) -> None:
        """Set the encoder to read."""


class WithReaders:
    """The part of an encoder component that registers readers: spaCy's ListenedToComponent."""

    name: str
    nlp: Callable[[], Language | None]
    listener_map: dict[str, list[FeatureReader]]  # component name -> its readers

    @property
    def listeners(self) -> list[FeatureReader]:
        """The heads, and the layers of other components, that read this encoder."""
        return [reader for of_name in self.listener_map.values() for reader in of_name]

    @property
    def listening_components(self) -> list[str]:
        """The names of the readers' components."""
        return list(self.listener_map)

    def add_listener(self, listener: FeatureReader, component_name: str) -> None:
        """Register a reader of a component."""
        self.listener_map.setdefault(component_name, []).append(listener)
        listener.link(self)  # type: ignore[arg-type]  # it is an EncoderPipe

    def remove_listener(self, listener: FeatureReader, component_name: str) -> bool:
        """Remove a reader. Returns whether it was registered."""
        readers = self.listener_map.get(component_name, [])
        kept = [reader for reader in readers if reader is not listener]
        if kept:
            self.listener_map[component_name] = kept
        else:
            self.listener_map.pop(component_name, None)
        return len(kept) < len(readers)

    def forget(self, listener: FeatureReader) -> None:
        """Remove a reader from all components."""
        for name in list(self.listener_map):
            self.remove_listener(listener, name)

    def find_listeners(self, component: Any) -> None:
        """Register the readers of this encoder in a component; spaCy calls this for each later component."""
        model = getattr(component, "model", None)
        parts = [component, *(model.walk() if isinstance(model, Model) else ())]
        for part in parts:
            if isinstance(part, FeatureReader) and part.upstream in (None, self.name):
                self.add_listener(part, component.name)

    def active_readers(self) -> list[FeatureReader]:
        """The linked readers, except disabled ones and those that read copies of the Docs."""
        nlp = self.nlp()
        if nlp is None:
            return self.listeners
        # An entity linker makes a new Doc of each sentence.
        left_out = {*nlp.disabled, *(name for name, part in nlp.components if isinstance(part, EntityLinker))}
        return [reader for name, readers in self.listener_map.items() if name not in left_out for reader in readers]
