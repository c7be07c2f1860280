"""The boundary between the encoder and the heads trained on its features."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from threading import get_ident
from typing import TYPE_CHECKING

from spacy.tokens import Doc

from spacy_bertft.components import feature_store
from spacy_bertft.components.doc_texts import content_of
from spacy_bertft.types import Features

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class Rehearsal:
    """Who has taken part in a rehearsal."""

    joined: set[str] = field(default_factory=set)  # names of components
    loss: float = 0.0  # of the heads that were called before the encoder


@dataclass(frozen=True, slots=True)
class Boundary:
    """Features of the current update. The heads' backward passes end in a leaf tensor, which accumulates gradients."""

    leaf: Tensor  # (N, D) float32, input of the heads
    backprop: Callable[[Tensor], None]  # backpropagates the leaf's gradient through the encoder
    docs: tuple[Doc, ...]
    rehearsal: Rehearsal | None = None  # None: it is of an update
    thread: int = field(default_factory=get_ident)  # that trains
    extra: Tensor | None = None  # a gradient from elsewhere, which is added to the heads'

    @classmethod
    def open(
        cls,
        encoder: str,
        docs: Sequence[Doc],
        features: Features,
        backprop: Callable[[Tensor], None],
        *,
        learns: bool,
        rehearsal: Rehearsal | None = None,
    ) -> Boundary:
        """Publish the features of Docs under the encoder's name. learns: whether the encoder is trained."""
        leaf = features.hidden.detach().float().requires_grad_(learns)
        feature_store.publish(encoder, docs, replace(features, hidden=leaf), readers=(), keep=True)
        return cls(leaf, backprop, tuple(docs), rehearsal)

    @property
    def answered(self) -> bool:
        """Whether a head has backpropagated into the leaf."""
        return self.leaf.grad is not None

    def awaits(self, docs: Sequence[Doc]) -> bool:
        """Whether the leaf holds these Docs and still waits for the heads' gradient.

        This happens when an encoder in annotating_components predicts between its update and the heads'.
        """
        return not self.answered and set(docs) <= set(self.docs)

    def originals(self, docs: Sequence[Doc]) -> list[Doc]:
        """Replace copies of its Docs with the originals; keep other Docs. Some components train on copies."""
        known = {content_of(doc): doc for doc in self.docs}
        return [known.get(content_of(doc), doc) for doc in docs]

    def close(self) -> None:
        """Withdraw the features, and backpropagate the heads' gradient through the encoder."""
        feature_store.withdraw(self.docs, self.leaf)
        if self.leaf.requires_grad and not self.answered and self.thread != get_ident():
            warnings.warn(
                "A thread used the encoder while another one was training it: that update does not reach the encoder. "
                "Expected one thread at a time. Train a copy of the pipeline, or let the others wait.",
                stacklevel=2,
            )
        if self.leaf.grad is not None:
            self.backprop(self.leaf.grad if self.extra is None else self.leaf.grad + self.extra)
