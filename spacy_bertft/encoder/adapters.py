"""LoRA's matrices beside an encoder's weights, and adapters: saved without the weights that they update."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from spacy_bertft.engines.low_rank import LowRank, SharedWeights, Updates
from spacy_bertft.errors import ConfigError, EncoderError

# peft's own file names and format, so that peft loads our adapters too.
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Our own, beside them: a hash of the base's weights.
ADAPTER_BASE = "adapter_base.json"
_PREFIX = "base_model.model."
_ADAPTER = "default"  # the name inside a model


@dataclass(frozen=True)
class Adapter:
    """Low-rank updates of weights that are saved elsewhere: an encoder's own, under the name that it was loaded by."""

    name: str  # of the base, as in spacy-bertft.Encoder.v1
    revision: str
    digest: str  # of the base's weights
    shared: SharedWeights = field(repr=False)
    updates: Updates = field(default_factory=dict)

    def folded(self) -> dict[str, Tensor]:
        """The base's weights with the updates added."""
        whole = dict(self.shared)
        for name, update in self.updates.items():
            whole[f"{name}.weight"] = whole[f"{name}.weight"] + update.delta()
        return whole

    def files(self, metadata: Mapping[str, str]) -> dict[str, Callable[[Path], object]]:
        """The writers of its files, the weights first. metadata: of the weights."""
        base = json.dumps({"digest": self.digest}).encode() + b"\n"
        contents = {ADAPTER_WEIGHTS: self._weights(metadata), ADAPTER_BASE: base, ADAPTER_CONFIG: self._config()}
        return {name: partial(Path.write_bytes, data=content) for name, content in contents.items()}

    def _config(self) -> bytes:
        rank = max((len(one.down) for one in self.updates.values()), default=1)
        scale = max((one.scale for one in self.updates.values()), default=1.0)
        settings = {
            "base_model_name_or_path": self.name,
            "bias": "none",
            "inference_mode": True,
            "lora_alpha": scale * rank,
            "peft_type": "LORA",
            "r": rank,
            "revision": self.revision,
            "target_modules": sorted(self.updates),
            "task_type": None,
        }
        return json.dumps(settings, indent=2).encode() + b"\n"

    def _weights(self, metadata: Mapping[str, str]) -> bytes:
        tensors = {}
        for name, update in self.updates.items():
            tensors[f"{_PREFIX}{name}.lora_A.weight"] = update.down.detach().cpu().contiguous()
            tensors[f"{_PREFIX}{name}.lora_B.weight"] = update.up.detach().cpu().contiguous()
        return save(tensors, metadata={"format": "pt", **metadata})


@dataclass(frozen=True, slots=True)
class BaseOfAdapter:
    """Which weights an adapter's folder is for, and the factor of its updates."""

    name: str
    revision: str
    digest: str
    scale: float


def read_base(folder: Path) -> BaseOfAdapter:
    """Read what an adapter's folder is for. Raises an EncoderError if it doesn't say."""
    path = folder / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_bytes())
        name, revision = config["base_model_name_or_path"], config["revision"]
        rank, alpha = float(config["r"]), float(config["lora_alpha"])
        if not isinstance(name, str) or not isinstance(revision, str) or rank <= 0 or alpha <= 0:
            raise ValueError(f"base {name!r}, revision {revision!r}, rank {rank:g}, alpha {alpha:g}")
        path = folder / ADAPTER_BASE
        digest = str(json.loads(path.read_bytes())["digest"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    return BaseOfAdapter(name, revision, digest, scale=alpha / rank)


def read_updates(folder: Path, scale: float, shared: Mapping[str, Tensor]) -> dict[str, LowRank]:
    """An adapter's matrices. Raises an EncoderError unless they fit the weights that they are for."""
    path = folder / ADAPTER_WEIGHTS
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors and the disk raise many types
        raise _damaged(path, str(error)) from error
    names = sorted({name.removeprefix(_PREFIX).rsplit(".lora_", 1)[0] for name in tensors})
    if len(tensors) != 2 * len(names):
        raise _damaged(path, f"{len(tensors)} tensors for {len(names)} linear maps")
    updates = {}
    for name in names:
        down, up = (tensors.get(f"{_PREFIX}{name}.lora_{part}.weight") for part in "AB")
        weight = shared.get(f"{name}.weight")
        if down is None or up is None or weight is None or down.ndim != 2 or up.ndim != 2:
            raise _damaged(path, f"no pair of matrices, or no weight in the base, for {name!r}")
        if (len(up), down.shape[1]) != tuple(weight.shape) or up.shape[1] != len(down) or not len(down):
            sizes = f"{tuple(up.shape)} times {tuple(down.shape)} for {tuple(weight.shape)}"
            raise _damaged(path, f"sizes that don't fit: {name} has {sizes}")
        if not (down.isfinite().all() and up.isfinite().all()):
            raise _damaged(path, f"numbers that are not finite, in {name}")
        updates[name] = LowRank(down.float(), up.float(), scale)
    return updates


def _damaged(path: Path, found: str) -> EncoderError:
    return EncoderError(
        f"The file {path} of an adapter can't be used (found: {found[:200]}). Expected it as it was saved with the "
        "pipeline. Copy it again."
    )


def inject(module: nn.Module, names: Sequence[str], *, rank: int, alpha: float, dropout: float = 0.0) -> None:
    """Add matrices to linear maps of a module. The second one starts at 0, so that nothing changes at first."""
    config = peft().LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(names))
    peft().inject_adapter_in_model(config, module, adapter_name=_ADAPTER)


def restore(module: nn.Module, updates: Updates) -> None:
    """Add an adapter's matrices to a module that has none."""
    if not updates:
        return
    one = next(iter(updates.values()))
    inject(module, list(updates), rank=len(one.down), alpha=one.scale * len(one.down))
    with torch.no_grad():
        for name, child in _adapted(module):
            child.lora_A[_ADAPTER].weight.copy_(updates[name].down)
            child.lora_B[_ADAPTER].weight.copy_(updates[name].up)


def updates_of(module: nn.Module) -> dict[str, LowRank]:
    """The current matrices of a module."""
    return {
        name: LowRank(child.lora_A[_ADAPTER].weight, child.lora_B[_ADAPTER].weight, child.scaling[_ADAPTER])
        for name, child in _adapted(module)
    }


def _adapted(module: nn.Module) -> list[tuple[str, Any]]:
    return [(name, child) for name, child in module.named_modules() if hasattr(child, "get_delta_weight")]


def whole_weights(module: nn.Module) -> Mapping[str, Tensor]:
    """The weights of a module under their own names, with LoRA's matrices folded in."""
    state: dict[str, Tensor] = module.state_dict()
    if not any(".base_layer." in name for name in state):
        return state
    whole = {name.replace(".base_layer.", "."): value for name, value in state.items() if "lora_" not in name}
    with torch.no_grad():
        for name, update in updates_of(module).items():
            whole[f"{name}.weight"] = whole[f"{name}.weight"] + update.delta()
    return whole


def peft() -> Any:
    """The package peft. Raises a ConfigError that names the extra if it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            'LoraTuning needs peft, which is not installed. Expected the extra "lora". Install it: '
            'pip install "spacy-bertft[lora]" (from a checkout: pip install -e ".[lora]").'
        ) from error
    return peft
