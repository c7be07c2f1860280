"""transformers' own model as an engine: for GPUs, and what the fused engines don't support."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spacy_bertft import compat
from spacy_bertft.engines.attention import groups_of
from spacy_bertft.text.batches import pad, positions
from spacy_bertft.types import Ints, Packed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TransformersEngine:
    """Runs a transformers model, packed where its family allows it."""

    # Few enough for the caches of a CPU, enough to keep a GPU busy.
    CPU_BUDGET, GPU_BUDGET = 1024, 16384

    def __init__(self, model: PreTrainedModel, *, padded: bool, half: bool, first_position: int) -> None:
        """padded: if False, the model's attention must be `attention.packed_attention`. half: run in bfloat16 where
        autocast allows it; weights and results stay float32.
        """
        self.model = model
        self.padded = padded
        self.budget = self.CPU_BUDGET if model.device.type == "cpu" else self.GPU_BUDGET
        self.half = half
        self.first_position = first_position

    def __call__(self, packed: Packed) -> Tensor:
        """Run one forward pass; attention stays within each window. -> (N, D) float32."""
        return self._run(packed)[0]

    def layer_rows(self, packed: Packed, depth: int | None = None) -> list[Tensor]:
        """The same, but what the lowest layer reads, then the rows after each layer. (N, D) each."""
        last, *layers = self._run(packed, output_hidden_states=True)
        found = [*layers[:-1], last]  # which some families normalise once more
        return found if depth is None else found[: depth + 1]

    def _run(self, packed: Packed, **asked: bool) -> list[Tensor]:
        """The rows that come out, then those of `layer_rows` if the model was asked for them. (N, D) float32 each."""
        device = self.model.device
        half = torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.half)
        with half, compat.without_cudnn_attention(device):
            output, real = (self._padded if self.padded else self._packed)(packed, **asked)
        layers = output.hidden_states or ()
        return [rows[0 if real is None else real].float() for rows in (output.last_hidden_state, *layers)]

    def _packed(self, packed: Packed, **asked: bool) -> tuple[Any, None]:
        """Run the windows side by side in one sequence, without padding."""
        output = self.model(
            input_ids=self._tensor(packed.ids)[None],  # (1, N)
            position_ids=self._tensor(positions(packed, self.first_position))[None],  # (1, N)
            window_groups=groups_of(packed.lengths, self.model.device),
            window_bounds=self._tensor(np.append(0, np.cumsum(packed.lengths)).astype(np.int32)),  # (W + 1,)
            **self._segments(packed, None),
            **asked,
        )
        return output, None

    def _padded(self, packed: Packed, **asked: bool) -> tuple[Any, Tensor]:
        """Run each window as a row, padded to the longest; also the mask of the real cells."""
        mask, ids = pad(packed.ids, packed.lengths, self.model.config.pad_token_id or 0)
        real = self._tensor(mask)
        output = self.model(
            input_ids=self._tensor(ids), attention_mask=real.long(), **self._segments(packed, packed.lengths), **asked
        )
        return output, real

    def _segments(self, packed: Packed, padded_to: Ints | None) -> dict[str, Tensor]:
        """Keyword argument with each row's segment; empty if there are none or the model doesn't distinguish them."""
        if packed.segments is None or getattr(self.model.config, "type_vocab_size", 0) < 2:
            return {}
        segments = packed.segments[None] if padded_to is None else pad(packed.segments, padded_to, 0)[1]
        return {"token_type_ids": self._tensor(segments)}

    def _tensor(self, array: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(array).to(self.model.device)
