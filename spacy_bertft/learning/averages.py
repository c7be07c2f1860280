"""Exponential moving averages of trained weights, which take their place for evaluation and saving."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_MAX_DECAY = 0.9999


class Averages:
    """The averages of one module's weights, by thinc's rule, with a count of steps for each weight.

    After step t of a weight w, the average is d * average + (1 - d) * w, with d = min(0.9999, (1 + t) / (10 + t))
    (thinc's Ops.update_averages). thinc starts at 0, which would shrink all weights in the first steps; here the
    average after the first step is the weight itself.
    """

    def __init__(self) -> None:
        self.values: dict[nn.Parameter, Tensor] = {}
        self.counts: dict[nn.Parameter, int] = {}  # steps that are in the average
        self._trained: dict[nn.Parameter, Tensor] = {}  # the weights themselves, while the averages are in their place

    @property
    def in_place(self) -> bool:
        """Whether the module's weights are the averages now."""
        return bool(self._trained)

    def add(self, parameters: Sequence[nn.Parameter]) -> None:
        """Include the weights as they are after a step."""
        at: dict[int, list[nn.Parameter]] = defaultdict(list)  # most often, all have the same count
        for parameter in parameters:
            count = self.counts[parameter] = self.counts.get(parameter, 0) + 1
            if parameter in self.values:
                at[count].append(parameter)
            else:
                self.values[parameter] = parameter.detach().clone()
        with torch.no_grad():
            for count, group in at.items():
                decay = min(_MAX_DECAY, (1 + count) / (10 + count))
                torch._foreach_lerp_([self.values[one] for one in group], [one.detach() for one in group], 1 - decay)

    def trained(self, parameter: nn.Parameter) -> Tensor:
        """A weight as training left it, even while its average is in its place."""
        return self._trained.get(parameter, parameter.detach())

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the weights are the averages; afterwards they are again as before, bit for bit."""
        if self._trained or not self.values:  # an outer block has done it
            yield
            return
        held = self._trained = {parameter: parameter.detach().clone() for parameter in self.values}
        _set(self.values)
        try:
            yield
        finally:
            # If the body raises, spaCy's nlp.use_params leaves its generators suspended until its traceback is
            # dropped. Training may have gone on since, and other averages been swapped in.
            if self._trained is held:
                self.restore()

    def restore(self) -> None:
        """Put the trained weights back, if the averages are in their place."""
        held, self._trained = self._trained, {}
        _set(held)

    def forget_trained(self) -> None:
        """Leave the weights as they are, even if they are averages: others are loaded into the module."""
        self._trained = {}


def _set(values: dict[nn.Parameter, Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in values.items():  # increases their version counters, which engines look at
            parameter.copy_(value)
