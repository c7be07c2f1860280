"""torch modules of the heads, which are trained, and run on GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from spacy_bertft.components.head_modules import HiddenHead, new_linear
from spacy_bertft.components.hidden_layer import HiddenLayer
from spacy_bertft.encoder.pooling import DocPooling, TokenPooling, doc_vectors, take, token_vectors
from spacy_bertft.tasks.answer_spans import check_first_special
from spacy_bertft.tasks.entity_spans import Scheme, Tagging, n_tags
from spacy_bertft.types import Features


class TokenHead(HiddenHead):
    """A hidden layer, if any, dropout and one linear layer on each token: Features -> logits (T, L), L tags."""

    rows = ("tokens",)

    def __init__(
        self, width: int, n_labels: int, scheme: Scheme, pooling: TokenPooling, hidden: HiddenLayer | None = None
    ) -> None:
        super().__init__(width, hidden or HiddenLayer())
        self.scheme = scheme
        self.pooling = pooling
        self.output = new_linear(width, self.n_outputs(n_labels))

    def n_outputs(self, n_labels: int) -> int:
        """One tag for O and the scheme's prefixes for each label."""
        return n_tags(self.scheme, n_labels)

    def columns(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The tags."""
        return Tagging.of(labels, self.scheme).tags

    def vectors(self, features: Features) -> Tensor:
        """The hidden layer's output for each token. (T, D)."""
        return self.hidden(token_vectors(features, self.pooling))

    def forward(self, features: Features) -> Tensor:
        """Logits of all tokens; those of tokens without a subword mean nothing."""
        if self.training or self.dense is not None:
            logits: Tensor = self.output(self.dropout(self.vectors(features)))
            return logits
        # The same result, but pooling a few logits is faster than pooling wide vectors.
        of_rows = replace(features, hidden=features.hidden @ self.output.weight.T)  # (N, L)
        pooled: Tensor = token_vectors(of_rows, self.pooling) + self.output.bias
        return pooled


class DocHead(HiddenHead):
    """BERT's classification head: a hidden layer, dropout and one linear layer on each Doc. Features -> logits (B, L).

    With "cls" pooling, a hidden layer with tanh starts as the checkpoint's pooler, if any (Devlin et al., 2019, section
    3).
    """

    def __init__(
        self, width: int, n_labels: int, pooling: DocPooling, pooler: nn.Linear | None, hidden: HiddenLayer
    ) -> None:
        super().__init__(width, hidden)
        self.pooling = pooling
        self.output = new_linear(width, n_labels)
        usual = pooling == "cls" and hidden.activation == "tanh" and hidden.hidden_bias
        if pooler is not None and self.dense is not None and usual:
            self.dense.load_state_dict(pooler.state_dict())

    def vectors(self, features: Features) -> Tensor:
        """The hidden layer's output for each Doc. (B, D)."""
        return self.hidden(doc_vectors(features, self.pooling))

    def forward(self, features: Features) -> Tensor:
        """Logits of all Docs; one longer than a window is pooled over its windows."""
        logits: Tensor = self.output(self.dropout(self.vectors(features)))
        return logits


class AnswerHead(HiddenHead):
    """BERT's answer head: start and end logits for each token, and for "no answer" in each Doc.

    Features -> (T + B, 2): tokens first. A token's start logit is from its first subword, its end logit from its last.
    The no-answer logits are the first special subword's (Devlin et al., 2019, section 4.3): the minimum over windows.
    """

    rows = ("tokens", "docs")

    def __init__(self, width: int, hidden: HiddenLayer) -> None:
        super().__init__(width, hidden)
        self.output = new_linear(width, 2)

    def n_outputs(self, n_labels: int) -> int:
        """Two: start and end."""
        return 2

    def columns(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The same two."""
        return "start", "end"

    def forward(self, features: Features) -> Tensor:
        """Logits of all tokens and Docs; those of tokens without a subword are meaningless."""
        check_first_special(features)
        of_rows = replace(features, hidden=self.output(self.dropout(self.hidden(features.hidden))))  # (N, 2)
        starts, ends = token_vectors(of_rows, "first")[:, :1], token_vectors(of_rows, "last")[:, 1:]
        of_windows = take(of_rows.hidden, features.cls_rows)  # (W, 2)
        doc_of = torch.from_numpy(np.repeat(np.arange(len(features.window_counts)), features.window_counts))
        index = doc_of.to(of_windows.device)[:, None].expand(-1, 2)
        of_docs = of_windows.new_zeros(len(features.window_counts), 2)
        of_docs = of_docs.scatter_reduce(0, index, of_windows, "amin", include_self=False)  # (B, 2)
        return torch.cat([torch.cat([starts, ends], dim=1), of_docs])
