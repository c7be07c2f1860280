"""Which rows attend to which in one call of attention: runs of neighbouring windows of equal length."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spacy_bertft.engines.attention import runs_of
from spacy_bertft.engines.distances import rows_of
from spacy_bertft.engines.net import Disentangled, DistanceBias
from spacy_bertft.types import Ints

# PyTorch's attention on a CPU processes keys in vectors of 16 floats and the remaining ones one by one, which can
# double the time. So a window's keys are extended to a multiple of this by the rows after them, which are masked. It
# is always those after: a sum over the same keys in other places would be rounded otherwise, and the rows of a text
# would depend on the texts beside it.
_KEY_MULTIPLE = 16
# A batch is filled with idle rows to a multiple of this: oneDNN keeps compiled code for each number of rows, a few
# hundred kilobytes each, and a stream of texts would produce every number.
_ROW_MULTIPLE = 32
# Where attention is local, longer windows than two of these are cut into blocks of queries that read only near keys.
_LEAST_BLOCK = 128
# The most scores whose distances are computed at once, so that they stay in a CPU's caches.
_MOST_SCORES = 2**18


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring windows of equal length, and the rows that their keys are taken from."""

    start: int  # row of the first window
    windows: int
    length: int
    key_start: int
    key_length: int
    mask: Tensor | None  # added to the scores, broadcast to (windows, H, length, key_length); -inf at others' rows
    distance_rows: Tensor | None = None  # (length + key_length - 1,) int64, the row of each distance, ascending

    @property
    def stop(self) -> int:
        """The row after the last window."""
        return self.start + self.windows * self.length

    @property
    def before(self) -> int:
        """Number of rows before a window among its keys."""
        return self.start - self.key_start

    def to(self, dtype: torch.dtype) -> Run:
        """The same with the mask in another precision."""
        return self if self.mask is None else replace(self, mask=self.mask.to(dtype))

    def distances(self) -> Tensor:
        """The distances between its queries and keys, ascending. (length + key_length - 1,)."""
        return torch.arange(1 - self.length, self.key_length) - self.before


def n_idle(lengths: Ints) -> int:
    """Number of idle rows after the windows: at least as many as the keys of the last window are extended by."""
    spare = -int(lengths[-1]) % _KEY_MULTIPLE
    return spare - (int(lengths.sum()) + spare) % -_ROW_MULTIPLE


def plan(lengths: Ints) -> list[Run]:
    """The runs of windows of these lengths, longest first."""
    runs, start = [], 0
    for windows, length in runs_of(lengths):
        key_length, mask = _whole(length), None
        if key_length > length:
            mask = torch.zeros(1, 1, 1, key_length)
            mask[..., length:] = -torch.inf
        runs.append(Run(start, windows, length, start, key_length, mask))
        start += windows * length
    return runs


def plan_local(lengths: Ints, *, reach: int) -> list[Run]:
    """The runs where subwords see each other up to a distance only. Each row is a query of one run."""
    block = max(_LEAST_BLOCK, 2 * reach)
    runs = []
    for run in plan(lengths):
        if run.length <= 2 * block:
            runs.append(_banded(run, reach) if run.length > reach + 1 else run)
            continue
        for number in range(run.windows):
            runs += _blocks(run.start + number * run.length, run.length, block, reach)
    return runs


def _blocks(start: int, length: int, block: int, reach: int) -> list[Run]:
    """The runs of one long window: its first block, those with keys on both sides, and the rest."""
    n_inner = (length - max(reach, 1)) // block - 1
    last = start + (1 + n_inner) * block

    def run(first: int, windows: int, length: int, last_key: int) -> Run:
        """The blocks from a row on. last_key: of the first block."""
        if first == start:
            return Run(first, windows, length, first, _whole(last_key + 1 - first), None)
        n_keys = _whole(last_key + 1 - (first - reach))
        return Run(first, windows, length, last_key + 1 - n_keys, n_keys, None)

    end = start + length
    runs = [
        run(start, 1, block, start + block + reach - 1),
        run(start + block, n_inner, block, start + 2 * block + reach - 1),
        run(last, 1, end - last, end - 1),
    ]
    return [_banded(run, reach) for run in runs]


def _whole(n_keys: int) -> int:
    """At least as many keys, in whole vectors."""
    return n_keys + -n_keys % _KEY_MULTIPLE


def _banded(run: Run, reach: int) -> Run:
    """The run with a mask of everything beyond the reach."""
    band = torch.where(run.distances().abs() <= reach, 0.0, -torch.inf)
    mask = _by_distance(band[None], run)[None]
    return replace(run, mask=mask if run.mask is None else mask + run.mask)


def _by_distance(values: Tensor, run: Run) -> Tensor:
    """Values of run.distances() for each query and key. (H, length + key_length - 1) -> (H, length, key_length)."""
    return values.unfold(1, run.key_length, 1).flip(1)


def biased(runs: list[Run], kind: DistanceBias, biases: Tensor) -> list[Run]:
    """The runs with biases (R, H) of distances in their masks."""

    def with_bias(run: Run) -> Run:
        mask = _by_distance(biases[rows_of(kind, run.distances())].T.contiguous(), run)[None]
        return replace(run, mask=mask if run.mask is None else mask + run.mask)

    return [with_bias(run) for run in runs]


def measured(runs: list[Run], kind: Disentangled, heads: int) -> list[Run]:
    """The runs with the rows of their distances, in parts that don't have too many scores."""
    parts = []
    for run in runs:
        most = max(1, _MOST_SCORES // (heads * run.length * run.key_length))
        rows = rows_of(kind, run.distances())
        for done in range(0, run.windows, most):
            skipped = done * run.length
            parts.append(
                replace(run, start=run.start + skipped, key_start=run.key_start + skipped,
                        windows=min(most, run.windows - done), distance_rows=rows)
            )  # fmt: skip
    return parts
