"""All calls that depend on the version of torch, transformers or thinc, or that are not part of their public API."""

from __future__ import annotations

import ctypes
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from packaging.version import Version

from spacy_bertft.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

# Families whose attention runs through transformers' attention interface and gets the keyword arguments of the model's
# forward pass. tests/encoder/test_encoder.py compares each with the padded forward pass.
PACKED_FAMILIES = frozenset(
    {"albert", "bert", "camembert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta"}
)


def transformers_version() -> Version:
    """The installed version of transformers, found without importing it."""
    return Version(version("transformers"))


def dtype_argument(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The keyword argument of `from_pretrained` for the weights' precision, renamed in transformers 4.56."""
    return {"dtype" if transformers_version() >= Version("4.56") else "torch_dtype": dtype}


def can_pack(family: str) -> bool:
    """Whether transformers' model of a family can take windows side by side, without padding (see PACKED_FAMILIES).

    transformers 4 moved the families to the attention interface one by one, so it always gets the padded forward pass.
    """
    return transformers_version().major >= 5 and family in PACKED_FAMILIES


def use_attention(model: PreTrainedModel, name: str, function: Callable[..., Any]) -> None:
    """Make `model` run its attention through `function`, without any mask."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, _no_mask)
    model.set_attn_implementation(name)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


@functools.cache
def flash_attention() -> Callable[..., Any] | None:
    """PyTorch's flash attention over sequences of different lengths; None if it lacks a scale or a sliding window."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = {"scale", "window_size"} <= set(inspect.signature(varlen_attn).parameters)
    return varlen_attn if known else None


@contextmanager
def without_cudnn_attention(device: torch.device) -> Iterator[None]:
    """Inside, PyTorch's attention on a GPU leaves out cuDNN's kernels.

    They are planned anew for each new number of windows and length: with texts of all lengths, that took most of a
    training step on an H200.
    """
    import torch

    cuda = torch.backends.cuda
    if device.type != "cuda" or not cuda.cudnn_sdp_enabled():  # type: ignore[no-untyped-call]
        yield
        return
    cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        cuda.enable_cudnn_sdp(True)


_one_thread = False  # in this process, by `use_one_thread`


def use_one_thread() -> None:
    """Let PyTorch, if it is in use, and ONNX Runtime compute in one thread each."""
    global _one_thread
    _one_thread = True
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def n_threads() -> int:
    """The number of threads for a product: PyTorch's, or without it OMP_NUM_THREADS, or one for each core."""
    if _one_thread:
        return 1
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(wanted) if wanted.isdigit() and int(wanted) > 0 else n_cores


def give_back_memory() -> None:
    """Return to the system the memory that glibc's allocator holds free; no effect with other allocators."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # Windows
        return None


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Recompute a model's activations layer by layer in its backward pass, to save memory.

    The method was renamed within transformers 5. Reentrant checkpoints would give no gradients above frozen layers.
    """
    enable: Any = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ConfigError(
            f"gradient_checkpointing is true, but transformers' {type(model).__name__} does not support it. Expected "
            "an encoder of another family. Set gradient_checkpointing = false, and smaller batches."
        )
    enable({"use_reentrant": False})
    # transformers 5 also lets the embeddings' output require gradients, which only reentrant checkpoints need: frozen
    # layers would take part in the backward pass.
    if hasattr(model, "_require_grads_hook"):
        model.disable_input_require_grads()  # type: ignore[no-untyped-call]


def checkpoints_activations(model: PreTrainedModel) -> bool:
    """Whether `checkpoint_activations` was called on a model, whose property for that was renamed."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices in hardware: CUDA from Ampere on, ROCm, AVX512-BF16 or AMX."""
    import torch

    if device.type == "cpu":
        return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    if device.type != "cuda":
        return False
    recent = torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    return recent and torch.cuda.is_bf16_supported()


def fast_linear(weight: Tensor, bias: Tensor, activation: str, *, rows: int) -> Callable[[Tensor], Tensor]:
    """Return a function that computes `activation(linear(x))` on the CPU as fast as PyTorch can, without gradients.

    x, weight and bias are of one precision, float32 or bfloat16, and so is the result. activation: "none", "gelu",
    "gelu_tanh" or "relu". rows: typical number of rows of `x`.

    If PyTorch was built with oneDNN, the weight is converted to its layout once and the activation is fused into the
    product. torch.compile generates the same calls; they are not documented for other use, so we check that they exist.
    """
    from torch.nn import functional

    if product := _onednn_linear(weight.dtype):
        reorder, compute = product
        kind, _, algorithm = activation.partition("_")
        laid_out, offset = reorder(weight.contiguous(), rows), bias.contiguous()
        how = algorithm or ("none" if kind == "gelu" else "")
        return lambda x: compute(x, laid_out, offset, kind, [], how)
    finish: dict[str, Callable[[Tensor], Tensor]] = {
        "none": lambda x: x,
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "relu": functional.relu,
    }
    apply = finish[activation]
    return lambda x: apply(functional.linear(x, weight, bias))


def fast_linear_with(
    operation: Literal["add", "mul"], weight: Tensor, bias: Tensor, *, rows: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """As fast_linear, but the function computes `linear(x) + other`, or `*`; oneDNN does so within the product."""
    if product := _onednn_linear(weight.dtype):
        reorder, compute = product
        laid_out, offset = reorder(weight.contiguous(), rows), bias.contiguous()
        return lambda x, other: compute.binary(x, other, laid_out, offset, operation)
    plain = fast_linear(weight, bias, "none", rows=rows)
    if operation == "add":
        return lambda x, other: plain(x).add_(other)
    return lambda x, other: plain(x).mul_(other)


def _onednn_linear(dtype: torch.dtype) -> tuple[Callable[..., Tensor], Any] | None:
    """PyTorch's calls that lay out a weight for oneDNN, and that multiply by it; None if they are not there.

    oneDNN multiplies in bfloat16 from AVX-512 on, in float32 everywhere.
    """
    import torch

    reorder = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
    compute = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if dtype == torch.bfloat16:
        available = available and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not available or reorder is None or compute is None or "binary" not in compute.overloads():
        return None
    return reorder, compute


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress transformers' progress bars and log lines inside the block; we report what matters ourselves."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def command_options() -> dict[str, Any]:
    """The options of the command that is running, by the names of its parameters; empty outside of a command.

    Since version 0.26, typer has a copy of click inside, of whose commands click itself knows nothing.
    """
    own = find_spec("typer._click") is not None
    context = importlib.import_module("typer._click.globals" if own else "click.globals").get_current_context(True)
    return {} if context is None else dict(context.params)


def spacy_gpu() -> str | None:
    """The kind of GPU that `spacy.require_gpu` or `prefer_gpu` has chosen: "cuda", "mps" or None."""
    from thinc.api import get_current_ops

    return {"cupy": "cuda", "mps": "mps"}.get(get_current_ops().name)


def first_position(model: torch.nn.Module | None) -> int:
    """The position of a window's first subword: after the padding id in the RoBERTa family, else 0."""
    padding = getattr(getattr(model, "embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1
