"""LoRA's matrices beside an encoder's weights, and adapters: saved without the weights that they update."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacy_bertft.encoder.checkpoint import ADAPTER_BASE, ADAPTER_CONFIG, ADAPTER_WEIGHTS
from spacy_bertft.engines.low_rank import LowRank, SharedWeights, Updates
from spacy_bertft.errors import ConfigError, EncoderError, how_to_install

if TYPE_CHECKING:
    from torch import Tensor, nn

_PREFIX = "base_model.model."
_ADAPTER = "default"  # the name inside a model


@dataclass(frozen=True)
class Adapter:
    """Low-rank updates of weights that are saved elsewhere: an encoder's own, under the name that it was loaded by."""

    name: str  # of the base, as in spacy-bertft.Encoder.v1
    revision: str
    shared: SharedWeights = field(repr=False)
    updates: Updates = field(default_factory=dict)

    def with_updates(self, updates: Updates) -> Adapter:
        """The same with copies of these updates, on the CPU."""

        def copied(matrix: Tensor) -> Tensor:
            return matrix.detach().to("cpu", copy=True)

        own = {name: LowRank(copied(one.down), copied(one.up), one.scale) for name, one in updates.items()}
        return replace(self, updates=own)

    def folded(self) -> dict[str, Tensor]:
        """The base's weights with the updates added."""
        return _folded(self.shared, self.updates)

    def tensors(self) -> dict[str, Tensor]:
        """The contents of adapter_model.safetensors, and with the base's digest all that makes two adapters differ."""
        found = {}
        for name, update in self.updates.items():
            found[f"{_PREFIX}{name}.lora_A.weight"] = update.down.contiguous()
            found[f"{_PREFIX}{name}.lora_B.weight"] = update.up.contiguous()
        return found

    def config(self) -> dict[str, bytes]:
        """The contents of its small files."""
        one = next(iter(self.updates.values()), None)
        rank = 1 if one is None else len(one.down)
        settings = {
            "base_model_name_or_path": self.name,
            "bias": "none",
            "inference_mode": True,
            "lora_alpha": rank * (1.0 if one is None else one.scale),
            "peft_type": "LORA",
            "r": rank,
            "revision": self.revision,
            "target_modules": sorted(self.updates),
            "task_type": None,
        }
        contents = {ADAPTER_BASE: {"digest": self.shared.digest}, ADAPTER_CONFIG: settings}
        return {name: json.dumps(content, indent=2).encode() + b"\n" for name, content in contents.items()}


@dataclass(frozen=True, slots=True)
class BaseOfAdapter:
    """Which weights an adapter's folder is for, and the factor of its updates."""

    name: str
    revision: str
    digest: str
    rank: int
    scale: float


def read_base(folder: Path) -> BaseOfAdapter:
    """Read what an adapter's folder is for. Raises an EncoderError if it doesn't say."""
    path = folder / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_bytes())
        name, revision = config["base_model_name_or_path"], config["revision"]
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        if not (isinstance(name, str) and isinstance(revision, str) and rank >= 1 and 0 < alpha < math.inf):
            raise ValueError(f"base {name!r}, revision {revision!r}, rank {rank}, alpha {alpha:g}")
        path = folder / ADAPTER_BASE
        digest = str(json.loads(path.read_bytes())["digest"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    return BaseOfAdapter(name, revision, digest, rank, scale=alpha / rank)


def read_updates(
    folder: Path, base: BaseOfAdapter, shared: Mapping[str, Tensor], names: Collection[str] | None
) -> dict[str, LowRank]:
    """An adapter's matrices. Raises an EncoderError unless they fit the weights that they are for.

    names: of the linear maps that an engine can update; None: of a family that only transformers' model runs.
    """
    from safetensors.torch import load_file

    path = folder / ADAPTER_WEIGHTS
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors and the disk raise many types
        raise _damaged(path, str(error)) from error
    found = sorted({name.removeprefix(_PREFIX).rsplit(".lora_", 1)[0] for name in tensors})
    if len(tensors) != 2 * len(found):
        raise _damaged(path, f"{len(tensors)} tensors for {len(found)} linear maps")
    updates = {}
    for name in found:
        if names is not None and name not in names:
            raise _damaged(path, f"matrices for {name!r}, which is no linear map in a layer")
        down, up = (tensors.get(f"{_PREFIX}{name}.lora_{part}.weight") for part in "AB")
        weight = shared.get(f"{name}.weight")
        if down is None or up is None or weight is None or down.ndim != 2 or up.ndim != 2:
            raise _damaged(path, f"no pair of matrices, or no weight in the base, for {name!r}")
        if (len(up), down.shape[1]) != tuple(weight.shape) or {len(down), up.shape[1]} != {base.rank}:
            sizes = f"{tuple(up.shape)} times {tuple(down.shape)} for {tuple(weight.shape)}, rank {base.rank}"
            raise _damaged(path, f"sizes that don't fit: {name} has {sizes}")
        if not (down.isfinite().all() and up.isfinite().all()):
            raise _damaged(path, f"numbers that are not finite, in {name}")
        updates[name] = LowRank(down.float(), up.float(), base.scale)
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


def set_dropout(module: nn.Module, probability: float) -> None:
    """Set the dropout of the inputs of a module's matrices."""
    from torch import nn

    for _, child in _adapted(module):
        child.lora_dropout[_ADAPTER] = nn.Dropout(probability) if probability else nn.Identity()


def restore(module: nn.Module, updates: Updates) -> None:
    """Add an adapter's matrices to a module that has none."""
    if not updates:
        return
    import torch

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
    return _folded(whole, updates_of(module))


def _folded(weights: Mapping[str, Tensor], updates: Updates) -> dict[str, Tensor]:
    import torch

    with torch.no_grad():
        changed = {f"{name}.weight": weights[f"{name}.weight"] + one.delta() for name, one in updates.items()}
    return {**weights, **changed}


def peft() -> Any:
    """The package peft. Raises a ConfigError that names the extra if it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            'LoraTuning needs peft, which is not installed. Expected the extra "lora". Install it: '
            f"{how_to_install('lora')}."
        ) from error
    return peft
