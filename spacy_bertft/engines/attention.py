"""Attention over windows that lie side by side in one sequence."""

from __future__ import annotations

from collections.abc import Callable
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

Runs = list[tuple[int, int]]  # (number of windows, their length), in the order of the rows


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
    window_runs: Runs,
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
        longest = window_runs[0][1]
        reach = -1 if sliding_window is None else sliding_window - 1  # to either side; -1: unlimited
        bounds = window_bounds, window_bounds, longest, longest
        return flash(q, k, v, *bounds, scale=scaling, window_size=(reach, reach))[None], None
    # One split for all runs: in the backward pass, each separate slice would need a gradient as large as all rows.
    sizes = [n_windows * length for n_windows, length in window_runs]
    of_runs = zip(*(torch.split(states[0], sizes, dim=1) for states in (query, key, value)), strict=True)
    parts = []
    for (n_windows, length), of_run in zip(window_runs, of_runs, strict=True):
        q, k, v = (
            states.reshape(states.shape[0], n_windows, length, -1).transpose(0, 1) for states in of_run
        )  # (n_windows, H, length, D/H)
        mask = _band(length, sliding_window, q.device)
        if 0 < dropout < 1 and v.device.type == "cpu":
            mixed = _with_dropout(q, k, v, mask, dropout, scaling)
        elif v.is_cuda:
            with compat.without_cudnn_attention():
                mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)
        else:
            mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)
        parts.append(mixed.transpose(1, 2).flatten(0, 1))  # (n_windows * length, H, D/H)
    return torch.cat(parts)[None], None


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
    lengths, whereas a call for each length would leave the GPU idle.
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
