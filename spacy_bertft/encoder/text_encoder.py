"""What all encoders share: texts -> subwords -> windows -> batches, and features of the hidden rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from spacy_bertft.encoder.checkpoint import Checkpoint
from spacy_bertft.encoder.features import locate
from spacy_bertft.encoder.settings import EncoderSettings, resolve_window
from spacy_bertft.errors import ConfigError
from spacy_bertft.text.batches import bucket, pack, window_lengths
from spacy_bertft.text.subwords import Splitter, Texts, shortened
from spacy_bertft.text.windows import cut, cut_pairs
from spacy_bertft.types import Features, Ints, Packed, Rows, Specials, Subwords, Windows

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class TextEncoder:
    """An encoder with its tokenizer: Texts -> Features. What runs it is a subclass's business, in `_hidden`."""

    checkpoint: Checkpoint
    settings: EncoderSettings
    splitter: Splitter
    window: int  # subwords in one window, special ones included
    overlap: int

    def _set_windows(self, limit: int | None) -> None:
        """Find the sizes of windows. limit: of the encoder; None if it has none."""
        self.window = resolve_window(self.settings, limit, n_special=self.n_special)
        wanted = self.settings.overlap
        self.overlap = (self.window - self.n_special) // 8 if wanted is None else wanted
        # Raises an error now, not at the first text, if window and overlap don't fit each other.
        cut(np.zeros(1, dtype=np.int64), size=self.window - self.n_special, overlap=self.overlap)

    @property
    def tokenizer(self) -> Tokenizer:
        """The fast tokenizer."""
        return self.splitter.tokenizer

    @property
    def specials(self) -> Specials:
        """The special subwords around a text, and between two segments."""
        return self.splitter.specials

    @property
    def n_special(self) -> int:
        """Number of special subwords around a window."""
        return self.specials.count(paired=False)

    @property
    def initializer_range(self) -> float:
        """Standard deviation of random weights in this family."""
        return float(self.checkpoint.config.get("initializer_range", 0.02))

    @property
    def loaded(self) -> PreTrainedModel | None:
        """transformers' model, or None if it has not been built."""
        return None

    def pooler(self) -> nn.Linear | None:
        """The pretrained layer over the first special subword, if there is one to start heads from."""
        return None

    @property
    def trainable(self) -> bool:
        """Whether there are weights to train."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Width of the hidden states, D."""
        raise NotImplementedError

    def to_save(self) -> Checkpoint:
        """What a pipeline saves."""
        raise NotImplementedError

    def at_rest(self) -> Checkpoint:
        """Its current files, and whole weights or graph."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write a plain Hugging Face folder: config.json, model.safetensors or model.onnx, tokenizer files."""
        self.at_rest().write(folder)

    def predict(self, texts: Texts) -> Features:
        """Encode whole texts of any length, without dropout and without gradients."""
        raise NotImplementedError

    def _hidden(self, ids: Ints, windows: Windows) -> tuple[Rows, Ints]:
        """Hidden rows (N, D) of all windows, and the first row (W,) of each window."""
        raise NotImplementedError

    def _features(self, texts: Texts) -> Features:
        """Encode texts, in as many forward passes as the budget requires."""
        subwords = self.splitter.split(texts)
        if self.settings.long_pairs == "shorten" and subwords.firsts is not None:
            subwords = shortened(subwords, pair_size=self.pair_size)
        windows = self._cut(subwords)
        hidden, first_rows = self._hidden(subwords.ids, windows)
        return locate(hidden, first_rows, subwords, windows, texts, self.specials)

    def _batches(self, ids: Ints, windows: Windows, *, budget: int, padded: bool) -> tuple[list[Packed], Ints]:
        """The batches of windows, and the first row (W,) of each window in their rows side by side."""
        lengths = window_lengths(windows, self.specials)  # (W,)
        groups = bucket(lengths, budget=budget, padded=padded)
        order = np.concatenate([np.zeros(0, dtype=np.int64), *groups])
        first_rows = np.empty_like(order)
        first_rows[order] = np.cumsum(lengths[order]) - lengths[order]
        return [pack(ids, windows, group, self.specials) for group in groups], first_rows

    def batches(self, texts: Sequence[str], *, budget: int) -> list[Packed]:
        """The batches that an engine would get for these texts, with at most `budget` subwords each."""
        subwords = self.splitter.tokenize(texts)
        return self._batches(subwords.ids, self._cut(subwords), budget=budget, padded=False)[0]

    @property
    def pair_size(self) -> int:
        """Number of subwords of both segments together that fit in a window."""
        size = self.window - self.specials.count(paired=True)
        if not len(self.specials.middle) or size < 2:
            raise ConfigError(
                f"The encoder's window of {self.window} subwords can't hold two segments: its tokenizer puts "
                f"{len(self.specials.middle)} special subwords between two texts and {self.n_special} around them. "
                "Expected at least one between them, and room for a subword of each. Set a larger window, or choose "
                "an encoder whose tokenizer supports pairs of texts."
            )
        return size

    def _cut(self, subwords: Subwords) -> Windows:
        size = self.window - self.n_special
        if subwords.firsts is None:
            return cut(subwords.counts, size=size, overlap=self.overlap)
        return cut_pairs(subwords.counts, subwords.firsts, size=size, pair_size=self.pair_size, overlap=self.overlap)
