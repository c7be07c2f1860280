"""Training on more subwords than memory holds the activations of."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spacy_bertft.engines.base import Engine
from spacy_bertft.types import Packed

# Subwords of one update above which activations are computed again in the backward pass: more than the usual batches
# have, so that only very long texts and very large batches pay with time for memory.
KEPT_SUBWORDS = 16_384


class RecomputingEngine:
    """Keeps no activations: the backward pass computes them again, one batch of windows at a time.

    Gradient checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174) with a segment per forward pass. The
    gradients are the same, for dropout draws the same random numbers again.
    """

    def __init__(self, engine: Engine, model: nn.Module) -> None:
        """model: what the engine runs."""
        self.engine = engine
        self.model = model
        self.padded = engine.padded
        self.budget = engine.budget

    def __call__(self, packed: Packed) -> Tensor:
        """One forward pass. -> (N, D) float32."""
        training = self.model.training
        hidden: Tensor = checkpoint(self._run, packed, training, use_reentrant=False)
        return hidden

    def _run(self, packed: Packed, training: bool) -> Tensor:
        # By the time of the backward pass, a prediction in between may have switched dropout off.
        now = self.model.training
        self.model.train(training)
        try:
            return self.engine(packed)
        finally:
            self.model.train(now)
