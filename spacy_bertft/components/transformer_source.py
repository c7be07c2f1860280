"""Features from spacy-transformers' `transformer` component, for heads in a pipeline without a bertft_encoder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from spacy.language import Language
from spacy.tokens import Doc
from thinc.api import Model, torch2xp, xp2torch
from torch import Tensor

from spacy_bertft.encoder.features import gather
from spacy_bertft.errors import ConfigError
from spacy_bertft.types import Features, Ints

PIPE, _NOWHERE, HIDDEN = "spacy_transformers.pipeline_component", "", "last_hidden_state"


class TransformerSource:
    """A `transformer` component, read by that package's listener, so that it counts the head among its readers."""

    knows_segments = False

    def __init__(self, node: Model[Any, Any]) -> None:
        """node: the listener, a layer of the head's model, by which the component finds the head."""
        self.node = node

    @classmethod
    def of(cls, listener: ModuleType, upstream: str | None) -> TransformerSource:
        """A source for a head. listener: spacy-transformers' module."""
        return cls(listener.TransformerListener("*" if upstream is None else upstream))

    @property
    def linked(self) -> bool:
        """Whether a transformer has found the listener, and so set its width."""
        return bool(self.node.has_dim("nO"))

    def start(self, nlp: Language | None) -> tuple[int, None]:
        """The width of the transformer's rows. There is no pooler."""
        return int(self.node.get_dim("nO")), None

    def read(self, docs: Sequence[Doc], width: int) -> Features:
        """The features of Docs that a transformer of this width has annotated."""
        datas = [getattr(doc._, "trf_data", None) for doc in docs]
        missing = sum(data is None and len(doc) > 0 for doc, data in zip(docs, datas, strict=True))
        if missing:
            raise ConfigError(
                f"Found {missing} Docs that no transformer component has read. Expected one that runs before the head. "
                "Add or enable it; if it is in frozen_components, name it in annotating_components as well."
            )
        return gather([(_features(data, width), 0) for data in datas])

    def learn(self, docs: Sequence[Doc], width: int) -> tuple[Features, Callable[[], None]]:
        """Features to train on, and a function that passes the gradient of their hidden rows to the transformer."""
        if self.node._batch_id is None:  # type: ignore[attr-defined]  # the transformer is not trained
            return self.read(docs, width), lambda: None
        datas, backprop = self.node(list(docs), is_train=True)
        features = gather([(_features(data, width), 0) for data in datas])
        leaf = features.hidden.detach().requires_grad_()

        def send() -> None:
            gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            owners = [data for data in datas if HIDDEN in data.model_output]
            parts = torch.split(gradient, [data.model_output[HIDDEN][..., 0].size for data in owners])
            backprop([_gradient(data, part, self.node.ops.xp) for data, part in zip(owners, parts, strict=True)])

        return replace(features, hidden=leaf), send

    def unlink(self, nlp: Language) -> None:
        """Remove this reader, which has another source now, from the transformers of the pipeline."""
        self.node.upstream_name = _NOWHERE  # type: ignore[attr-defined]
        for _, component in nlp.components:
            if isinstance(component, sys.modules[PIPE].Transformer):
                for name in list(component.listener_map):
                    component.remove_listener(self.node, name)


def _features(data: Any, width: int) -> Features:
    """The features in the TransformerData of one Doc. An empty Doc has no hidden rows."""
    hidden, rows, counts = torch.zeros(0, 1, width), _ints(()), _ints(())
    if data is not None and HIDDEN in data.model_output:
        hidden = xp2torch(data.model_output[HIDDEN]).float()  # (spans, length of the longest, D)
        rows, counts = _ints(data.align.dataXd), _ints(data.align.lengths)  # (P,), (T,)
    n_spans, length, _ = hidden.shape
    return Features(
        hidden=hidden.reshape(-1, width),
        rows=rows,
        subword_counts=np.array([len(rows)]),
        token_subwords=np.arange(len(rows)),  # a token in two spans owns its subwords in both
        token_subword_counts=counts,
        token_counts=np.array([len(counts)]),
        cls_rows=np.arange(n_spans) * length,
        window_counts=np.array([n_spans]),
    )


def _gradient(data: Any, part: Tensor, xp: Any) -> Any:
    """TransformerData with the gradient (rows, D) of one Doc."""
    hidden = data.model_output[HIDDEN]
    gradient = xp.asarray(torch2xp(part.contiguous()), dtype=hidden.dtype).reshape(hidden.shape)
    return replace(data, model_output=type(data.model_output)(last_hidden_state=gradient))


def _ints(array: Any) -> Ints:
    on_cpu = array.get() if hasattr(array, "get") else array  # CuPy's arrays have it
    return np.asarray(on_cpu, dtype=np.int64).reshape(-1)
