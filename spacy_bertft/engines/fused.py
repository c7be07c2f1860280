"""The forward pass for prediction on a CPU: packed, query, key and value in one product, oneDNN weights.

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
from torch.nn.functional import gelu, layer_norm, linear, relu

from spacy_bertft import compat
from spacy_bertft.engines.family_weights import linear_names
from spacy_bertft.engines.fused_attention import Attention, Places
from spacy_bertft.engines.low_rank import LowRank, UpdatedRows, Updates, add_updates
from spacy_bertft.engines.net import Layer, Linear, Net, Norm
from spacy_bertft.engines.runs import n_idle
from spacy_bertft.types import Packed

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
    "relu": relu,
}

_Product = Callable[[Tensor], Tensor]
_Sum = Callable[[Tensor, Tensor], Tensor]  # a product, plus (or times) the second argument
_Parts = Mapping[str, LowRank]  # the updates of one layer, by the fields of Layer
# Where the outputs of a part begin in the joint product, in widths.
_JOINT = {"query_key_value": 0, "query": 0, "key": 1, "value": 2}


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """The products of one layer, and what comes between them."""

    attention_norm: Norm | None
    query_key_value: _Product
    attend: Attention
    out: _Sum
    out_norm: Norm | None
    up_norm: Norm | None
    up: _Product  # with the activation
    gate: _Sum | None  # times what `up` gives
    down: _Sum
    down_norm: Norm | None


class FusedEngine:
    """Runs a Net."""

    padded = False
    budget = 2048

    def __init__(self, net: Net, *, half: bool = False) -> None:
        """half: multiply in bfloat16."""
        self.net = net
        self.dtype = torch.bfloat16 if half else torch.float32
        made = {id(layer): self._layer(layer) for layer in net.layers}
        self.layers = [made[id(layer)] for layer in net.layers]  # layers that share weights have them once

    def _layer(self, layer: Layer) -> FusedLayer:
        return FusedLayer(
            attention_norm=layer.attention_norm,
            query_key_value=self._product(layer.query_key_value()),
            attend=self._attention(layer),
            out=self._sum(layer.out),
            out_norm=layer.out_norm,
            up_norm=layer.up_norm,
            up=self._product(layer.up, self.net.shape.activation),
            gate=None if layer.gate is None else self._times(layer.gate),
            down=self._sum(layer.down),
            down_norm=layer.down_norm,
        )

    def _product(self, one: Linear, activation: str = "none") -> _Product:
        weight, bias = one.weight.detach().to(self.dtype), one.bias.detach().to(self.dtype)
        return compat.fast_linear(weight, bias, activation, rows=self.budget)

    def _sum(self, one: Linear) -> _Sum:
        if self.dtype == torch.bfloat16:  # oneDNN would round the sum to the precision of its inputs
            product = self._product(one)
            return lambda x, other: other + product(x)
        return compat.fast_linear_with("add", one.weight.detach(), one.bias.detach(), rows=self.budget)

    def _times(self, one: Linear) -> _Sum:
        weight, bias = one.weight.detach().to(self.dtype), one.bias.detach().to(self.dtype)
        return compat.fast_linear_with("mul", weight, bias, rows=self.budget)

    @torch.no_grad()
    def _attention(self, layer: Layer, parts: _Parts | None = None) -> Attention:
        """How a layer attends, if it has these updates."""
        shape, distances = self.net.shape, self.net.distances

        def projected(part: str, one: Linear | None) -> Tensor | None:
            if one is None or distances is None:
                return None
            rows = linear(distances, one.weight, one.bias)
            updated = add_updates(distances, rows, [UpdatedRows(0, parts[part])] if parts and part in parts else [])
            return updated.mul_(shape.scale).to(self.dtype)

        return Attention(
            shape.heads,
            shape.scale,
            layer.rotary,
            projected("position_key", layer.position_key),
            projected("position_query", layer.position_query),
        )

    @cached_property
    def _plain_ups(self) -> list[_Product]:
        """Each layer's product `up` without its activation, for updates that come between the two."""
        made = {id(layer): self._product(layer.up) for layer in self.net.layers}
        return [made[id(layer)] for layer in self.net.layers]

    def adapted(self, updates: Updates) -> FusedEngine:
        """An engine with low-rank updates, which shares everything else with this one."""
        engine = copy(self)
        engine.layers = []
        for number, names in enumerate(linear_names(self.net.shape)):
            engine.layers.append(
                self._adapted(number, {part: updates[name] for part, name in names.items() if name in updates})
            )
        return engine

    def _adapted(self, number: int, updates: _Parts) -> FusedLayer:
        """A layer with low-rank updates."""
        layer, plain, shape = self.layers[number], self.net.layers[number], self.net.shape
        parts = {part: update.to(self.dtype) for part, update in updates.items()}
        joint = [UpdatedRows(place * shape.width, parts[part])
                 for part, place in _JOINT.items() if part in parts]  # fmt: skip
        of_up, of_gate = _whole(parts, "up"), []
        if "up_gate" in parts:
            of_up, of_gate = ([UpdatedRows(0, half)] for half in parts["up_gate"].split(2))
        up, gate, attend = layer.up, layer.gate, layer.attend
        if of_up:
            up = _with(self._plain_ups[number], of_up, _ACTIVATIONS[shape.activation])
        if of_gate and plain.gate is not None:
            gate = _times_with(self._product(plain.gate), of_gate)
        if parts.keys() & {"position_key", "position_query"}:
            attend = self._attention(plain, updates)
        return replace(
            layer,
            query_key_value=_with(layer.query_key_value, joint),
            attend=attend,
            out=_sum_with(layer.out, _whole(parts, "out")),
            up=up,
            gate=gate,
            down=_sum_with(layer.down, _whole(parts, "down")),
        )

    def layer_rows(self, packed: Packed, depth: int | None = None) -> list[Tensor]:
        """What the lowest layer reads, then the rows after each layer. (N, D) each."""
        below: list[Tensor] = []
        last = self(packed, below, depth)
        return [*(rows[: len(last)] for rows in below), last]

    @torch.no_grad()
    def __call__(self, packed: Packed, below: list[Tensor] | None = None, depth: int | None = None) -> Tensor:
        """Run one forward pass; attention stays within each window. -> (N, D) float32.

        below: gets what each layer reads. depth: how many layers to run; None: all, and the norm after them.
        """
        net, eps = self.net, self.net.shape.eps
        idle = (0, n_idle(packed.lengths))
        hidden = _normalise(self._embed(packed, idle), net.norm, eps)
        if net.project is not None:
            hidden = linear(hidden, net.project.weight, net.project.bias)  # (N, D)
        places = Places(net, packed.lengths, torch.from_numpy(np.pad(packed.positions, idle)), dtype=self.dtype)
        for layer in self.layers[:depth]:
            if below is not None:
                below.append(hidden)
            rows = _normalise(hidden, layer.attention_norm, eps).to(self.dtype)
            mixed = layer.attend(layer.query_key_value(rows), places)
            hidden = _normalise(layer.out(mixed, hidden), layer.out_norm, eps)
            rows = _normalise(hidden, layer.up_norm, eps).to(self.dtype)
            inner = layer.up(rows) if layer.gate is None else layer.gate(rows, layer.up(rows))
            hidden = _normalise(layer.down(inner, hidden), layer.down_norm, eps)
        return _normalise(hidden, net.final_norm if depth is None else None, eps)[: len(packed.ids)]

    def _embed(self, packed: Packed, idle: tuple[int, int]) -> Tensor:
        """The sums of all embeddings, and some of idle rows. (N + idle, E)."""
        net = self.net
        hidden = net.words[torch.from_numpy(np.pad(packed.ids, idle))]
        if net.positions is not None:
            hidden += net.positions.flatten(0, 1)[torch.from_numpy(np.pad(net.position_rows(packed), idle))]
        return hidden


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


def _times_with(product: _Product, updates: list[UpdatedRows]) -> _Sum:
    return lambda x, other: add_updates(x, product(x), updates).mul_(other)


def _normalise(hidden: Tensor, norm: Norm | None, eps: float) -> Tensor:
    return hidden if norm is None else layer_norm(hidden, norm.weight.shape, norm.weight, norm.bias, eps)
