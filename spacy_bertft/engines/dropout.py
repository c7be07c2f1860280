"""Dropout with fast random numbers on a CPU, where PyTorch draws them one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_LEVELS = 2**16  # random numbers have 16 bits: probabilities are rounded to multiples of 1 / 2**16


def drop(values: Tensor, probability: float) -> Tensor:
    """Set each value to 0 with the given probability and leave the others unscaled. CPU tensors of any shape.

    The random numbers come from NumPy's SFC64, four from each 64-bit word, seeded by torch's CPU generator. So
    torch.manual_seed makes them reproducible, but they differ from those of torch's own dropout.
    """
    dropped: Tensor = _Drop.apply(values, kept(values.shape, probability))  # type: ignore[no-untyped-call]
    return dropped


def kept(shape: torch.Size, probability: float) -> Tensor:
    """Which numbers `drop` keeps: a bool tensor."""
    seed, size = int(torch.randint(2**62, (), device="cpu")), shape.numel()
    words = np.random.SFC64(seed).random_raw(-(-size // 4)).view(np.int16)[:size]
    lowest = min(round(probability * _LEVELS), _LEVELS - 1) - _LEVELS // 2  # 16-bit too
    # NumPy compares 16-bit integers several times as fast as PyTorch.
    return torch.from_numpy(words >= np.int16(lowest)).view(shape)


class _Drop(torch.autograd.Function):
    """Multiplication by a mask, which is stored as bool to save memory and multiplied as floats for speed."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(kept)
        return values * kept.to(values.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return gradient * kept.to(gradient.dtype), None


class Dropout(nn.Dropout):
    """nn.Dropout that uses `drop` on a CPU."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Apply dropout to a tensor of any shape: in training some values become 0, the others are scaled up."""
        if not self.training or not 0 < self.p < 1 or hidden.device.type != "cpu":
            return super().forward(hidden)
        return drop(hidden, self.p) * (1 / (1 - self.p))


def use_dropout(model: nn.Module) -> None:
    """Replace each nn.Dropout inside a model by a Dropout."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))
