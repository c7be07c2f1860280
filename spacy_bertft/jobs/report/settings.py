"""How the pipeline was made: its settings, the seed, and versions."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from spacy.language import Language

from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.components.head_pipe import HeadPipe

Rows = list[tuple[str, str]]
_PACKAGES = ("spacy-bertft-core", "spacy", "thinc", "torch", "transformers", "tokenizers", "numpy")
_TRAINING = ("seed", "max_epochs", "max_steps", "patience", "eval_frequency", "dropout", "accumulate_gradient")


def components_of(nlp: Language) -> Rows:
    """Each component and its settings."""
    return [(name, ", ".join(_component(nlp, name, pipe))) for name, pipe in nlp.pipeline]


def _component(nlp: Language, name: str, pipe: Any) -> Iterator[str]:
    block: dict[str, Any] = nlp.config.interpolate()["components"].get(name, {})
    yield str(block.get("factory", nlp.get_pipe_meta(name).factory))
    if isinstance(pipe, EncoderPipe):
        yield f"from {block.get('model', {}).get('name')}"
        yield f"{pipe.encoder.shape.layers} layers" if pipe.encoder.shape else "of another family"
        yield f"width {pipe.encoder.width}"
        yield f"window {pipe.encoder.window}"
    own = ("factory", "encoder", "scorer", "loss", "model", "tuning")
    plain = {key: value for key, value in block.items() if key not in own and not isinstance(value, Mapping)}
    yield from (f"{key} = {_shown(value)}" for key, value in plain.items() if value is not None)
    yield from (f"{key}: {block[key]['@' + kind]}" for key, kind in _registered(block))
    if isinstance(pipe, HeadPipe):
        yield f"{len(pipe.labels)} labels" if len(pipe.labels) != 1 else "1 label"


def _registered(block: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, kind in (("loss", "losses"), ("tuning", "misc")):
        if isinstance(block.get(key), Mapping) and f"@{kind}" in block[key]:
            yield key, kind


def training_of(nlp: Language) -> Rows:
    """The settings of the training, as its config has them."""
    training = nlp.config.interpolate().get("training", {})
    rows = [(key.replace("_", " "), _shown(training[key])) for key in _TRAINING if key in training]
    for key in ("optimizer", "batcher"):
        block = dict(training.get(key) or {})
        if block:
            rows.append((key, ", ".join(_flat(block))))
    return rows


def _flat(block: Mapping[str, Any]) -> Iterator[str]:
    for key, value in block.items():
        if isinstance(value, Mapping):
            yield f"{key}: {' '.join(_flat(value))}"
        elif value is not None:
            yield str(value) if key.startswith("@") else f"{key} {_shown(value)}"


def _shown(value: Any) -> str:
    """A value as in a config, without the digits that make a float exact."""
    return f"{value:g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, bool) else str(value)


def versions() -> Rows:
    """Python, the system, and the packages that a score may depend on."""
    rows = [("Python", platform.python_version()), ("System", f"{platform.system()} {platform.machine()}")]
    return rows + [(name, _version(name)) for name in _PACKAGES]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
