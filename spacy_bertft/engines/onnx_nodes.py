"""Collects what an ONNX graph is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spacy_bertft.engines.int8 import quantise_rows
from spacy_bertft.engines.net import Activation, Linear, Norm
from spacy_bertft.types import Floats

MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators
FLOAT, INT32, INT64 = 1, 6, 7  # ONNX's type codes

_ACTIVATIONS = {"gelu": ("Gelu", MICROSOFT), "gelu_tanh": ("FastGelu", MICROSOFT), "relu": ("Relu", "")}


class Graph:
    """Nodes and constants. Each method returns the name of what it adds."""

    def __init__(self, *, int8: bool) -> None:
        """int8: keep embeddings of words in 8 bits."""
        self.int8 = int8
        self.nodes: list[dict[str, Any]] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def constant(self, name: str, values: Any) -> str:
        """Add a constant, unless it exists already."""
        self.constants.setdefault(name, np.asarray(values, order="C"))
        return name

    def floats(self, name: str, tensor: Tensor) -> str:
        """Add a float32 constant."""
        return self.constant(name, as_floats(tensor))

    def ints(self, name: str, values: int | list[int]) -> str:
        """Add an int64 constant."""
        return self.constant(name, np.array(values, dtype=np.int64))

    def add(
        self, kind: str, *inputs: str, domain: str = "", outputs: list[str] | None = None, **attributes: Any
    ) -> str:
        """Add a node and return the name of its first output. outputs: their names, if they need special ones."""
        name = f"{kind}_{len(self.nodes)}"
        outputs = outputs or [name]
        self.nodes.append(
            {"op_type": kind, "inputs": inputs, "outputs": outputs, "name": name, "domain": domain, **attributes}
        )
        return outputs[0]

    def linear(self, name: str, rows: str, one: Linear) -> str:
        """Add a product with bias in float32. (N, in) -> (N, out)."""
        bias = self.floats(f"{name}.bias", one.bias)
        return self.add("Gemm", rows, self.constant(f"{name}.weight", as_floats(one.weight).T), bias)

    def activate(self, activation: Activation, rows: str) -> str:
        """Add the activation between `up` and `down`."""
        kind, domain = _ACTIVATIONS[activation]
        return self.add(kind, rows, domain=domain)

    def embed(self, name: str, ids: str, table: Tensor) -> str:
        """Look up rows of a table. (N,) -> (N, E)."""
        if not self.int8:
            return self.add("Gather", self.floats(name, table), ids)
        whole, scale = quantise_rows(as_floats(table))
        values = self.add("Gather", self.constant(name, whole), ids)
        scales = self.add("Gather", self.constant(f"{name}.scales", scale[:, None]), ids)  # (N, 1)
        return self.add("Mul", self.add("Cast", values, to=FLOAT), scales)

    def normalise(self, name: str, rows: str, norm: Norm | None, eps: float) -> str:
        """Add a LayerNorm, if there is one. (N, D)."""
        if norm is None:
            return rows
        weight, bias = self.floats(f"{name}.weight", norm.weight), self.floats(f"{name}.bias", norm.bias)
        return self.add("LayerNormalization", rows, weight, bias, epsilon=eps)


def as_floats(tensor: Tensor) -> Floats:
    """A tensor's values, in float32."""
    array: Floats = tensor.detach().float().cpu().numpy()
    return array
