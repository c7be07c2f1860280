"""torch modules of heads, for training and for GPUs. On a CPU, heads predict by components/head_inference.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from spacy_bertft.components.hidden_layer import HiddenLayer

_FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "gelu": gelu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
    "relu": relu,
}


class Head(nn.Module):
    """A head's module, Features -> logits. Its last layer is `output`.

    rows: what the rows of its logits are for: each token, each Doc, or first all tokens and then all Docs.
    """

    rows: ClassVar[tuple[Literal["tokens", "docs"], ...]] = ("docs",)
    output: nn.Linear
    n_trained: int | None = None  # outputs that are not of labels added since the last step; None: none were added

    def n_outputs(self, n_labels: int) -> int:
        """The number of logits for `n_labels` labels; labels added later add theirs at the end."""
        return n_labels

    def columns(self, labels: Sequence[str]) -> tuple[str, ...]:
        """What the columns of its logits are for."""
        return tuple(labels)

    def grow(self, n_labels: int) -> None:
        """Make room for added labels: known labels keep their weights, new ones start at random.

        Their biases start at the lowest known one, as if they were the rarest labels: from 0, a label that doesn't
        exclude the others would at first be assigned to every second text.
        """
        old = self.output
        self.n_trained = old.out_features if self.n_trained is None else self.n_trained
        new = new_linear(old.in_features, self.n_outputs(n_labels)).to(old.weight.device)
        with torch.no_grad():
            new.bias.copy_(old.bias.min().clamp(max=0.0))
            new.weight[: old.out_features] = old.weight
            new.bias[: old.out_features] = old.bias
        self.output = new


class HiddenHead(Head):
    """A head with the hidden layer of its settings, and dropout before the output."""

    def __init__(self, width: int, settings: HiddenLayer) -> None:
        super().__init__()
        self.dropout = nn.Dropout()
        self.dense = self.norm = None
        self.function = _FUNCTIONS.get(settings.activation or "")
        if self.function is not None:
            self.dense = new_linear(width, width, bias=settings.hidden_bias)
        if settings.norm_eps is not None:
            self.norm = nn.LayerNorm(width, settings.norm_eps, bias=settings.hidden_bias)

    def hidden(self, vectors: Tensor) -> Tensor:
        """The hidden layer's output; the vectors themselves if there is none. (…, D) -> (…, D)."""
        if self.dense is None or self.function is None:
            return vectors
        values = self.function(self.dense(vectors))
        return values if self.norm is None else self.norm(values)


def new_linear(width: int, n_outputs: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer initialised like BERT's: normal weights of standard deviation 0.02, biases 0."""
    layer = nn.Linear(width, n_outputs, bias=bias)
    nn.init.normal_(layer.weight, std=0.02)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
