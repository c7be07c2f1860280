"""Training on more subwords than there is memory for their activations."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spacy_bertft import compat
from spacy_bertft.engines.base import Engine
from spacy_bertft.types import Packed

# If an update has more subwords than this, activations are recomputed in the backward pass. Usual batches have fewer,
# so only very long texts and very large batches trade time for memory.
KEPT_SUBWORDS = 16_384


class RecomputingEngine:
    """Wraps an engine so that the backward pass recomputes activations, one batch of windows at a time.

    Gradient checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174) with a segment per forward pass. The
    gradients are the same, because dropout draws the same random numbers again.
    """

    def __init__(self, engine: Engine, model: nn.Module) -> None:
        """model: what the engine runs."""
        self.engine = engine
        self.model = model
        self.padded = engine.padded
        self.budget = engine.budget

    def __call__(self, packed: Packed) -> Tensor:
        """Run one forward pass. -> (N, D) float32."""
        # A tensor among the arguments tells torch on which device random numbers are drawn. It is held: a small one.
        weight = min(self.model.parameters(), key=Tensor.numel)
        hidden: Tensor = checkpoint(self._run, packed, weight, use_reentrant=False)
        return hidden

    def _run(self, packed: Packed, weight: Tensor) -> Tensor:
        # The allocator would hold on to what the last batch has freed, since small tensors of autograd lie above it.
        compat.give_back_memory()
        return self.engine(packed)
