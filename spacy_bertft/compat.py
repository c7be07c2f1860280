"""Every call that depends on a version of transformers or thinc, or that is not part of their public promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from packaging.version import Version

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# Families whose attention runs through transformers' attention interface, with the keyword arguments of the
# model's forward passed on to it. Each is compared with the padded forward in tests/test_encoder.py.
PACKED_FAMILIES = frozenset(
    {"albert", "bert", "camembert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta"}
)


def transformers_version() -> Version:
    """The installed version of transformers."""
    import transformers

    return Version(transformers.__version__)


def dtype_argument(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The keyword argument of `from_pretrained` for the weights' precision, renamed in transformers 4.56."""
    return {"dtype" if transformers_version() >= Version("4.56") else "torch_dtype": dtype}


def can_pack(model: PreTrainedModel) -> bool:
    """Whether `model` can take windows side by side (see PACKED_FAMILIES).

    transformers 4 moved the families to the attention interface one by one, so it gets the padded forward.
    """
    return transformers_version().major >= 5 and model.config.model_type in PACKED_FAMILIES


def use_attention(model: PreTrainedModel, name: str, function: Callable[..., Any]) -> None:
    """Make `model` run its attention through `function`, without any mask."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, _no_mask)
    model.set_attn_implementation(name)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no log lines from transformers inside; what matters we say ourselves."""
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


def spacy_gpu() -> str | None:
    """The kind of GPU that `spacy.require_gpu` or `prefer_gpu` has chosen: "cuda", "mps" or None."""
    from thinc.api import get_current_ops

    return {"cupy": "cuda", "mps": "mps"}.get(get_current_ops().name)
