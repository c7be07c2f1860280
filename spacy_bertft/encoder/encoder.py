"""The encoder: texts -> subwords -> windows -> batches -> hidden rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from spacy_bertft import compat
from spacy_bertft.encoder.adapters import restore, updates_of, whole_weights
from spacy_bertft.encoder.checkpoint import Checkpoint
from spacy_bertft.encoder.features import locate
from spacy_bertft.encoder.settings import EncoderSettings, resolve_device, resolve_packed, resolve_window
from spacy_bertft.engines.attention import packed_attention
from spacy_bertft.engines.base import Engine, Form
from spacy_bertft.engines.choose import Engines
from spacy_bertft.engines.dropout import use_dropout
from spacy_bertft.engines.family_weights import read_shape
from spacy_bertft.engines.low_rank import SharedWeights, Updates
from spacy_bertft.engines.recompute import KEPT_SUBWORDS, RecomputingEngine
from spacy_bertft.errors import ConfigError
from spacy_bertft.locks import Lock
from spacy_bertft.text.batches import bucket, pack, window_lengths
from spacy_bertft.text.subwords import Splitter, Texts, shortened
from spacy_bertft.text.windows import cut, cut_pairs
from spacy_bertft.types import Features, Ints, Packed, Specials, Subwords, Windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Encoder(nn.Module):
    """An encoder with its tokenizer: Texts -> Features. engines/choose.py chooses the engine that runs it."""

    def __init__(
        self, checkpoint: Checkpoint, settings: EncoderSettings, *, model: PreTrainedModel | None = None
    ) -> None:
        """model: transformers' model, if already loaded; its weights replace the checkpoint's."""
        super().__init__()
        self.checkpoint = checkpoint
        self.settings = settings
        self.shape = read_shape(checkpoint.config)
        self.packed = resolve_packed(checkpoint.config.get("model_type", ""), settings.batching)
        self.splitter = Splitter(checkpoint.tokenizer())
        if model is not None:
            self._take(model)
        self.first_position = self.shape.first_position if self.shape else compat.first_position(self.loaded)
        self.window = resolve_window(settings, checkpoint.limit(self.first_position), n_special=self.n_special)
        self.overlap = (self.window - self.n_special) // 8 if settings.overlap is None else settings.overlap
        # Raises an error now, not at the first text, if window and overlap don't fit each other.
        cut(np.zeros(1, dtype=np.int64), size=self.window - self.n_special, overlap=self.overlap)
        self._building = Lock()  # of the model and of engines: threads that share a pipeline may all start at once
        self._engines = Engines(precision=settings.precision, padded=settings.batching == "padded")
        device = resolve_device(settings.device) if self.trainable else torch.device("cpu")
        if device.type != "cpu" or self.loaded is not None:
            self.to(device)

    # --- what it is made of

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
    def width(self) -> int:
        """Width of the hidden states, D."""
        return self.shape.width if self.shape else int(self.model.config.hidden_size)

    @property
    def initializer_range(self) -> float:
        """Standard deviation of random weights in this family."""
        return float(self.checkpoint.config.get("initializer_range", 0.02))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device("cpu") if self.loaded is None else self.loaded.device

    @property
    def budget(self) -> int:
        """Maximum number of subwords in the next forward pass."""
        return self.settings.batch_subwords or self.engine().budget

    @property
    def trainable(self) -> bool:
        """Whether there are weights to train: an encoder for ONNX Runtime has none."""
        return self.form == "weights"

    @property
    def form(self) -> Form:
        """Whether it holds weights or an ONNX graph."""
        return self.checkpoint.form

    @property
    def graph(self) -> NDArray[np.uint8] | None:
        """The ONNX graph; None if it holds weights."""
        return self.checkpoint.graph

    @property
    def padding_id(self) -> int | None:
        """The id of the padding subword, if there is one."""
        return self.checkpoint.config.get("pad_token_id")

    def weights(self) -> Mapping[str, Tensor]:
        """The current weights, named as AutoModel names them."""
        return self.at_rest().weights

    @property
    def loaded(self) -> PreTrainedModel | None:
        """transformers' model, or None if it has not been built yet."""
        return self._modules.get("model")  # type: ignore[return-value]

    @property
    def model(self) -> PreTrainedModel:
        """transformers' model, built on first use."""
        with self._building:
            return self.loaded or self._built()

    def _built(self) -> PreTrainedModel:
        if not self.trainable:
            raise ConfigError(
                "The encoder was exported to ONNX Runtime and can't be trained or changed. Expected backend = "
                '"torch" and the pipeline that it was exported from: train that one and export it again.'
            )
        return self._take(self.checkpoint.model().train(self.training))

    def _take(self, model: PreTrainedModel) -> PreTrainedModel:
        use_dropout(model)
        if self.packed:
            compat.use_attention(model, "bertft_packed", packed_attention)
        if self.settings.gradient_checkpointing:
            compat.checkpoint_activations(model)
        self._modules["model"] = model
        if self.checkpoint.adapter is None:
            self.checkpoint = replace(self.checkpoint, weights={})  # the model's weights are the current ones now
        else:
            model.requires_grad_(False)
            restore(model, self.checkpoint.adapter.updates)
        return model

    def pooler(self) -> nn.Linear | None:
        """The pretrained layer over the first special subword, if the checkpoint has one (BERT, ALBERT)."""
        if not (self.trainable and self.checkpoint.trained_pooler):
            return None
        pooler = getattr(self.model, "pooler", None)
        dense = getattr(pooler, "dense", pooler)
        fits = isinstance(dense, nn.Linear) and dense.weight.shape == (self.width, self.width)
        return dense if fits else None

    def save(self, folder: Path) -> None:
        """Write a plain Hugging Face folder: config.json, model.safetensors (or model.onnx), tokenizer files."""
        self.at_rest().write(folder)

    def at_rest(self) -> Checkpoint:
        """Its current files and whole weights."""
        with self._building:  # which moves the weights from the checkpoint to the model
            if self.loaded is None:
                return self.checkpoint.whole()
            files = {**self.checkpoint.files, "config.json": self.loaded.config.to_json_string().encode()}
            return replace(self.checkpoint, files=files, weights=whole_weights(self.loaded), adapter=None)

    def to_save(self) -> Checkpoint:
        """What a pipeline saves: its current files, and weights or an adapter."""
        adapter = self.checkpoint.adapter
        return replace(self.checkpoint, adapter=adapter.with_updates(self.updates)) if adapter else self.at_rest()

    @property
    def shared(self) -> SharedWeights | None:
        """The weights that it shares with the encoders of other adapters; None if all are its own."""
        return None if self.checkpoint.adapter is None else self.checkpoint.adapter.shared

    @property
    def updates(self) -> Updates:
        """The current low-rank updates of the shared weights."""
        adapter = self.checkpoint.adapter
        return ({} if adapter is None else adapter.updates) if self.loaded is None else updates_of(self.loaded)

    # PyTorch needs the model to move, convert, list or export a module's weights.

    def _apply(self, *args: Any, **kwargs: Any) -> Encoder:
        self._build()
        return super()._apply(*args, **kwargs)  # type: ignore[no-any-return, no-untyped-call]

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The model's parameters; none for ONNX Runtime."""
        self._build()
        return super().named_parameters(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The model's weights; none for ONNX Runtime."""
        self._build()
        return super().state_dict(*args, **kwargs)

    def _build(self) -> PreTrainedModel | None:
        return self.model if self.trainable else None

    def __getstate__(self) -> dict[str, Any]:
        # Copies build new engines: weights in oneDNN's layout and ONNX Runtime sessions can't be copied.
        return {**self.__dict__, "_engines": self._engines.fresh()}

    # --- forward

    def predict(self, texts: Texts) -> Features:
        """Encode whole texts of any length, without dropout and without gradients."""
        # Each thread walks through all modules: the flag of this one says nothing about those inside while another
        # thread is on its way through them.
        self.eval()
        with torch.no_grad():
            return self.forward(texts)

    def forward(self, texts: Texts) -> Features:
        """Encode whole texts of any length, in as many forward passes as the budget requires."""
        subwords = self.splitter.split(texts)
        if self.settings.long_pairs == "shorten" and subwords.firsts is not None:
            subwords = shortened(subwords, pair_size=self.pair_size)
        windows = self._cut(subwords)
        hidden, first_rows = self._encode(subwords.ids, windows)
        return locate(hidden, first_rows, subwords, windows, texts, self.specials)

    def _encode(self, ids: Ints, windows: Windows) -> tuple[Tensor, Ints]:
        """Hidden rows (N, D) of all windows, and the first row (W,) of each window."""
        run = self.engine()
        lengths = window_lengths(windows, self.specials)  # (W,)
        budget = self.settings.batch_subwords or run.budget
        groups = bucket(lengths, budget=budget, padded=run.padded)
        order = np.concatenate([np.zeros(0, dtype=np.int64), *groups])
        first_rows = np.empty_like(order)
        first_rows[order] = np.cumsum(lengths[order]) - lengths[order]
        if torch.is_grad_enabled():
            if lengths.sum() > KEPT_SUBWORDS:
                run = RecomputingEngine(run, self.model)
            parts = [run(pack(ids, windows, group, self.specials)) for group in groups]
            return torch.cat([torch.empty(0, self.width, device=self.device), *parts]), first_rows
        # Without gradients the parts are not kept: they would double the memory for a long text.
        hidden = torch.empty(int(lengths.sum()), self.width, device=self.device)
        done = 0
        for group in groups:
            part = run(pack(ids, windows, group, self.specials))
            hidden[done : done + len(part)] = part
            done += len(part)
        return hidden, first_rows

    def batches(self, texts: Sequence[str], *, budget: int) -> list[Packed]:
        """The batches that an engine would get for these texts, with at most `budget` subwords each."""
        subwords = self.splitter.tokenize(texts)
        windows = self._cut(subwords)
        groups = bucket(window_lengths(windows, self.specials), budget=budget, padded=False)
        return [pack(subwords.ids, windows, group, self.specials) for group in groups]

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

    def engine(self) -> Engine:
        """The engine for the next forward pass."""
        with self._building:
            return self._engines.choose(self, learning=self.training or torch.is_grad_enabled())
