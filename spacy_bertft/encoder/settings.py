"""Settings of how an encoder runs, and their actual values for one encoder on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from spacy_bertft import compat
from spacy_bertft.engines.base import Precision
from spacy_bertft.errors import ConfigError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda", "mps"]
Batching = Literal["auto", "packed", "padded"]
Backend = Literal["torch", "onnxruntime"]
LongPairs = Literal["windows", "shorten"]

# The window if neither tokenizer nor model has a limit.
_DEFAULT_WINDOW = 512


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """Settings of how an encoder runs.

    device: "auto" takes the GPU that spacy.require_gpu() chose, else CUDA, else MPS, else the CPU.
    precision: of the products and activations; weights, their gradients and optimizer steps stay float32. "auto" is
        bfloat16 on a GPU that supports it, and for the BERT family on a CPU that does; else float32.
    window: subwords in one window, special ones included; None: the encoder's limit.
    overlap: minimum number of subwords that neighbouring windows of a long text share; None: an eighth of the window.
    batch_subwords: maximum number of subwords in one forward pass; None: depends on the device.
    batching: "packed" puts windows side by side without padding, "padded" pads them; "auto" packs where possible.
    backend: "torch", or "onnxruntime" for an encoder that `bertft export` wrote: faster on a CPU, and not trainable.
    long_pairs: for two segments that don't fit in one window, "windows" uses several windows, "shorten" truncates
        the longer segment.
    gradient_checkpointing: in training, keep each layer's input alone, and compute its activations again in the
        backward pass (Chen et al. 2016, https://arxiv.org/abs/1604.06174): less memory, more time.
    """

    device: Device = "auto"
    precision: Precision = "auto"
    window: int | None = None
    overlap: int | None = None
    batch_subwords: int | None = None
    batching: Batching = "auto"
    backend: Backend = "torch"
    long_pairs: LongPairs = "windows"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.batch_subwords is not None and self.batch_subwords < 1:
            raise ConfigError(
                f"The encoder's batch_subwords is {self.batch_subwords}; expected at least 1. Leave it out for the "
                "best number on this device."
            )


def resolve_device(device: Device) -> torch.device:
    """The device to run on; "auto": spaCy's chosen GPU, else CUDA, else MPS, else the CPU."""
    import torch

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


def resolve_window(settings: EncoderSettings, limit: int | None, *, n_special: int) -> int:
    """Number of subwords in a window, special ones included. limit: of the encoder; None if it has none."""
    window = settings.window if settings.window is not None else limit or _DEFAULT_WINDOW
    if not n_special < window <= (limit or window):
        raise ConfigError(
            f"The encoder's window is {window} subwords. Expected more than its {n_special} special subwords"
            f"{f' and at most {limit}, the limit of this encoder' if limit else ''}. Set window within these limits, "
            "or leave it out."
        )
    return window


def resolve_packed(family: str, batching: Batching) -> bool:
    """Whether transformers' model of a family runs packed."""
    packable = compat.can_pack(family)
    if batching == "packed" and not packable:
        raise ConfigError(
            f'The encoder\'s batching is "packed", but {family} under transformers {compat.transformers_version()} can '
            'only be padded. Set batching = "auto", or use transformers 5 and one of '
            f"{', '.join(sorted(compat.PACKED_FAMILIES))}."
        )
    return packable and batching != "padded"
