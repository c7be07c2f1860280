"""Migration of saved spacy-transformers pipelines to our encoder, without that package or the versions it requires.

torch's unpickler reads the transformer's weights, and accepts only tensors. The other components are loaded with a
stand-in for spacy-transformers' listener, so that their saved models find the layers they expect; then our listener,
which gives the same vectors, replaces it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import srsly
import torch
from confection import Config
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from safetensors.torch import save_file
from spacy.tokens import Doc
from spacy.util import load_config, load_model_from_config, registry, replace_model_node
from thinc.api import Model, chain
from thinc.types import Floats2d, Ragged

from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.components.listeners import Listener
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.loading import load_folder
from spacy_bertft.encoder.pooling import TokenPooling
from spacy_bertft.errors import ConfigError
from spacy_bertft.files import PIPELINE, staged_pipeline
from spacy_bertft.jobs.text_files import check_plain
from spacy_bertft.jobs.writing import writing

_THEIRS = "spacy-transformers."
_OLD_LISTENER, _STAND_IN = "spacy-transformers.TransformerListener.v1", "spacy-bertft.StandIn.v1"
_POOLINGS: dict[str, TokenPooling] = {"reduce_mean.v1": "mean", "reduce_first.v1": "first"}
_REPLACEMENT = "bertft_replacement"  # attr of a stand-in: the listener that replaces it


@dataclass(frozen=True)
class Migrated:
    """What was migrated."""

    encoders: tuple[str, ...]  # names of the components that were transformers
    readers: tuple[str, ...]  # … that read them, kept with their weights
    windows: tuple[int, ...]  # tokens in the spans that the transformers read, where known


def migrate(old: Path, new: Path, *, overwrite: bool = False) -> Migrated:
    """Write the spacy-transformers pipeline in the folder `old` to the folder `new`, with our encoder.

    overwrite: replace a pipeline that `new` holds.
    """
    if (old / PIPELINE).exists():
        check_plain(old)
    if not (old / PIPELINE).is_file():
        raise ConfigError(
            f"{old}: found no config.cfg; expected the folder of a saved pipeline; fix: correct the path; of an "
            "installed package, name the folder in it that has config.cfg"
        )
    with _told(f"{old}: found a pipeline that can't be migrated"):
        config = load_config(old / PIPELINE, interpolate=False)
        names = [name for name, block in config["components"].items() if block.get("factory") == "transformer"]
        if not names:
            raise ConfigError(
                f"{old}: found no component of the factory 'transformer' among {', '.join(config['components'])}; "
                "expected a pipeline of spacy-transformers; fix: name another"
            )
        windows = [_window(config["components"][name]) for name in names]
        for name in names:
            config["components"][name] = _encoder_block(old, name, config["components"][name])
        reading = {name for name, block in config["components"].items() if list(_listener_blocks(block))}
        with staged_pipeline(old, new, overwrite=overwrite) as folder:
            reading.update(_write(old, folder, config, names))
    readers = tuple(name for name in config["components"] if name in reading)
    return Migrated(tuple(names), readers, tuple(window for window in windows if window))


@contextmanager
def _told(found: str) -> Iterator[None]:
    """Turn errors of spaCy, thinc, torch, msgpack … into a ConfigError: a saved pipeline can be broken in many ways."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        said = next(iter(str(error).strip().splitlines()), "")
        raise ConfigError(
            f"{found} ({type(error).__name__}: {said}); expected one saved by spacy-transformers 1.1 to 1.4, and "
            "all packages that its components need; fix: see whether it loads in its old environment, and save it "
            "there again"
        ) from error


def _write(old: Path, new: Path, config: Config, encoders: list[str]) -> list[str]:
    """Write the new pipeline. Returns the enabled components that read its encoders."""
    with TemporaryDirectory() as between:
        nlp = load_model_from_config(_with(config, _stand_in_block), exclude=encoders)
        nlp.from_disk(old, exclude=encoders)
        for _, component in nlp.components:
            model = getattr(component, "model", None)
            if isinstance(model, Model):
                for node in [node for node in model.walk() if _REPLACEMENT in node.attrs]:
                    replace_model_node(model, node, node.attrs[_REPLACEMENT])
        with writing(Path(between)):
            nlp.to_disk(between)
        found = load_model_from_config(_with(config, _listener_block))
        found.from_disk(between, exclude=encoders)
    readers: list[str] = []
    for name in encoders:
        pipe = found.get_pipe(name)
        assert isinstance(pipe, EncoderPipe)
        path = old / name / "model"
        with _told(f"{path}: found no transformer that can be read"):
            pipe.set_encoder(_read_encoder(path, pipe))
        readers += pipe.listening_components
    found.meta["requirements"] = [line for line in found.meta.get("requirements", []) if not _is_theirs(line)]
    for name in ("spacy_version", "spacy_git_version"):  # spaCy writes its own
        found.meta.pop(name, None)
    with writing(new):
        found.to_disk(new)
    return readers


# --- the config


def _encoder_block(old: Path, name: str, block: dict[str, Any]) -> dict[str, Any]:
    model = block["model"]
    architecture = model.get("@architectures", "")
    if not architecture.startswith("spacy-transformers.TransformerModel."):
        raise ConfigError(
            f"{old}: found the architecture {architecture!r} in component {name!r}; expected "
            "spacy-transformers.TransformerModel; fix: such a pipeline can't be migrated, train it again"
        )
    encoder = {"@architectures": "spacy-bertft.Encoder.v1", "name": model["name"]}
    return {"factory": "bertft_encoder", "model": encoder}


def _window(block: dict[str, Any]) -> int | None:
    spans = block["model"].get("get_spans", {})
    window = spans.get("window") if isinstance(spans, dict) else None
    return window if isinstance(window, int) else None


def _listener_blocks(block: Any) -> Iterator[dict[str, Any]]:
    if isinstance(block, dict):
        if block.get("@architectures") == _OLD_LISTENER:
            yield block
        for value in block.values():
            yield from _listener_blocks(value)


def _with(config: Config, change: Any) -> Config:
    """Copy the config with its listeners changed. Raises ConfigError if it still uses spacy-transformers."""
    copy = config.copy()
    for block in list(_listener_blocks(copy["components"])):
        changed = change(block)
        block.clear()
        block.update(changed)
    left = sorted({value for value in _strings(copy) if value.startswith(_THEIRS)})
    if left:
        raise ConfigError(
            f"The config uses {', '.join(left)}; expected only TransformerModel and TransformerListener.v1 of "
            "spacy-transformers. Remove the rest from config.cfg, or train the pipeline again."
        )
    return copy


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _strings(inner)


def _stand_in_block(block: dict[str, Any]) -> dict[str, Any]:
    return {**_listener_block(block), "@architectures": _STAND_IN, "reduction": block["pooling"]}


def _listener_block(block: dict[str, Any]) -> dict[str, Any]:
    reduction = block["pooling"].get("@layers")
    if reduction not in _POOLINGS:
        raise ConfigError(
            f"A listener pools by {reduction!r}; expected one of {', '.join(_POOLINGS)}. Such a component can't be "
            "migrated; train it again."
        )
    kept = {key: value for key, value in block.items() if key in ("grad_factor", "upstream")}
    return {"@architectures": "spacy-bertft.Listener.v1", "pooling": _POOLINGS[reduction], **kept}


@registry.architectures(_STAND_IN)
def build_stand_in(
    reduction: Model[Ragged, Floats2d], pooling: TokenPooling, grad_factor: float = 1.0, upstream: str = "*"
) -> Model[list[Doc], list[Floats2d]]:
    """The layers of spacy-transformers.TransformerListener.v1, only to load its saved state."""
    listener: Model[Any, Any] = Model("transformer-listener", _never, dims={"nO": None})
    arrays: Model[Any, Any] = Model("trfs2arrays", _never, layers=[reduction], attrs={"grad_factor": grad_factor})
    stand_in: Model[Any, Any] = chain(listener, arrays)
    stand_in.set_ref("listener", listener)
    replacement = Listener(upstream=None if upstream == "*" else upstream, pooling=pooling, grad_factor=grad_factor)
    stand_in.attrs[_REPLACEMENT] = replacement
    return stand_in


def _never(model: Model[Any, Any], inputs: Any, is_train: bool) -> Any:
    raise AssertionError("a stand-in is never run")


# --- weights and requirements


def _read_encoder(path: Path, pipe: EncoderPipe) -> Encoder:
    """Read the encoder from the file that spacy-transformers 1.1 and later write."""
    if not path.is_file():
        raise ConfigError(
            f"{path}: found {'a folder, as spacy-transformers 1.0 wrote it' if path.is_dir() else 'no such file'}; "
            "expected the file that later versions write; fix: load and save the pipeline with spacy-transformers 1.4"
        )
    shims = [shim for shims in srsly.msgpack_loads(path.read_bytes())["shims"] for shim in shims]
    saved = next((content for content in map(srsly.msgpack_loads, shims) if content.get("state")), None)
    if saved is None:
        raise ValueError("no weights")
    state = torch.load(BytesIO(saved["state"]), map_location="cpu", weights_only=True)
    with TemporaryDirectory() as name:
        folder = Path(name)
        weights = {key: tensor.contiguous().clone() for key, tensor in state.items()}
        with writing(folder):
            for file, content in saved["tokenizer"].items():
                if isinstance(content, bytes):  # the others are arguments of the tokenizer
                    (folder / Path(file).name).write_bytes(content)
            (folder / "config.json").write_text(json.dumps(saved["config"]), encoding="utf-8")
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "The weights of .* lack")
            return load_folder(folder, pipe.model.attrs["settings"])


def _is_theirs(line: str) -> bool:
    try:
        return canonicalize_name(Requirement(line).name) == "spacy-transformers"
    except InvalidRequirement:
        return False
