"""The BERT family's forward pass for prediction on a CPU: packed, query, key and value in one product, oneDNN weights.

Computes the same sums as transformers' model in another order, so results agree up to float32 rounding. No gradients.
In bfloat16 only the matrix products, attention and the activation are computed in bfloat16, from weights that are kept
in it; the sums between them, the norms and the embeddings are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, relu, scaled_dot_product_attention

from spacy_bertft import compat
from spacy_bertft.engines.attention import runs_of
from spacy_bertft.engines.family_weights import Linear, Net, Norm, linear_names
from spacy_bertft.engines.low_rank import LowRank, UpdatedRows, Updates, add_updates
from spacy_bertft.text.batches import positions
from spacy_bertft.types import Ints, Packed

# PyTorch's attention on a CPU processes keys in vectors of 16 floats and the remaining ones one by one, which can
# double the time. So a window's keys are extended to a multiple of this by the rows behind them, which are masked. It
# is always those behind: a sum over the same keys in other places would be rounded otherwise, and the rows of a text
# would depend on the texts beside it.
_KEY_MULTIPLE = 16
# A batch is filled with idle rows to a multiple of this: oneDNN keeps compiled code for each number of rows, a few
# hundred kilobytes each, and a stream of texts would produce every number.
_ROW_MULTIPLE = 32
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
    "relu": relu,
}

_Product = Callable[[Tensor], Tensor]
_Sum = Callable[[Tensor, Tensor], Tensor]  # a product, plus the second argument
_Parts = Mapping[str, LowRank]  # the updates of one layer, by the fields of Layer


@dataclass(frozen=True, slots=True)
class _Layer:
    query_key_value: _Product
    out: _Sum
    out_norm: Norm
    up: _Product  # with the activation
    down: _Sum
    down_norm: Norm


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring windows of equal length, each with the rows that its keys are taken from."""

    start: int  # row of the first window
    windows: int
    length: int
    key_length: int
    mask: Tensor | None  # (1, 1, 1, key_length), -inf at the rows behind the window

    @property
    def stop(self) -> int:
        """The row after the last window."""
        return self.start + self.windows * self.length


class FusedEngine:
    """Runs a Net."""

    padded = False
    budget = 2048

    def __init__(self, net: Net, *, half: bool = False) -> None:
        """half: multiply in bfloat16."""
        self.net = net
        self.dtype = torch.bfloat16 if half else torch.float32
        self.layers = [
            _Layer(
                self._product(layer.query_key_value()),
                self._sum(layer.out),
                layer.out_norm,
                self._product(layer.up, net.shape.activation),
                self._sum(layer.down),
                layer.down_norm,
            )
            for layer in net.layers
        ]

    def _product(self, one: Linear, activation: str = "none") -> _Product:
        weight, bias = one.weight.detach().to(self.dtype), one.bias.detach().to(self.dtype)
        return compat.fast_linear(weight, bias, activation, rows=self.budget)

    def _sum(self, one: Linear) -> _Sum:
        if self.dtype == torch.bfloat16:  # oneDNN would round the sum to the precision of its inputs
            product = self._product(one)
            return lambda x, other: other + product(x)
        return compat.fast_linear_sum(one.weight.detach(), one.bias.detach(), rows=self.budget)

    @cached_property
    def _plain_ups(self) -> list[_Product]:
        """Each layer's product `up` without its activation, for updates that come between the two."""
        return [self._product(layer.up) for layer in self.net.layers]

    def adapted(self, updates: Updates) -> FusedEngine:
        """An engine with low-rank updates, which shares everything else with this one."""
        shape = self.net.shape
        engine = copy(self)
        engine.layers = []
        for number, (layer, names) in enumerate(zip(self.layers, linear_names(shape), strict=True)):
            parts = {part: updates[name].to(self.dtype) for part, name in names.items() if name in updates}
            joint = [UpdatedRows(place * shape.width, parts[part])
                     for place, part in enumerate(("query", "key", "value")) if part in parts]  # fmt: skip
            up = layer.up
            if "up" in parts:
                up = _with(self._plain_ups[number], [UpdatedRows(0, parts["up"])], _ACTIVATIONS[shape.activation])
            engine.layers.append(
                replace(
                    layer,
                    query_key_value=_with(layer.query_key_value, joint),
                    out=_sum_with(layer.out, _whole(parts, "out")),
                    up=up,
                    down=_sum_with(layer.down, _whole(parts, "down")),
                )
            )
        return engine

    @torch.no_grad()
    def __call__(self, packed: Packed) -> Tensor:
        """Run one forward pass; attention stays within each window. -> (N, D) float32."""
        net = self.net
        idle = (0, _n_idle(packed.lengths))
        places = positions(packed, net.shape.first_position)
        hidden = net.words[torch.from_numpy(np.pad(packed.ids, idle))]  # (N + idle, E)
        if packed.segments is not None and len(net.positions) > 1:
            places = places + packed.segments * net.positions.shape[1]
        hidden += net.positions.flatten(0, 1)[torch.from_numpy(np.pad(places, idle))]
        hidden = _normalise(hidden, net.norm, net.shape.eps)
        if net.project is not None:
            hidden = linear(hidden, net.project.weight, net.project.bias)  # (N, D)
        runs = _plan(packed.lengths, self.dtype)
        for layer in self.layers:
            mixed = _attend(layer.query_key_value(hidden.to(self.dtype)), runs, net.shape.heads)
            hidden = _normalise(layer.out(mixed, hidden), layer.out_norm, net.shape.eps)
            inner = layer.up(hidden.to(self.dtype))  # (N, F)
            hidden = _normalise(layer.down(inner, hidden), layer.down_norm, net.shape.eps)
        return hidden[: len(packed.ids)]


def _whole(parts: _Parts, part: str) -> list[UpdatedRows]:
    return [UpdatedRows(0, parts[part])] if part in parts else []


def _with(product: _Product, updates: list[UpdatedRows], activation: _Product | None = None) -> _Product:
    """A product with low-rank updates, then an activation."""
    if not updates:
        return product

    def run(hidden: Tensor) -> Tensor:
        updated = add_updates(hidden, product(hidden), updates)
        return updated if activation is None else activation(updated)

    return run


def _sum_with(product: _Sum, updates: list[UpdatedRows]) -> _Sum:
    return (lambda x, other: add_updates(x, product(x, other), updates)) if updates else product


def _normalise(hidden: Tensor, norm: Norm, eps: float) -> Tensor:
    return layer_norm(hidden, norm.weight.shape, norm.weight, norm.bias, eps)


def _n_idle(lengths: Ints) -> int:
    """Number of idle rows after the windows: at least as many as the keys of the last window are extended by."""
    spare = -int(lengths[-1]) % _KEY_MULTIPLE
    return spare - (int(lengths.sum()) + spare) % -_ROW_MULTIPLE


def _plan(lengths: Ints, dtype: torch.dtype) -> list[_Run]:
    """The rows that attention reads for each run of windows. dtype: of the masks."""
    runs, start = [], 0
    for windows, length in runs_of(lengths):
        key_length, mask = length - length % -_KEY_MULTIPLE, None
        if key_length > length:
            mask = torch.zeros(1, 1, 1, key_length, dtype=dtype)
            mask[..., length:] = -torch.inf
        runs.append(_Run(start, windows, length, key_length, mask))
        start += windows * length
    return runs


def _attend(query_key_value: Tensor, runs: list[_Run], heads: int) -> Tensor:
    """Attention of each window within itself. (N, 3D) -> (N, D)."""
    n_rows, triple = query_key_value.shape
    width = triple // 3
    size = width // heads
    mixed = query_key_value.new_empty(n_rows, width)
    mixed[runs[-1].stop :] = 0.0  # idle rows, which must stay finite
    for run in runs:

        def view(rows: int, part: int, run: _Run = run) -> Tensor:
            # Windows of `rows` rows, which may reach into the next window: (windows, H, rows, D/H).
            strides = (run.length * triple, size, triple, 1)
            return query_key_value.as_strided((run.windows, heads, rows, size), strides, run.start * triple + part)

        query, key, value = view(run.length, 0), view(run.key_length, width), view(run.key_length, 2 * width)
        of_run = scaled_dot_product_attention(query, key, value, attn_mask=run.mask)
        mixed[run.start : run.stop].view(run.windows, run.length, heads, size).copy_(of_run.transpose(1, 2))
    return mixed
