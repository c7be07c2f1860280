"""Weights of a model with adapters beside its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def whole_weights(module: nn.Module) -> Mapping[str, Tensor]:
    """The weights of a module under their own names, with LoRA's matrices folded in: W + alpha / rank * B A."""
    state: dict[str, Tensor] = module.state_dict()
    if not any(".base_layer." in name for name in state):
        return state
    whole = {name.replace(".base_layer.", "."): value for name, value in state.items() if "lora_" not in name}
    with torch.no_grad():
        for name, child in module.named_modules():
            if hasattr(child, "get_delta_weight"):
                for adapter in child.active_adapters:
                    whole[f"{name}.weight"] = whole[f"{name}.weight"] + child.get_delta_weight(adapter)
    return whole
