"""Folders of encoders: finding them, and checking what they hold. Without torch."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spacy_bertft.encoder.checkpoint import CONFIG, GRAPH, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS
from spacy_bertft.encoder.weights_check import listed
from spacy_bertft.errors import BertftError, EncoderError

_WEIGHT_FILES = (WEIGHTS, "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def find_folder(name: str) -> Path | None:
    """The folder that `name` means: a local one, or package/path inside an installed package."""
    if name and Path(name).is_dir():
        return Path(name)
    package, _, inside = name.partition("/")
    if not inside or not package.isidentifier() or package == "__main__":
        return None
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return next((Path(place, inside) for place in places or () if Path(place, inside).is_dir()), None)


def check_files(folder: Path) -> dict[str, Any]:
    """Read the config of a saved encoder. Raises an EncoderError if one of its small files is missing or invalid."""
    for name in (CONFIG, TOKENIZER, TOKENIZER_CONFIG):
        if not (folder / name).is_file():
            raise EncoderError(
                f"The folder {folder} of a saved encoder holds no {name} (found: {_found(folder)}). Expected all files "
                "that were saved with the pipeline. Copy it again."
            )
    limit = _read_object(folder / TOKENIZER_CONFIG).get("model_max_length")
    if isinstance(limit, bool) or not isinstance(limit, int | float | None):
        raise EncoderError(
            f"The file {folder / TOKENIZER_CONFIG} has {repr(limit)[:80]} as model_max_length. Expected a number. Copy "
            "the saved file again."
        )
    return _read_object(folder / CONFIG)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise EncoderError(
            f"The file {path} is not JSON: {error}. Expected it as it was saved. Copy it again."
        ) from error
    if not isinstance(content, dict):
        raise EncoderError(
            f"The file {path} holds a JSON {type(content).__name__}. Expected an object of settings, as it was saved. "
            "Copy it again."
        )
    return content


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Turn the various errors of transformers, tokenizers and safetensors into an EncoderError."""
    try:
        yield
    except BertftError:
        raise
    except Exception as error:
        raise EncoderError(
            f"The encoder folder {folder} could not be loaded: {first_line(error)} (found: {_found(folder)}). "
            "Expected a Hugging Face model folder with config.json, complete weights and the files of a fast "
            "tokenizer. Check that the copy is complete."
        ) from error


def _found(folder: Path) -> str:
    return listed(sorted(path.name for path in folder.iterdir()))


def require_files(folder: Path, *, weights: bool = True) -> list[str]:
    """The names of a folder's files. Raises an EncoderError if it holds no config.json or no weights."""
    found = sorted(path.name for path in folder.iterdir())
    if CONFIG not in found:
        raise EncoderError(
            f"The folder {folder} holds no config.json (found: {listed(found)}). Expected a Hugging Face model "
            "folder: config.json, model.safetensors and tokenizer files. Give its path as the encoder's name."
        )
    if weights and not set(_WEIGHT_FILES) & set(found):
        graph = f' Its {GRAPH} runs with backend = "onnxruntime".' if GRAPH in found else ""
        raise EncoderError(
            f"The encoder folder {folder} holds no weights (found: {listed(found)}). Expected one of "
            f"{', '.join(_WEIGHT_FILES)}. Save the model there with save_pretrained, or copy its weights.{graph}"
        )
    return found


def first_line(error: Exception) -> str:
    """The first line of an error's text that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
