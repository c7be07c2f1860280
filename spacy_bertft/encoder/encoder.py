"""The encoder: texts -> subwords -> windows -> batches -> hidden rows, by the engine that suits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from spacy_bertft import compat
from spacy_bertft.encoder.checkpoint import Checkpoint
from spacy_bertft.engines.attention import packed_attention
from spacy_bertft.engines.base import Engine
from spacy_bertft.engines.dropout import use_dropout
from spacy_bertft.engines.fused import FusedEngine
from spacy_bertft.engines.net import read_net, read_shape
from spacy_bertft.engines.onnx import OnnxEngine
from spacy_bertft.engines.transformers import ModelEngine
from spacy_bertft.errors import ConfigError
from spacy_bertft.text.batches import bucket, pack, subword_rows, window_lengths
from spacy_bertft.text.subwords import Splitter, Texts, align_texts, shortened
from spacy_bertft.text.windows import cut, cut_pairs
from spacy_bertft.types import Features, Ints, Packed, Specials, Subwords, Windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16"]
Batching = Literal["auto", "packed", "padded"]
Backend = Literal["torch", "onnxruntime"]
LongPairs = Literal["windows", "shorten"]

# The window where neither tokenizer nor model knows a limit.
DEFAULT_WINDOW = 512


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """How an encoder runs. None: the best default for the model and the device."""

    device: Device = "auto"
    precision: Precision = "auto"
    window: int | None = None  # subwords, special ones included
    overlap: int | None = None  # subwords that neighbouring windows share, at least
    batch_subwords: int | None = None  # subwords in one forward, at most
    batching: Batching = "auto"
    backend: Backend = "torch"
    long_pairs: LongPairs = "windows"


class Encoder(nn.Module):
    """An encoder with its tokenizer: Texts -> Features.

    Engines: transformers' model in training, on a GPU and for the families that no other engine knows; the fused
    forward for prediction on a CPU; ONNX Runtime for a checkpoint that was exported to it.
    """

    def __init__(
        self, checkpoint: Checkpoint, settings: EncoderSettings, *, model: PreTrainedModel | None = None
    ) -> None:
        """model: transformers' model, if it was loaded already; its weights come before the checkpoint's."""
        super().__init__()
        self.checkpoint = checkpoint
        self.settings = settings
        self.shape = read_shape(checkpoint.config)
        self.packed = _resolve_packed(checkpoint.config.get("model_type", ""), settings.batching)
        self.splitter = Splitter(checkpoint.tokenizer())
        if model is not None:
            self._take(model)
        self.first_position = self.shape.first_position if self.shape else _first_position(self.loaded)
        self.window = _window(settings, _limit(checkpoint, self.first_position), self.n_special)
        self.overlap = (self.window - self.n_special) // 8 if settings.overlap is None else settings.overlap
        # A window and an overlap that don't fit each other are an error here, before there is a text to cut.
        cut(np.zeros(1, dtype=np.int64), size=self.window - self.n_special, overlap=self.overlap)
        if settings.batch_subwords is not None and settings.batch_subwords < 1:
            raise ConfigError(
                f"The encoder's batch_subwords is {settings.batch_subwords}; expected at least 1. Leave it out for the "
                "best number on this device."
            )
        self._fused: tuple[object, FusedEngine] | None = None
        self._onnx: OnnxEngine | None = None
        device = resolve_device(settings.device) if checkpoint.graph is None else torch.device("cpu")
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
        """How many special subwords stand around a window."""
        return self.specials.count(paired=False)

    @property
    def width(self) -> int:
        """D."""
        return self.shape.width if self.shape else int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device("cpu") if self.loaded is None else self.loaded.device

    @property
    def budget(self) -> int:
        """Subwords in the next forward, at most."""
        return self.settings.batch_subwords or self.engine().budget

    @property
    def trainable(self) -> bool:
        """Whether there are weights to train: an encoder for ONNX Runtime has none."""
        return self.checkpoint.graph is None

    @property
    def loaded(self) -> PreTrainedModel | None:
        """transformers' model, if anything has asked for it yet."""
        return self._modules.get("model")  # type: ignore[return-value]

    @property
    def model(self) -> PreTrainedModel:
        """transformers' model, built when it is first asked for."""
        if self.loaded is None:
            if not self.trainable:
                raise ConfigError(
                    "The encoder was exported to ONNX Runtime and can't be trained or taken apart. Expected backend = "
                    '"torch" and the pipeline that it was exported from: train that, and export it again.'
                )
            self._take(self.checkpoint.model().train(self.training))
        assert self.loaded is not None
        return self.loaded

    def _take(self, model: PreTrainedModel) -> None:
        use_dropout(model)
        if self.packed:
            compat.use_attention(model, "bertft_packed", packed_attention)
        self._modules["model"] = model
        self.checkpoint = replace(self.checkpoint, weights={})  # those of the model count from now on

    def pooler(self) -> nn.Linear | None:
        """The pretrained layer over the first special subword, where the checkpoint has one (BERT, ALBERT)."""
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
        """Its files and weights as they are now."""
        if self.loaded is None:
            return self.checkpoint
        files = {**self.checkpoint.files, "config.json": self.loaded.config.to_json_string().encode()}
        return replace(self.checkpoint, files=files, weights=self.loaded.state_dict())

    # What PyTorch does with a module's weights needs the model: move or convert them, list them, take them out.

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

    def _build(self) -> None:
        if self.trainable:
            self.model  # noqa: B018

    def __getstate__(self) -> dict[str, Any]:
        # Copies make engines of their own: the weights in a CPU's own layout and a session can't be copied.
        return {**self.__dict__, "_fused": None, "_onnx": None}

    # --- forward

    def forward(self, texts: Texts) -> Features:
        """Encode whole texts of any length, in as many forwards as the budget asks for."""
        subwords = self.splitter.split(texts)
        if self.settings.long_pairs == "shorten" and subwords.firsts is not None:
            subwords = shortened(subwords, pair_size=self.pair_size)
        windows = self._cut(subwords)
        hidden, first_rows = self._encode(subwords.ids, windows)
        alignment = align_texts(subwords, texts)
        starts_special = len(self.specials.prefix) > 0
        return Features(
            hidden=hidden,
            rows=subword_rows(windows, first_rows, self.specials, n_subwords=len(subwords.ids)),
            subword_counts=subwords.counts,
            token_subwords=alignment.subwords,
            token_subword_counts=alignment.counts,
            token_counts=texts.token_counts,
            cls_rows=first_rows if starts_special else first_rows[:0],
            window_counts=windows.counts if starts_special else np.zeros_like(windows.counts),
        )

    def _encode(self, ids: Ints, windows: Windows) -> tuple[Tensor, Ints]:
        """Hidden rows (N, D) of all windows, and the first row (W,) of each window."""
        run = self.engine()
        lengths = window_lengths(windows, self.specials)  # (W,)
        budget = self.settings.batch_subwords or run.budget
        groups = bucket(lengths, budget=budget, padded=run.padded)
        parts = (run(pack(ids, windows, group, self.specials)) for group in groups)
        order = np.concatenate([np.zeros(0, dtype=np.int64), *groups])
        first_rows = np.empty_like(order)
        first_rows[order] = np.cumsum(lengths[order]) - lengths[order]
        return self._together(parts, n_rows=int(lengths.sum())), first_rows

    def _together(self, parts: Iterator[Tensor], *, n_rows: int) -> Tensor:
        """All hidden rows (N, D). Without gradients the parts are not held: they double the memory of a long text."""
        hidden = torch.empty(n_rows, self.width, device=self.device)
        if torch.is_grad_enabled():
            return torch.cat([hidden[:0], *parts])
        done = 0
        for part in parts:
            hidden[done : done + len(part)] = part
            done += len(part)
        return hidden

    def batches(self, texts: Sequence[str], *, budget: int) -> list[Packed]:
        """What engines are given for some texts, `budget` subwords at most at once."""
        subwords = self.splitter.tokenize(texts)
        windows = self._cut(subwords)
        groups = bucket(window_lengths(windows, self.specials), budget=budget, padded=False)
        return [pack(subwords.ids, windows, group, self.specials) for group in groups]

    @property
    def pair_size(self) -> int:
        """Subwords of both segments together that fit a window."""
        size = self.window - self.specials.count(paired=True)
        if not len(self.specials.middle) or size < 2:
            raise ConfigError(
                f"The encoder's window of {self.window} subwords can't hold two segments: its tokenizer puts "
                f"{len(self.specials.middle)} special subwords between two texts and {self.n_special} around them. "
                "Expected at least one between them, and room for a subword of each. Set a larger window, or take an "
                "encoder whose tokenizer knows pairs of texts."
            )
        return size

    def _cut(self, subwords: Subwords) -> Windows:
        size = self.window - self.n_special
        if subwords.firsts is None:
            return cut(subwords.counts, size=size, overlap=self.overlap)
        return cut_pairs(subwords.counts, subwords.firsts, size=size, pair_size=self.pair_size, overlap=self.overlap)

    def engine(self) -> Engine:
        """What runs the next forward."""
        if self.checkpoint.graph is not None:
            self._onnx = self._onnx or OnnxEngine(
                self.checkpoint.graph, padding=self.checkpoint.config.get("pad_token_id")
            )
            return self._onnx
        learning = self.training or torch.is_grad_enabled()
        half = self._half(learning=learning)
        plain = self.device.type == "cpu" and not half and self.settings.batching != "padded"
        fused = self._fused_engine() if plain and not learning else None
        if fused is not None:
            return fused
        self._fused = None
        return ModelEngine(self.model, padded=not self.packed, half=half, first_position=self.first_position)

    def _half(self, *, learning: bool) -> bool:
        """Whether to run in bfloat16; "auto" does so for prediction on a GPU that has it."""
        if self.settings.precision == "auto":
            return not learning and self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return self.settings.precision == "bfloat16"

    def _fused_engine(self) -> FusedEngine | None:
        if self.shape is None:
            return None
        # A model may have learned since; each change in place counts up a tensor's version.
        parameters = [] if self.loaded is None else list(self.loaded.parameters())
        state = [(parameter.data_ptr(), parameter._version) for parameter in parameters]
        if self._fused is None or self._fused[0] != state:
            net = read_net(self.shape, self.at_rest().weights)
            if net is None:
                return None
            self._fused = None  # lets go of the old one first
            self._fused = state, FusedEngine(net)
        return self._fused[1]


def resolve_device(device: Device) -> torch.device:
    """The device that "auto" means now: spaCy's chosen GPU, else CUDA, else MPS, else the CPU."""
    if device == "auto":
        chosen = compat.spacy_gpu()
        if chosen is None and torch.cuda.is_available():
            chosen = "cuda"
        elif chosen is None and torch.backends.mps.is_available():
            chosen = "mps"
        return torch.device(chosen or "cpu")
    if (device == "cuda" and not torch.cuda.is_available()) or (
        device == "mps" and not torch.backends.mps.is_available()
    ):
        raise ConfigError(
            f'The encoder\'s device is "{device}", but PyTorch {torch.__version__} finds none here. Set device = '
            '"auto" or "cpu", or install a PyTorch build and driver for it.'
        )
    return torch.device(device)


def _first_position(model: PreTrainedModel | None) -> int:
    """The position of a window's first subword: behind the padding's in the RoBERTa family, else 0."""
    padding = getattr(getattr(model, "embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def _limit(checkpoint: Checkpoint, first_position: int) -> int | None:
    """The longest window that tokenizer and model allow; None if neither says."""
    positions = checkpoint.config.get("max_position_embeddings")
    limits = [checkpoint.tokenizer_limit, positions - first_position if positions and positions > 0 else None]
    # Checkpoints without a limit say 1e30.
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < 10**6]
    return min(known, default=None)


def _window(settings: EncoderSettings, limit: int | None, n_special: int) -> int:
    window = settings.window if settings.window is not None else limit or DEFAULT_WINDOW
    if not n_special < window <= (limit or window):
        raise ConfigError(
            f"The encoder's window is {window} subwords. Expected more than its {n_special} special subwords and at "
            f"most {limit}, the limit of this encoder. Set window to such a number, or leave it out."
        )
    return window


def _resolve_packed(family: str, batching: Batching) -> bool:
    """Whether transformers' model of a family runs packed."""
    packable = compat.can_pack(family)
    if batching == "packed" and not packable:
        raise ConfigError(
            f'The encoder\'s batching is "packed", but {family} under transformers {compat.transformers_version()} can '
            'only be padded. Set batching = "auto", or use transformers 5 and one of '
            f"{', '.join(sorted(compat.PACKED_FAMILIES))}."
        )
    return packable and batching != "padded"
