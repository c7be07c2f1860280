"""An encoder as saved: the small files of its Hugging Face folder, and its weights or its ONNX graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from spacy_bertft import compat
from spacy_bertft.errors import ConfigError, EncoderError
from spacy_bertft.files import PART, replace_files

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from spacy_bertft.encoder.adapters import Adapter

CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
WEIGHTS, GRAPH = "model.safetensors", "model.onnx"
# peft's own file names and format, so that peft loads our adapters too.
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Our own, beside them: a hash of the base's weights.
ADAPTER_BASE = "adapter_base.json"
_SAVE_ID = "save_id"  # in the metadata of the weights


@dataclass(frozen=True)
class Checkpoint:
    """The files and weights that an encoder is built from and saved as."""

    files: Mapping[str, bytes]  # config.json, tokenizer.json and whatever else the tokenizer saves
    weights: Mapping[str, Tensor] = field(default_factory=dict)  # float32, named as AutoModel names them
    graph: NDArray[np.uint8] | None = None  # ONNX, instead of weights
    trained_pooler: bool = True  # False: the weights had no pooler
    adapter: Adapter | None = None  # beside the weights, which are then shared and saved elsewhere

    @cached_property
    def config(self) -> dict[str, Any]:
        """The encoder's config.json."""
        config: dict[str, Any] = json.loads(self.files[CONFIG])
        return config

    def tokenizer(self) -> Tokenizer:
        """The fast tokenizer, without truncation and padding."""
        try:
            tokenizer = Tokenizer.from_buffer(self.files[TOKENIZER])
        except Exception as error:  # tokenizers raises plain Exceptions
            raise EncoderError(
                f"The {TOKENIZER} of the encoder is not a valid tokenizer: {error} Expected the file as it was saved. "
                "Copy it again."
            ) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def limit(self, first_position: int) -> int | None:
        """The longest window that tokenizer and model allow; None if neither says. first_position: of a window."""
        of_tokenizer: float | None = json.loads(self.files.get(TOKENIZER_CONFIG, b"{}")).get("model_max_length")
        positions = self.config.get("max_position_embeddings")
        limits = [of_tokenizer, positions - first_position if positions and positions > 0 else None]
        # Checkpoints without a limit say 1e30.
        known = [int(limit) for limit in limits if limit is not None and 0 < limit < 10**6]
        return min(known, default=None)

    def model(self) -> PreTrainedModel:
        """transformers' model with these weights."""
        import torch
        from transformers import AutoConfig, AutoModel

        with TemporaryDirectory() as folder, compat.quiet_transformers():
            Path(folder, CONFIG).write_bytes(self.files[CONFIG])
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            with torch.device("meta"):
                kind: Any = type(AutoModel.from_config(config))  # type: ignore[no-untyped-call]
            model: PreTrainedModel = kind.from_pretrained(
                None, config=config, state_dict=dict(self.weights), **compat.dtype_argument(torch.float32)
            )
        return model

    def whole(self) -> Checkpoint:
        """The same with an adapter folded into the weights."""
        return self if self.adapter is None else replace(self, weights=self.adapter.folded(), adapter=None)

    def digest(self) -> str | None:
        """A hash of the weights, or of an adapter and what it belongs to; None for a graph."""
        if self.graph is not None:
            return None
        import torch

        digest = blake2b(digest_size=16)
        weights = self.weights_to_save() if self.adapter is None else self.adapter.tensors()
        for content in () if self.adapter is None else self.adapter.config().values():
            digest.update(content)
        for name, tensor in sorted(weights.items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def weights_to_save(self) -> dict[str, Tensor]:
        """The weights without buffers of positions and untrained poolers."""
        # An untrained pooler would be taken for a trained one after loading.
        kept = (
            name
            for name in self.weights
            if "position_ids" not in name and (self.trained_pooler or "pooler" not in name)
        )
        return {name: self.weights[name].contiguous() for name in kept}

    def write(self, folder: Path, *, save_id: str | None = None) -> None:
        """Write a plain Hugging Face folder, each file atomically; if one can't be written, all stay as they were.

        save_id: stored in the weights' file, so that the two can't get separated.
        """
        small = {name: partial(Path.write_bytes, data=content) for name, content in self.files.items()}
        if self.graph is not None:
            replace_files(folder, {GRAPH: self.graph.tofile, **small})
            return
        # The weights first: their save id reveals a save that was interrupted after them. Then those of an earlier save
        # in the other form go.
        if self.adapter is None:
            replace_files(folder, {WEIGHTS: partial(_write_weights, self.weights_to_save(), save_id), **small})
            others: tuple[str, ...] = (ADAPTER_CONFIG, ADAPTER_BASE, ADAPTER_WEIGHTS)
        else:
            _check_base_elsewhere(self.adapter, folder)
            for name, content in self.adapter.config().items():
                small[name] = partial(Path.write_bytes, data=content)
            replace_files(folder, {ADAPTER_WEIGHTS: partial(_write_weights, self.adapter.tensors(), save_id), **small})
            others = (WEIGHTS,)
        for name in others:
            (folder / name).unlink(missing_ok=True)


def _check_base_elsewhere(adapter: Adapter, folder: Path) -> None:
    if Path(adapter.name).resolve() == folder.resolve():
        raise ConfigError(
            f"The adapter would be saved over the encoder that it belongs to, in {folder}. Expected another folder. "
            "Save the pipeline elsewhere."
        )


def _write_weights(weights: dict[str, Tensor], save_id: str | None, path: Path) -> None:
    from safetensors.torch import save_file

    if save_id is None:
        save_file(weights, path, metadata={"format": "pt"})
        return
    save_file(weights, path, metadata={"format": "pt", _SAVE_ID: save_id})
    # safetensors writes two metadata entries in any order; the same weights should give the same file.
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
        if len(content) == size:
            file.seek(8)
            file.write(content)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Read a folder with one weights file and a fast tokenizer, as `Checkpoint.write` saves it; else None.

    The weights stay on disk, mapped into memory, until they are used.
    """
    if not all((folder / name).is_file() for name in (CONFIG, TOKENIZER, WEIGHTS)):
        return None
    from safetensors.torch import load_file

    try:
        found = load_file(folder / WEIGHTS)
    except SafetensorError:
        return None
    whole = [name for name, tensor in found.items() if not (tensor.is_floating_point() or "position_ids" in name)]
    if whole:
        raise EncoderError(
            f"The file {folder / WEIGHTS} holds integers, in {', '.join(whole[:8])}. Expected floating-point weights: "
            "the file is damaged. Copy it again."
        )
    weights = {name: tensor.float() for name, tensor in found.items()}
    return Checkpoint(read_files(folder), weights, trained_pooler=any("pooler" in name for name in weights))


def read_save_id(folder: Path) -> str | None:
    """The id that the weights of a folder were saved with; None if they were saved without."""
    path = folder / (ADAPTER_WEIGHTS if (folder / ADAPTER_CONFIG).is_file() else WEIGHTS)
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as weights:
        save_id: str | None = (weights.metadata() or {}).get(_SAVE_ID)
    return save_id


def read_graph(folder: Path) -> Checkpoint:
    """Read a folder that `bertft export` wrote. The graph stays on disk, mapped into memory, until it is used."""
    return Checkpoint(read_files(folder), graph=np.memmap(folder / GRAPH, dtype=np.uint8, mode="r"))


def read_files(folder: Path) -> dict[str, bytes]:
    """All files of a Hugging Face folder except weights, graphs and adapters."""
    heavy = (".safetensors", ".bin", ".onnx", ".index.json", ".h5", ".msgpack", ".ot")
    left_out = (*heavy, PART, ADAPTER_CONFIG, ADAPTER_BASE)  # a save that was killed leaves parts
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.endswith(left_out)
    }


def saved_files(*parts: Any) -> dict[str, bytes]:
    """The files that transformers' configs and tokenizers save."""
    with TemporaryDirectory() as folder:
        for part in parts:
            part.save_pretrained(folder)
        return read_files(Path(folder))


def n_layer_parameters(weights: Mapping[str, Tensor]) -> int:
    """The number of parameters in an encoder's layers: without embeddings and pooler."""
    return sum(one.numel() for name, one in weights.items() if "embeddings" not in name and "pooler" not in name)
