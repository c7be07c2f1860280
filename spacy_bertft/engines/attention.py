"""Attention over windows that lie side by side in one sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from spacy_bertft import compat
from spacy_bertft.engines.dropout import drop
from spacy_bertft.types import Ints

# Limits of PyTorch's flash attention: the largest head size (larger ones have no backward pass on some GPUs), and the
# lowest CUDA capability (Ampere).
_LARGEST_HEAD = 128
_FLASH_CAPABILITY = (8, 0)

# Windows attend in one call if their lengths differ by no more than this, or by this share of the longest. Each call
# costs as much as attention within a short window.
_CLOSE, _SHARE = 16, 0.25

Runs = list[tuple[int, int]]  # (number of windows, their length), in the order of the rows


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring windows of similar length, which attend in one call, the shorter ones padded."""

    rows: int  # of all its windows
    windows: int
    length: int  # of the longest window
    places: Tensor | None  # (rows,) int64, the place of each row among windows * length; None if nothing is padded
    mask: Tensor | None  # (windows, 1, 1, length), False at padding


def groups_of(lengths: Ints, device: torch.device) -> list[Group]:
    """The groups of windows of these lengths, which come longest first."""
    groups, start = [], 0
    while start < len(lengths):
        longest = int(lengths[start])
        shortest = longest - max(_CLOSE, int(_SHARE * longest))
        stop = start + int(np.count_nonzero(lengths[start:] >= shortest))
        groups.append(_group(lengths[start:stop], longest, device))
        start = stop
    return groups


def _group(lengths: Ints, longest: int, device: torch.device) -> Group:
    rows, windows = int(lengths.sum()), len(lengths)
    if rows == windows * longest:
        return Group(rows, windows, longest, None, None)
    real = np.arange(longest) < lengths[:, None]  # (windows, longest)
    places = torch.from_numpy(np.flatnonzero(real)).to(device)
    return Group(rows, windows, longest, places, torch.from_numpy(real).to(device)[:, None, None])


def runs_of(lengths: Ints) -> Runs:
    """[7, 7, 5] -> [(2, 7), (1, 5)]: neighbours of equal length share a call."""
    values, starts = np.unique(-lengths, return_index=True)  # the windows come longest first
    counts = np.diff(np.append(starts, len(lengths)))
    return list(zip(counts.tolist(), (-values).tolist(), strict=True))


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    window_groups: list[Group],
    window_bounds: Tensor,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,  # arguments for other attention functions
) -> tuple[Tensor, None]:
    """Attention of each window within itself, for transformers' attention interface.

    query, key, value: (1, H, N, D/H). window_bounds: (W + 1,) int32, the row of each window's first subword, and N.
    sliding_window: the smallest distance at which two subwords no longer see each other. -> (1, N, H, D/H).
    """
    flash = _flash_attention(value, dropout)
    if flash is not None:
        # Rotary positions may have left query and key in another precision.
        q, k, v = (states[0].transpose(0, 1).to(value.dtype) for states in (query, key, value))  # (N, H, D/H)
        longest = window_groups[0].length
        reach = -1 if sliding_window is None else sliding_window - 1  # to either side; -1: unlimited
        bounds = window_bounds, window_bounds, longest, longest
        return flash(q, k, v, *bounds, scale=scaling, window_size=(reach, reach))[None], None
    # One split for all groups: in the backward pass, each separate slice would need a gradient as large as all rows.
    sizes = [group.rows for group in window_groups]
    split = (torch.split(states[0].transpose(0, 1), sizes) for states in (query, key, value))
    parts = []
    for group, of_group in zip(window_groups, zip(*split, strict=True), strict=True):
        q, k, v = (_windows(rows, group) for rows in of_group)  # (windows, H, length, D/H)
        mask = _mask(group, sliding_window, q.device)
        if 0 < dropout < 1 and v.device.type == "cpu":
            mixed = _with_dropout(q, k, v, mask, dropout, scaling)
        else:
            mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)
        rows = mixed.transpose(1, 2).flatten(0, 1)  # (windows * length, H, D/H)
        parts.append(rows if group.places is None else _Unpad.apply(rows, group.places))  # type: ignore[no-untyped-call]
    return torch.cat(parts)[None], None


def _windows(rows: Tensor, group: Group) -> Tensor:
    """The rows of each window, padded to the longest. (rows, H, D/H) -> (windows, H, length, D/H)."""
    if group.places is not None:
        rows = _Pad.apply(rows, group.places, group.windows * group.length)  # type: ignore[no-untyped-call]
    return rows.reshape(group.windows, group.length, *rows.shape[1:]).transpose(1, 2)


def _mask(group: Group, sliding_window: int | None, device: torch.device) -> Tensor | None:
    """True where a query attends to a key; None if each attends to all."""
    band = _band(group.length, sliding_window, device)
    if band is None or group.mask is None:
        return group.mask if band is None else band
    # Padding attends to everything: a row without any key would be NaN, in the gradients of the others too.
    return (group.mask & band) | ~group.mask.transpose(2, 3)


def spread(rows: Tensor, places: Tensor, size: int) -> Tensor:
    """Rows at their places among `size`, zeros elsewhere."""
    return rows.new_zeros(size, *rows.shape[1:]).index_copy_(0, places, rows)


class _Pad(torch.autograd.Function):
    """`spread`. Each place has one row, so that the gradient is a selection; PyTorch would add up rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(places)
        return spread(rows, places, size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None


class _Unpad(torch.autograd.Function):
    """The rows at the given places, the inverse of _Pad."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.size = len(padded)
        return padded.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return spread(gradient, ctx.saved_tensors[0], ctx.size), None


def _with_dropout(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, scaling: float) -> Tensor:
    """Attention as separate operations. With dropout on a CPU, PyTorch does so too, but generates random numbers more
    slowly and checks for fully masked rows.
    """
    scores = (q * scaling) @ k.transpose(2, 3)  # (n_windows, H, length, length)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return drop(scores.softmax(dim=-1), dropout) @ (v / (1 - dropout))


def _flash_attention(value: Tensor, dropout: float) -> Callable[..., Tensor] | None:
    """Flash attention, if it supports these values: half precision on a GPU, no dropout. One call takes windows of all
    lengths.
    """
    size = value.shape[-1]
    suits = (
        value.is_cuda
        and torch.version.hip is None
        and value.dtype in (torch.bfloat16, torch.float16)
        and dropout == 0
        and size % 8 == 0
        and size <= _LARGEST_HEAD
        and torch.backends.cuda.is_flash_attention_available()
        and torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
        and torch.cuda.get_device_capability(value.device) >= _FLASH_CAPABILITY
    )
    return compat.flash_attention() if suits else None


def _band(length: int, sliding_window: int | None, device: torch.device) -> Tensor | None:
    if sliding_window is None or length <= sliding_window:
        return None
    place = torch.arange(length, device=device)
    return (place[:, None] - place[None, :]).abs() < sliding_window
