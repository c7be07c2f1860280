"""The boundary between the encoder and the heads that learn on its features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from spacy.tokens import Doc
from torch import Tensor

from spacy_bertft.components import feature_store
from spacy_bertft.components.doc_texts import content_of
from spacy_bertft.types import Features


@dataclass(frozen=True, slots=True)
class Boundary:
    """The features that heads learn on now. Their backward passes end in a leaf tensor and add up in its gradient."""

    leaf: Tensor  # (N, D) float32, what the heads see
    backprop: Callable[[Tensor], None]  # takes the leaf's gradient into the encoder
    docs: tuple[Doc, ...]

    @classmethod
    def open(
        cls, encoder: str, docs: Sequence[Doc], features: Features, backprop: Callable[[Tensor], None], *, learns: bool
    ) -> Boundary:
        """Publish the features of Docs under the encoder's name. learns: whether the encoder wants a gradient."""
        leaf = features.hidden.detach().float().requires_grad_(learns)
        feature_store.publish(encoder, docs, replace(features, hidden=leaf), readers=(), keep=True)
        return cls(leaf, backprop, tuple(docs))

    @property
    def answered(self) -> bool:
        """Whether a head has learned on it."""
        return self.leaf.grad is not None

    def awaits(self, docs: Sequence[Doc]) -> bool:
        """Whether heads have still to learn on the leaf of these very Docs.

        So it is when an encoder in annotating_components predicts between its update and the heads'.
        """
        return not self.answered and set(docs) <= set(self.docs)

    def originals(self, docs: Sequence[Doc]) -> list[Doc]:
        """For copies of these Docs the originals, for others themselves. Some components learn on copies."""
        known = {content_of(doc): doc for doc in self.docs}
        return [known.get(content_of(doc), doc) for doc in docs]

    def close(self) -> None:
        """Take the features back, and the heads' gradient into the encoder."""
        feature_store.withdraw(self.docs, self.leaf)
        if self.leaf.grad is not None:
            self.backprop(self.leaf.grad)
