"""The BERT family's forward and backward pass for training on a CPU: packed, and with few passes over the memory.

Computes the same gradients as transformers' model, up to rounding. In bfloat16 only the matrix products, attention and
the activation are computed in bfloat16; the sums between them, the norms and all weights are float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding, gelu, layer_norm, linear, relu

from spacy_bertft.engines.attention import Group, groups_of, spread
from spacy_bertft.engines.dropout import drop, kept
from spacy_bertft.engines.family_dropouts import Dropouts, LayerDropouts
from spacy_bertft.engines.net import Activation, Layer, Net
from spacy_bertft.types import Packed

# In bfloat16, a batch is filled with idle rows to a multiple of this: oneDNN keeps code for each number of rows.
_ROW_MULTIPLE = 16
# In the highest layer, the backward pass leaves out rows without a gradient if there are at least so many of them.
_LEAST_UNREAD = 0.1


class FusedTrainingEngine:
    """Runs a Net of parameters, and lets gradients reach them."""

    padded = False
    budget = 1024  # few enough for the caches

    def __init__(self, net: Net, words: nn.Embedding, dropouts: Dropouts, *, half: bool) -> None:
        """words: the module of the net's words, which says how their gradient is kept."""
        self.net = net
        self.words = words
        self.dropouts = dropouts
        self.dtype = torch.bfloat16 if half else torch.float32

    def __call__(self, packed: Packed) -> Tensor:
        """Run one forward pass; attention stays within each window. -> (N, D) float32."""
        return self.layer_rows(packed)[-1]

    def layer_rows(self, packed: Packed, depth: int | None = None) -> list[Tensor]:
        """The same, but what the lowest layer reads, then the rows after each layer. (N, D) each."""
        net, shape = self.net, self.net.shape
        groups = groups_of(packed.lengths, net.words.device)
        idle = -len(packed.ids) % _ROW_MULTIPLE if self.dtype == torch.bfloat16 else 0
        hidden = _drop(self._embed(packed, idle), self.dropouts.embeddings)
        if net.project is not None:
            hidden = linear(hidden, net.project.weight, net.project.bias)  # (N, D)
        found = [hidden]
        for layer, dropouts in zip(net.layers[:depth], self.dropouts.layers[:depth], strict=True):
            three = (layer.query, layer.key, layer.value)
            joint = _Joint.apply(found[-1], self.dtype, *(one.weight for one in three), *(one.bias for one in three))  # type: ignore[no-untyped-call]
            mixed = _Attention.apply(joint, groups, shape.heads, dropouts.attention)  # type: ignore[no-untyped-call]
            settings = _Settings(shape.activation, shape.eps, dropouts, layer is net.layers[-1])
            found.append(_AfterAttention.apply(mixed, found[-1], settings, *_weights(layer)))  # type: ignore[no-untyped-call]
        return [rows[: len(packed.ids)] for rows in found]

    def _embed(self, packed: Packed, idle: int) -> Tensor:
        """The normalised embeddings, and some of idle rows. (N + idle, E)."""
        net = self.net
        assert net.positions is not None  # all families of engines/family_dropouts.py have them
        ids, rows = (torch.from_numpy(np.pad(array, (0, idle))) for array in (packed.ids, net.position_rows(packed)))
        summed = self.words(ids) + embedding(rows, net.positions.flatten(0, 1))
        return layer_norm(summed, net.norm.weight.shape, net.norm.weight, net.norm.bias, net.shape.eps)


def _drop(values: Tensor, probability: float) -> Tensor:
    if 0 < probability < 1:
        return drop(values, probability) * (1 / (1 - probability))
    return dropout(values, probability) if probability else values


def _weights(layer: Layer) -> tuple[Tensor, ...]:
    """What _AfterAttention multiplies by and adds."""
    parts = (layer.out, layer.out_norm, layer.up, layer.down, layer.down_norm)
    return tuple(tensor for part in parts if part is not None for tensor in (part.weight, part.bias))


class _Joint(torch.autograd.Function):
    """Several linear maps of the same rows as one product."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, dtype: torch.dtype, *weights_biases: Tensor) -> Tensor:
        half = len(weights_biases) // 2
        rows = hidden.to(dtype)
        weight = torch.cat([one.detach().to(dtype) for one in weights_biases[:half]])
        bias = torch.cat(weights_biases[half:]).to(dtype)
        ctx.sizes = [len(one) for one in weights_biases[half:]]
        ctx.save_for_backward(rows, weight)
        return linear(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        needs_hidden, _, *needed = ctx.needs_input_grad
        of_hidden = (gradient @ weight).float() if needs_hidden else None
        of_weights: Any = (None,) * len(ctx.sizes)
        of_biases = of_weights
        if any(needed):
            of_weights = torch.split((gradient.t() @ rows).float(), ctx.sizes)
            of_biases = torch.split(gradient.sum(0).float(), ctx.sizes)
        return of_hidden, None, *of_weights, *of_biases


class _Attention(torch.autograd.Function):
    """Attention of each window within itself. (N, 3D) query, key and value; groups; heads; dropout -> (N, D).

    Rows after the groups are idle.
    """

    @staticmethod
    def forward(ctx: Any, joint: Tensor, groups: list[Group], heads: int, probability: float) -> Tensor:
        three = joint.view(len(joint), 3, heads, -1)
        size = three.shape[-1]
        ctx.groups, ctx.heads, ctx.factor = groups, heads, 1 / (1 - probability)
        parts, saved = [], []
        for group, rows in zip(groups, _split(three, groups), strict=True):
            padded = rows if group.places is None else spread(rows, group.places, group.windows * group.length)
            by_window = padded.view(group.windows, group.length, 3, heads, size).permute(2, 0, 3, 1, 4)
            # Each (windows * H, length, D/H).
            states = by_window.reshape(3, group.windows * heads, group.length, size)
            query, key, value = states
            scores = (query * size**-0.5) @ key.transpose(1, 2)
            if group.mask is not None:
                bias = scores.new_zeros(group.mask.shape).masked_fill_(~group.mask, -torch.inf)
                scores.view(group.windows, heads, group.length, group.length).add_(bias)
            shares = scores.softmax(dim=-1)
            mask = kept(shares.shape, probability) if probability else None
            mixed = _masked(shares, mask) @ value
            if mask is not None:
                mixed.mul_(ctx.factor)
            parts.append(_rows_of(mixed.view(1, group.windows, heads, group.length, size), group))
            saved += [states, shares, mask]
        ctx.save_for_backward(*saved)
        return _joined(parts, len(joint))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        parts, heads, saved = [], ctx.heads, ctx.saved_tensors  # read once: more is an error under recomputation
        split = _split(gradient.view(len(gradient), heads, -1), ctx.groups)
        for number, (group, rows) in enumerate(zip(ctx.groups, split, strict=True)):
            states, shares, mask = saved[3 * number : 3 * number + 3]
            query, key, value = states
            size = query.shape[-1]
            padded = rows if group.places is None else spread(rows, group.places, group.windows * group.length)
            by_window = padded.view(group.windows, group.length, heads, size).transpose(1, 2)
            of_mixed = by_window.reshape(-1, group.length, size)
            if mask is not None:
                of_mixed = of_mixed * ctx.factor
            of_shares = _masked(of_mixed @ value.transpose(1, 2), mask)
            of_scores = torch.ops.aten._softmax_backward_data(of_shares, shares, -1, shares.dtype).mul_(size**-0.5)
            of_states = torch.empty_like(states)
            torch.bmm(of_scores, key, out=of_states[0])
            torch.bmm(of_scores.transpose(1, 2), query, out=of_states[1])
            torch.bmm(_masked(shares, mask).transpose(1, 2), of_mixed, out=of_states[2])
            parts.append(_rows_of(of_states.view(3, group.windows, heads, group.length, size), group))
        return _joined(parts, len(gradient)), None, None, None


def _split(rows: Tensor, groups: list[Group]) -> tuple[Tensor, ...]:
    sizes = [group.rows for group in groups]
    return torch.split(rows[: sum(sizes)], sizes)


def _joined(parts: list[Tensor], n_rows: int) -> Tensor:
    """The rows of all groups, and zeros for the idle ones."""
    idle = n_rows - sum(map(len, parts))
    return torch.cat([*parts, parts[0].new_zeros(idle, parts[0].shape[1])] if idle else parts)


def _masked(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values * mask.to(values.dtype)


def _rows_of(by_window: Tensor, group: Group) -> Tensor:
    """The rows of windows, without padding. (n, windows, H, length, D/H) -> (rows, n * D)."""
    rows = by_window.permute(1, 3, 0, 2, 4).reshape(group.windows * group.length, -1)
    return rows if group.places is None else rows.index_select(0, group.places)


@dataclass(frozen=True, slots=True)
class _Settings:  # of _AfterAttention
    activation: Activation
    eps: float
    dropouts: LayerDropouts
    is_highest: bool  # whether heads read the result, and no other layer


class _AfterAttention(torch.autograd.Function):
    """What a layer does to each row by itself: linear map, sum and norm; feed-forward net, sum and norm.

    (N, D) of attention, (N, D) of the layer below -> (N, D) float32.
    """

    @staticmethod
    def forward(ctx: Any, mixed: Tensor, hidden: Tensor, settings: _Settings, *weights: Tensor) -> Tensor:
        out, out_bias, norm, norm_bias, up, up_bias, down, down_bias, norm2, norm2_bias = weights
        dtype, width = mixed.dtype, norm.shape
        out, out_bias, up, up_bias, down, down_bias = (
            one.detach().to(dtype) for one in (out, out_bias, up, up_bias, down, down_bias)
        )
        first, kept_out = _add_dropped(hidden, linear(mixed, out, out_bias), settings.dropouts.out)
        middle, mean, rstd = torch.native_layer_norm(first, width, norm, norm_bias, settings.eps)
        rows = middle.to(dtype)
        inner = linear(rows, up, up_bias)
        active = _activate(inner, settings.activation)
        second, kept_down = _add_dropped(middle, linear(active, down, down_bias), settings.dropouts.down)
        result, mean2, rstd2 = torch.native_layer_norm(second, width, norm2, norm2_bias, settings.eps)
        ctx.settings = settings
        ctx.save_for_backward(
            *(mixed, first, mean, rstd, rows, inner, active, second, mean2, rstd2, kept_out, kept_down),
            *(out, norm, norm_bias, up, down, norm2, norm2_bias),
        )
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        settings, saved = ctx.settings, ctx.saved_tensors
        by_row, weights = saved[:12], saved[12:]
        read = _rows_read(gradient) if settings.is_highest else None
        if read is None:
            of_mixed, of_hidden, *of_weights = _backward(gradient, settings, by_row, weights, ctx.needs_input_grad[3:])
        else:
            some = [None if one is None else one.index_select(0, read) for one in by_row]
            found = _backward(gradient[read], settings, some, weights, ctx.needs_input_grad[3:])
            of_mixed, of_hidden = (None if one is None else spread(one, read, len(gradient)) for one in found[:2])
            of_weights = found[2:]
        return of_mixed, of_hidden, None, *of_weights


def _rows_read(gradient: Tensor) -> Tensor | None:
    """The rows that have a gradient; None if most have.

    A head may read a single row of each text, and the rows of this block depend on no others.
    """
    read = (gradient != 0).any(dim=1).nonzero().flatten()
    return read if len(read) <= (1 - _LEAST_UNREAD) * len(gradient) else None


def _backward(
    gradient: Tensor, settings: _Settings, by_row: Any, weights: Any, needed: tuple[bool, ...]
) -> list[Tensor | None]:
    """The gradients of both inputs of _AfterAttention and of its weights, in their order."""
    mixed, first, mean, rstd, rows, inner, active, second, mean2, rstd2, kept_out, kept_down = by_row
    out, norm, norm_bias, up, down, norm2, norm2_bias = weights
    normalised = torch.ops.aten.native_layer_norm_backward
    every = [True, True, True]
    of_second, of_norm2, of_norm2_bias = normalised(
        gradient, second, norm.shape, mean2, rstd2, norm2, norm2_bias, every
    )
    of_product = _of_dropped(of_second, kept_down, settings.dropouts.down, mixed.dtype)
    of_down = _of_linear(of_product, active, needed[6:8])
    of_inner = _of_activation(of_product @ down, inner, settings.activation)
    of_up = _of_linear(of_inner, rows, needed[4:6])
    of_middle = of_second.add_(of_inner @ up)
    of_first, of_norm, of_norm_bias = normalised(of_middle, first, norm.shape, mean, rstd, norm, norm_bias, every)
    of_product = _of_dropped(of_first, kept_out, settings.dropouts.out, mixed.dtype)
    of_out = _of_linear(of_product, mixed, needed[:2])
    return [
        *(of_product @ out, of_first, *of_out, of_norm, of_norm_bias, *of_up, *of_down),
        *(of_norm2, of_norm2_bias),
    ]


def _of_linear(gradient: Tensor, rows: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of a linear map's weight and bias."""
    weight = (gradient.t() @ rows).float() if needed[0] else None
    return weight, gradient.sum(0).float() if needed[1] else None


def _add_dropped(hidden: Tensor, product: Tensor, probability: float) -> tuple[Tensor, Tensor | None]:
    """The sum of rows and of others after dropout, and which numbers it kept; None: all. float32."""
    if not 0 < probability < 1:
        return hidden + product, None
    mask = kept(product.shape, probability)
    return torch.add(hidden, product.float().mul_(mask.float()), alpha=1 / (1 - probability)), mask


def _of_dropped(gradient: Tensor, mask: Tensor | None, probability: float, dtype: torch.dtype) -> Tensor:
    """The gradient of what _add_dropped has added."""
    return gradient.to(dtype) if mask is None else (mask.float().mul_(gradient).mul_(1 / (1 - probability))).to(dtype)


def _activate(inner: Tensor, activation: Activation) -> Tensor:
    return relu(inner) if activation == "relu" else gelu(inner, approximate=_APPROXIMATE[activation])


def _of_activation(gradient: Tensor, inner: Tensor, activation: Activation) -> Tensor:
    if activation == "relu":
        return gradient * (inner > 0)
    found: Tensor = torch.ops.aten.gelu_backward(gradient, inner, approximate=_APPROXIMATE[activation])
    return found


_APPROXIMATE = {"gelu": "none", "gelu_tanh": "tanh"}
