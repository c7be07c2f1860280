"""Attention of packed windows on a CPU, without gradients: each window within itself, in the way of its family."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from spacy_bertft.engines.net import Disentangled, DistanceBias, Net, Rotary
from spacy_bertft.engines.runs import Run, biased, measured, plan, plan_local
from spacy_bertft.types import Ints


class Places:
    """What attention needs to know about a batch, the same for all layers of a kind."""

    def __init__(self, net: Net, lengths: Ints, positions: Tensor, *, dtype: torch.dtype) -> None:
        """lengths: of the windows; positions: of all rows, idle ones after the windows included; dtype: of masks."""
        self._net = net
        self._lengths = lengths
        self._positions = positions
        self._dtype = dtype
        self._runs: dict[int | None, list[Run]] = {}
        self._angles: dict[float, tuple[Tensor, Tensor]] = {}

    def runs(self, reach: int | None) -> list[Run]:
        """The runs of layers where subwords see each other up to this distance; None: all of them."""
        if reach not in self._runs:
            self._runs[reach] = [run.to(self._dtype) for run in self._planned(reach)]
        return self._runs[reach]

    def _planned(self, reach: int | None) -> list[Run]:
        net = self._net
        if reach is not None:
            return plan_local(self._lengths, reach=reach)
        runs, kind = plan(self._lengths), net.shape.distances
        if isinstance(kind, DistanceBias) and net.distance_biases is not None:
            return biased(runs, kind, net.distance_biases)
        return measured(runs, kind, net.shape.heads) if isinstance(kind, Disentangled) else runs

    def angles(self, base: float) -> tuple[Tensor, Tensor]:
        """Cosine and sine of each row's angles, for a base. (N, 1, D/H/2) each."""
        if base not in self._angles:
            self._angles[base] = rotary_angles(base, self._net.shape.width // self._net.shape.heads, self._positions)
        return self._angles[base]


def rotary_angles(base: float, size: int, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles at these positions. size: of a head. (N, 1, size/2) each."""
    speeds = 1.0 / (base ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    angles = positions[:, None, None].float() * speeds
    return angles.cos(), angles.sin()


@dataclass(frozen=True, slots=True)
class Attention:
    """How a layer attends."""

    heads: int
    scale: float
    rotary: Rotary | None = None
    position_key: Tensor | None = None  # (R, D) rows of distances as keys, times the scale
    position_query: Tensor | None = None  # (R, D) … as queries

    def __call__(self, query_key_value: Tensor, places: Places) -> Tensor:
        """Attention of each window within itself. (N, 3D), which may be changed in place -> (N, D)."""
        if self.rotary is not None:
            _rotate(query_key_value, *places.angles(self.rotary.base), self.heads)
        runs = places.runs(None if self.rotary is None else self.rotary.reach)
        n_rows, triple = query_key_value.shape
        width = triple // 3
        size = width // self.heads
        mixed = query_key_value.new_empty(n_rows, width)
        mixed[runs[-1].stop :] = 0.0  # idle rows, which must stay finite
        for run in runs:

            def view(rows: int, first_row: int, part: int, run: Run = run) -> Tensor:
                # Windows of `rows` rows, which may reach into the next window: (windows, H, rows, D/H).
                strides = (run.length * triple, size, triple, 1)
                shape = (run.windows, self.heads, rows, size)
                return query_key_value.as_strided(shape, strides, first_row * triple + part)

            query = view(run.length, run.start, 0)
            key = view(run.key_length, run.key_start, width)
            value = view(run.key_length, run.key_start, 2 * width)
            mask = run.mask if run.distance_rows is None else self._distances(query_key_value, run, run.distance_rows)
            of_run = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scale)
            mixed[run.start : run.stop].view(run.windows, run.length, self.heads, size).copy_(of_run.transpose(1, 2))
        return mixed

    def _distances(self, query_key_value: Tensor, run: Run, rows: Tensor) -> Tensor | None:
        """What distances add to the scores of a run, with its mask. (windows, H, length, key_length).

        Each query (and each key) meets all distances of the run in one product, in the order of the keys (queries), so
        that the scores of one window are a view in which each line begins one column before the line above.
        """
        width = query_key_value.shape[1] // 3
        shape = (run.windows, self.heads, run.length, run.key_length)
        total = None
        if self.position_key is not None:
            met = self._met(query_key_value[run.start : run.stop, :width], self.position_key[rows])
            step = met.stride(1)
            strides = (run.length * step, met.stride(0), step - 1, 1)
            total = met.as_strided(shape, strides, run.length - 1)
        if self.position_query is not None:
            stop = run.key_start + (run.windows - 1) * run.length + run.key_length
            met = self._met(query_key_value[run.key_start : stop, width : 2 * width], self.position_query[rows.flip(0)])
            step = met.stride(1)
            strides = (run.length * step, met.stride(0), 1, step - 1)
            towards = met.as_strided(shape, strides, run.key_length - 1)
            total = towards if total is None else total + towards
        if total is None or run.mask is None:
            return run.mask if total is None else total.contiguous()
        return total + run.mask

    def _met(self, rows: Tensor, distances: Tensor) -> Tensor:
        """Products of rows (n, D) and distances (M, D), head by head. (H, n, M)."""
        by_head = rows.view(len(rows), self.heads, -1).transpose(0, 1)  # (H, n, D/H)
        return torch.bmm(by_head, distances.view(len(distances), self.heads, -1).permute(1, 2, 0))


def _rotate(query_key_value: Tensor, cosine: Tensor, sine: Tensor, heads: int) -> None:
    """Turn queries and keys by their angles, in place. The first half of a head's channels pairs with the second."""
    n_rows, triple = query_key_value.shape
    both = query_key_value[:, : triple // 3 * 2].view(n_rows, 2 * heads, -1)  # (N, 2H, D/H)
    first, second = both.chunk(2, dim=-1)
    turned = (first * cosine).addcmul_(second, sine, value=-1)
    second.mul_(cosine).addcmul_(first, sine)
    first.copy_(turned)
