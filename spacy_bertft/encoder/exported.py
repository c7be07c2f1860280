"""An encoder that `bertft export` wrote: ONNX Runtime runs it, with numpy's arrays and without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from spacy_bertft.encoder.checkpoint import GRAPH, Checkpoint, read_graph
from spacy_bertft.encoder.folders import check_files, find_folder, require_files, told
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.encoder.text_encoder import TextEncoder
from spacy_bertft.encoder.weights_check import listed
from spacy_bertft.engines.family_weights import read_shape
from spacy_bertft.engines.onnx import OnnxEngine
from spacy_bertft.errors import ConfigError, EncoderError
from spacy_bertft.locks import Lock
from spacy_bertft.text.subwords import Splitter, Texts
from spacy_bertft.types import Features, Floats, Ints, Windows


class ExportedEncoder(TextEncoder):
    """An encoder on a CPU whose weights are in an ONNX graph, so that it can't be trained. It never changes."""

    device = "cpu"

    def __init__(self, checkpoint: Checkpoint, settings: EncoderSettings) -> None:
        shape = read_shape(checkpoint.config)
        if shape is None or checkpoint.graph is None:
            raise EncoderError(
                f"The config.json of an exported encoder is of the family {checkpoint.config.get('model_type')!r}. "
                "Expected one that `bertft export` writes. Copy the exported pipeline again."
            )
        self.checkpoint = checkpoint
        self.settings = settings
        self.splitter = Splitter(checkpoint.tokenizer())
        self._width = shape.width
        self._set_windows(checkpoint.limit(shape.first_position))
        self._graph: NDArray[np.uint8] = checkpoint.graph
        self._engine: OnnxEngine | None = None
        self._building = Lock()  # threads that share a pipeline may all start at once

    @property
    def trainable(self) -> bool:
        """No."""
        return False

    @property
    def width(self) -> int:
        """Width of the hidden states, D."""
        return self._width

    @property
    def budget(self) -> int:
        """Maximum number of subwords in a forward pass."""
        return self.settings.batch_subwords or OnnxEngine.budget

    @property
    def model(self) -> NoReturn:
        """Raise the ConfigError for those who want to train it."""
        raise ConfigError(
            "The encoder was exported to ONNX Runtime and can't be trained or changed. Expected backend = "
            '"torch" and the pipeline that it was exported from: train that one and export it again.'
        )

    def at_rest(self) -> Checkpoint:
        """Its files and graph."""
        return self.checkpoint

    to_save = at_rest

    def engine(self) -> OnnxEngine:
        """What runs the graph, made at its first use."""
        with self._building:
            if self._engine is None:
                self._engine = OnnxEngine(self._graph, padding=self.checkpoint.config.get("pad_token_id"))
            return self._engine

    def predict(self, texts: Texts) -> Features:
        """Encode whole texts of any length."""
        return self._features(texts)

    def _hidden(self, ids: Ints, windows: Windows) -> tuple[Floats, Ints]:
        run = self.engine()
        batches, first_rows = self._batches(ids, windows, budget=self.budget, padded=run.padded)
        hidden = np.empty((sum(len(batch.ids) for batch in batches), self.width), dtype=np.float32)
        done = 0
        for batch in batches:
            hidden[done : done + len(batch.ids)] = run(batch)
            done += len(batch.ids)
        return hidden, first_rows

    def __getstate__(self) -> dict[str, Any]:
        # Copies make sessions of their own: those of ONNX Runtime can't be copied.
        return {**self.__dict__, "_engine": None}


def load_exported(folder: Path, settings: EncoderSettings) -> ExportedEncoder:
    """Load an encoder from a folder that `bertft export` wrote. Raises an EncoderError if it is another."""
    with told(folder):
        found = require_files(folder, weights=False)
        if GRAPH not in found:
            raise EncoderError(
                f'The encoder\'s backend is "onnxruntime", but the folder {folder} holds no {GRAPH} (found: '
                f"{listed(found)}). Expected an exported pipeline: make one with `bertft export PIPELINE OUT --engine "
                'onnx`, or set backend = "torch".'
            )
        check_files(folder)
        return ExportedEncoder(read_graph(folder), settings)


def load_named_export(name: str, settings: EncoderSettings) -> ExportedEncoder:
    """Load an exported encoder from a local folder, or a folder of an installed package."""
    folder = find_folder(name)
    if folder is None:
        raise EncoderError(
            f'The encoder\'s backend is "onnxruntime", but {name!r} is not a folder here ({Path(name).absolute()}). '
            'Expected a folder that `bertft export` wrote. Give its path, or set backend = "torch".'
        )
    return load_exported(folder, settings)
