"""Predict the masked words of texts with a masked language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from spacy_bertft.encoder.masked_lm import MaskedModel, load_masked, mask_id
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.errors import EncoderError
from spacy_bertft.text.subwords import Texts


@dataclass(frozen=True, slots=True)
class Candidate:
    """A subword that may fill a mask."""

    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Filled:
    """A mask in a text, with its candidates."""

    start: int  # first character
    end: int  # character after the last
    candidates: tuple[Candidate, ...]  # the likeliest first


class FillMask:
    """Fills masks with a masked language model."""

    def __init__(self, model: MaskedModel) -> None:
        self.model = model.eval()
        self.mask = mask_id(model.encoder)

    @classmethod
    def load(cls, name: str, settings: EncoderSettings | None = None, *, revision: str = "main") -> FillMask:
        """Load the model from a Hugging Face folder, an installed package or the hub."""
        model = load_masked(name, settings or EncoderSettings(), revision=revision)
        if model.missing:
            raise EncoderError(
                f"{name!r} has no trained head for masked words (it lacks {', '.join(model.missing[:4])}). Expected a "
                "masked language model, such as bert-base-cased or the output of `bertft adapt`. Name another one."
            )
        return cls(model)

    def fill(self, texts: Sequence[str], *, top: int = 5) -> list[list[Filled]]:
        """The masks of each text, in order, with the `top` likeliest subwords for each."""
        encoder = self.model.encoder
        subwords = encoder.splitter.tokenize(texts)
        is_mask = subwords.ids == self.mask  # (S,)
        text_of = np.repeat(np.arange(len(texts)), subwords.counts)  # (S,)
        found: list[list[Filled]] = [[] for _ in texts]
        numbers = np.unique(text_of[is_mask])  # of the texts with masks; the others need no forward pass
        if not len(numbers):
            return found
        (masks,) = is_mask[np.isin(text_of, numbers)].nonzero()
        none = np.zeros(0, dtype=np.int64)
        with torch.no_grad():
            chosen = [texts[number] for number in numbers]
            features = encoder(Texts(chosen, none, none, np.zeros(len(chosen), dtype=np.int64)))
            probabilities = self.model.logits(features.hidden[features.rows[masks]]).softmax(dim=1)  # (M, V)
        values, ids = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
        for number, start, end, ids_of_mask, of_mask in zip(
            text_of[is_mask].tolist(),
            subwords.starts[is_mask].tolist(),
            subwords.ends[is_mask].tolist(),
            ids.tolist(),
            values.tolist(),
            strict=True,
        ):
            pairs = zip(ids_of_mask, of_mask, strict=True)
            candidates = tuple(Candidate(self._text(subword), value) for subword, value in pairs)
            # In some families, the mask includes the white space before it.
            mask = texts[number][start:end]
            found[number].append(Filled(end - len(mask.lstrip()), end, candidates))
        return found

    def _text(self, number: int) -> str:
        return self.model.encoder.tokenizer.decode([number], skip_special_tokens=False).strip()
