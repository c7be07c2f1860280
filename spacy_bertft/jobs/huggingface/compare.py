"""Logits of a head of ours and of transformers' model, on the same subwords."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spacy_bertft.components.head_modules import HiddenHead
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.errors import EncoderError
from spacy_bertft.jobs.export.compare import OWN_TEXTS
from spacy_bertft.tasks.modules import DocHead
from spacy_bertft.text.subwords import Splitter, Texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Both compute in float32, in another order. What they may differ by, as a fraction of the largest logit.
_TOLERANCE = 1e-3


def sample(splitter: Splitter, limit: int | None) -> list[str]:
    """The built-in texts that fit in a window of `limit` subwords."""
    n_special = splitter.specials.count(paired=False)
    counts = splitter.tokenize(OWN_TEXTS).counts + n_special
    return [text for text, count in zip(OWN_TEXTS, counts.tolist(), strict=True) if limit is None or count <= limit]


@torch.no_grad()
def their_logits(model: PreTrainedModel, splitter: Splitter, texts: Sequence[str]) -> list[Tensor]:
    """Logits of transformers' model for each text: (L,), or of each subword with the special ones (N, L)."""
    model.train(False)
    found = []
    for text in texts:
        specials = splitter.specials
        ids = np.concatenate([specials.prefix, splitter.tokenize([text]).ids, specials.suffix])
        rows = torch.from_numpy(ids)[None]
        # ModernBERT's mean in transformers 4 needs the mask.
        output: Any = model(input_ids=rows, attention_mask=torch.ones_like(rows))
        logits = output.logits if "logits" in output else torch.stack([output.start_logits, output.end_logits], dim=2)
        found.append(logits[0].float())
    return found


@torch.no_grad()
def our_logits(encoder: Encoder, head: HiddenHead, texts: Sequence[str]) -> list[Tensor]:
    """The same of a head of ours. Each text has to fit in a window."""
    none = np.zeros(0, dtype=np.int64)
    head.train(False)
    found = []
    for text in texts:
        features = encoder.predict(Texts([text], none, none, np.zeros(1, dtype=np.int64)))
        rows = head(features)[0] if isinstance(head, DocHead) else head.output(head.hidden(features.hidden))
        found.append(rows.float().cpu())
    return found


def largest_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor], order: Sequence[int | None]) -> float | None:
    """The largest difference of logits; None without texts. order: for each of our logits, the place of theirs.

    Raises an EncoderError if it is more than rounding.
    """
    shared = [place for place, other in enumerate(order) if other is not None]
    others = [other for other in order if other is not None]
    pairs = [(mine[..., shared], other[..., others]) for mine, other in zip(ours, theirs, strict=True)]
    if not pairs:
        return None
    largest = max(float((mine - other).abs().max()) for mine, other in pairs)
    size = max(1.0, *(float(other.abs().max()) for _, other in pairs))
    if not largest <= _TOLERANCE * size:
        raise EncoderError(
            f"The logits of the pipeline and of transformers' model differ by {largest:.2g}. Expected the same up to "
            "rounding. The model computes something that this package does not know: use it with transformers."
        )
    return largest
