"""An encoder at rest: the small files of its Hugging Face folder, and its weights or its ONNX graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from spacy_bertft import compat
from spacy_bertft.engines.base import Form
from spacy_bertft.files import replace_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG, _TOKENIZER, _TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
WEIGHTS, GRAPH = "model.safetensors", "model.onnx"


@dataclass(frozen=True)
class Checkpoint:
    """What an encoder is made from, and saved as."""

    files: Mapping[str, bytes]  # config.json, tokenizer.json and whatever else the tokenizer saves
    weights: Mapping[str, Tensor] = field(default_factory=dict)  # float32, named as AutoModel names them
    graph: NDArray[np.uint8] | None = None  # of ONNX; then there are no weights
    trained_pooler: bool = True  # False: the weights had none

    @property
    def form(self) -> Form:
        """What it is kept as. Weights are whole: each engine can be made from them."""
        return "weights" if self.graph is None else "onnx"

    @cached_property
    def config(self) -> dict[str, Any]:
        """The encoder's config.json."""
        config: dict[str, Any] = json.loads(self.files[CONFIG])
        return config

    def tokenizer(self) -> Tokenizer:
        """The fast tokenizer, which neither cuts off nor pads."""
        tokenizer = Tokenizer.from_buffer(self.files[_TOKENIZER])
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @property
    def tokenizer_limit(self) -> float | None:
        """The longest text that the tokenizer allows, in subwords; checkpoints without a limit say 1e30."""
        limit: float | None = json.loads(self.files.get(_TOKENIZER_CONFIG, b"{}")).get("model_max_length")
        return limit

    def model(self) -> PreTrainedModel:
        """transformers' model with these weights."""
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

    def write(self, folder: Path) -> None:
        """Write a plain Hugging Face folder, each file whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            replace_file(folder / name, partial(Path.write_bytes, data=content))
        if self.graph is not None:
            replace_file(folder / GRAPH, self.graph.tofile)
            return
        weights = {name: tensor.contiguous() for name, tensor in self.weights.items()}
        if not self.trained_pooler:  # or it would pass for trained when it is loaded again
            weights = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
        replace_file(folder / WEIGHTS, lambda part: save_file(weights, part, metadata={"format": "pt"}))


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """A folder with one file of weights and a fast tokenizer, as `Checkpoint.write` leaves it; None if it is another.

    The weights stay on disk, mapped into memory, until they are used.
    """
    if not all((folder / name).is_file() for name in (CONFIG, _TOKENIZER, WEIGHTS)):
        return None
    try:
        weights = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    except SafetensorError:
        return None
    return Checkpoint(_read_files(folder), weights, trained_pooler=any("pooler" in name for name in weights))


def read_graph(folder: Path) -> Checkpoint:
    """A folder that `bertft export` wrote. The graph stays on disk, mapped into memory, until it is used."""
    return Checkpoint(_read_files(folder), graph=np.memmap(folder / GRAPH, dtype=np.uint8, mode="r"))


def _read_files(folder: Path) -> dict[str, bytes]:
    """Everything in a Hugging Face folder but weights."""
    heavy = (".safetensors", ".bin", ".onnx", ".index.json", ".h5", ".msgpack", ".ot")
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.endswith(heavy)
    }


def saved_files(*parts: Any) -> dict[str, bytes]:
    """The files that transformers' configs and tokenizers save."""
    with TemporaryDirectory() as folder:
        for part in parts:
            part.save_pretrained(folder)
        return _read_files(Path(folder))
