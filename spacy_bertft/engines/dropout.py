"""Dropout whose random numbers cost little on a CPU, where PyTorch draws them one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_LEVELS = 2**16  # random numbers have 16 bits: a probability is rounded to this part


def drop(values: Tensor, probability: float) -> Tensor:
    """Set about `probability` of the numbers to 0 and leave the others as they are, on the CPU. Any shape.

    Which ones: by a generator of NumPy's, four from each of its words, which torch's generator for the CPU seeds; so
    torch.manual_seed decides, but other numbers fall than with torch's own dropout.
    """
    seed = int(torch.randint(2**62, (), device="cpu"))
    words = np.random.SFC64(seed).random_raw(-(-values.numel() // 4)).view(np.int16)[: values.numel()]
    lowest = min(round(probability * _LEVELS), _LEVELS - 1) - _LEVELS // 2  # of 16 bits too
    kept = torch.from_numpy(words).view(values.shape) >= lowest
    dropped: Tensor = _Drop.apply(values, kept)  # type: ignore[no-untyped-call]
    return dropped


class _Drop(torch.autograd.Function):
    """A product with a mask, which is remembered as bool, for its size, and multiplied as floats, for speed."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(kept)
        return values * kept.to(values.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return gradient * kept.to(gradient.dtype), None


class Dropout(nn.Dropout):
    """nn.Dropout by `drop` on a CPU."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Numbers of any shape -> the same, some of them 0 and the others larger in training."""
        if not self.training or not 0 < self.p < 1 or hidden.device.type != "cpu":
            return super().forward(hidden)
        return drop(hidden, self.p) * (1 / (1 - self.p))


def use_dropout(model: nn.Module) -> None:
    """Put a Dropout in the place of each nn.Dropout inside a model."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))
