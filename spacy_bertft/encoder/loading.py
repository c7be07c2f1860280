"""Load encoders from a saved pipeline, a Hugging Face folder, an installed package or the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spacy_bertft import compat
from spacy_bertft.encoder.checkpoint import (
    CONFIG,
    GRAPH,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
    Checkpoint,
    read_checkpoint,
    read_graph,
    saved_files,
)
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.encoder.weights_check import check_finite, check_sizes, check_weights, listed, may_be_left
from spacy_bertft.engines.family_weights import read_net, read_shape
from spacy_bertft.errors import BertftError, EncoderError
from spacy_bertft.text.subwords import Splitter

_WEIGHT_FILES = (WEIGHTS, "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def load(name: str, settings: EncoderSettings, *, revision: str = "main") -> Encoder:
    """Load an encoder from a local folder, a folder of an installed package, or the Hugging Face hub."""
    folder = find_folder(name)
    if folder is not None:
        return load_folder(folder, settings)
    if settings.backend == "onnxruntime":
        raise EncoderError(
            f'The encoder\'s backend is "onnxruntime", but {name!r} is not a folder here ({Path(name).absolute()}). '
            'Expected a folder that `bertft export` wrote. Give its path, or set backend = "torch".'
        )
    with _on_hub(name):
        return _by_transformers(name, settings, revision=revision)


def load_splitter(name: str) -> Splitter:
    """Load the fast tokenizer of an encoder, which `name` means as in `load`, and nothing else of it."""
    folder = find_folder(name)
    with loading(name, folder):
        tokenizer = load_tokenizer(name) if folder is None else load_tokenizer(str(folder), local_files_only=True)
        return Splitter(Checkpoint(saved_files(tokenizer)).tokenizer())


def loading(name: str, folder: Path | None) -> AbstractContextManager[None]:
    """Turn the various errors of loading from the hub, or from the folder that `name` means, into an EncoderError."""
    return _on_hub(name) if folder is None else told(folder)


@contextmanager
def _on_hub(name: str) -> Iterator[None]:
    """Turn the various errors of loading a name that is no folder into an EncoderError."""
    try:
        yield
    except BertftError:
        raise
    except Exception as error:  # transformers raises many types of errors
        raise EncoderError(
            f"The encoder {name!r} is not a folder here ({Path(name).absolute()}), not a folder of an installed "
            f"package, and could not be loaded from the Hugging Face hub: {_first_line(error)} Expected a hub name "
            'such as "bert-base-cased" (needs a network or a filled cache), or the path of a folder with config.json, '
            "weights and tokenizer files."
        ) from error


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


def load_saved(folder: Path, settings: EncoderSettings) -> Encoder:
    """Load an encoder from the folder of a saved pipeline. Raises an EncoderError unless its weights are complete.

    The families in engines/family_names.py are loaded without transformers, because importing it takes longer
    than everything else; transformers' model is built when training needs it.
    """
    with told(folder):
        config = check_files(folder)
        if settings.backend == "torch" and (folder / WEIGHTS).is_file():
            checkpoint = read_checkpoint(folder)
            if checkpoint is not None:
                check_sizes(str(folder), config, checkpoint.weights)
            if checkpoint is not None and is_known(checkpoint):
                check_finite(str(folder), checkpoint.weights)
                return Encoder(checkpoint, settings)
        return load_folder(folder, settings, saved=True)


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
            f"The encoder folder {folder} could not be loaded: {_first_line(error)} (found: {_found(folder)}). "
            "Expected a Hugging Face model folder with config.json, complete weights and the files of a fast "
            "tokenizer. Check that the copy is complete."
        ) from error


def _found(folder: Path) -> str:
    return listed(sorted(path.name for path in folder.iterdir()))


class _Noted(dict[str, Tensor]):
    """Weights that record which of them were read."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.asked.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


def is_known(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint is of a known family, with all of its weights and no others."""
    shape = read_shape(checkpoint.config)
    weights = _Noted(checkpoint.weights)
    if shape is None or read_net(shape, weights) is None:
        return False
    return not [name for name in weights if name not in weights.asked and not may_be_left(name)]


def load_folder(folder: Path, settings: EncoderSettings, *, saved: bool = False) -> Encoder:
    """Load an encoder from a Hugging Face folder, without looking anywhere else.

    saved: the folder belongs to a saved pipeline, so missing weights are an error.
    """
    if settings.backend == "onnxruntime":
        return Encoder(_graph_of(folder), settings)
    require_files(folder)
    with told(folder):
        return _by_transformers(str(folder), settings, saved=saved, local_files_only=True)


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


def _graph_of(folder: Path) -> Checkpoint:
    found = require_files(folder, weights=False)
    if GRAPH not in found:
        raise EncoderError(
            f'The encoder\'s backend is "onnxruntime", but the folder {folder} holds no {GRAPH} (found: '
            f"{listed(found)}). Expected an exported pipeline: make one with `bertft export PIPELINE OUT --engine "
            'onnx`, or set backend = "torch".'
        )
    return read_graph(folder)


def _by_transformers(source: str, settings: EncoderSettings, *, saved: bool = False, **where: Any) -> Encoder:
    from transformers import AutoModel

    tokenizer = load_tokenizer(source, **where)
    with compat.quiet_transformers():
        model, report = AutoModel.from_pretrained(
            source,
            trust_remote_code=False,
            output_loading_info=True,
            **compat.dtype_argument(torch.float32),
            **where,
        )
        files = saved_files(tokenizer, model.config)
    check_finite(source, model.state_dict())
    missing = sorted(report["missing_keys"])
    absent = [name for name in missing if not may_be_left(name)]
    unknown = sorted(name for name in report["unexpected_keys"] if not may_be_left(name))
    check_weights(source, model, absent, unknown, saved=saved)
    return Encoder(Checkpoint(files, trained_pooler=len(absent) == len(missing)), settings, model=model)


def load_tokenizer(source: str, **where: Any) -> Any:
    """Load a fast tokenizer. where: arguments of from_pretrained; call it inside `loading`."""
    from transformers import AutoTokenizer

    with compat.quiet_transformers():
        tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **where)
        _check_tokenizer(source, tokenizer)
    return tokenizer


def _check_tokenizer(source: str, tokenizer: Any) -> None:
    if not tokenizer.is_fast:
        raise EncoderError(
            f"The tokenizer of {source!r} is a {type(tokenizer).__name__}, which has no fast version. Expected a "
            "fast tokenizer (tokenizer.json), because only those give character offsets. Choose an encoder that "
            "has one, or convert the tokenizer with the tokenizers library."
        )
    # Without tokenizer files, transformers 5 creates a tokenizer to which every word is unknown.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise EncoderError(
            f"The encoder {source!r} has no vocabulary: its tokenizer knows only "
            f"{listed(sorted(tokenizer.get_vocab()))}. Expected the files of a fast tokenizer (tokenizer.json) beside "
            "the weights. Save the tokenizer there with save_pretrained, or copy its files."
        )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
