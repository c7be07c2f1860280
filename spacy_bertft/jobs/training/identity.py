"""What a run is: its config, data, versions and machine. A checkpoint only continues the run that wrote it."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from spacy.language import Language

from spacy_bertft.errors import ConfigError, DataError

_PACKAGES = ("spacy-bertft-core", "spacy", "thinc", "torch", "transformers", "tokenizers", "numpy", "peft")
# Sections of the config that don't change what is learned. The texts themselves have a fingerprint.
_OF_NO_EFFECT = ("paths", "training.logger", "training.before_to_disk", "system.gpu_allocator")
_SHOWN = 5


def identity(nlp: Language, data: str, *, processes: int = 1) -> dict[str, Any]:
    """The identity of a run. data: the fingerprint of its training texts; processes: their number."""
    return {
        "config": json.loads(json.dumps(nlp.config.interpolate())),
        "data": data,
        "versions": dict(_versions()),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "processes": processes,
        },
    }


def _versions() -> Iterator[tuple[str, str]]:
    yield "Python", platform.python_version()
    for package in _PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def check_same_run(found: Mapping[str, Any], now: Mapping[str, Any], where: str) -> list[str]:
    """Raise an error if a checkpoint is another run's. Returns what makes the rest of the run differ in the last bits.

    found: the identity in the checkpoint; where: its path, for messages.
    """
    changed = list(_changes(found["config"], now["config"]))
    if changed:
        more = f", and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise ConfigError(
            f"The config has changed since the checkpoint {where} was written: {'; '.join(changed[:_SHOWN])}{more}. "
            "Expected the same settings to the end of a run. Undo the changes, or start anew without --resume."
        )
    if found["data"] != now["data"]:
        raise DataError(
            f"The training texts have changed since the checkpoint {where} was written. Expected the same texts in the "
            "same order to the end of a run. Restore them, or start anew without --resume."
        )
    return [
        f"{name}: {before.get(name)} → {after.get(name)}"
        for before, after in ((found[part], now[part]) for part in ("versions", "machine"))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _changes(before: Any, after: Any, inside: str = "") -> Iterator[str]:
    """The settings that differ, as section.name: before → after."""
    if inside in _OF_NO_EFFECT or (inside.startswith("corpora.") and inside.endswith(".path")):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            yield from _changes(before.get(name), after.get(name), f"{inside}.{name}" if inside else name)
    elif before != after:
        yield f"{inside}: {json.dumps(before)} → {json.dumps(after)}"
