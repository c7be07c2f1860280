"""ONNX Runtime as an engine, on the CPU, for encoders that `bertft export` wrote."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacy_bertft import compat
from spacy_bertft.errors import EncoderError, how_to_install
from spacy_bertft.text.batches import pad
from spacy_bertft.types import Floats, Packed

# The graph's inputs (windows, longest), int64, and outputs. It removes padding for everything except attention, and has
# no input for segments if the encoder doesn't distinguish them.
IDS, MASK, SEGMENTS = "input_ids", "attention_mask", "token_type_ids"
HIDDEN, ROWS = "last_hidden_state", "packed_hidden_state"  # (windows, longest, D) and (N, D) float32


_inherited: list[Any] = []


class OnnxEngine:
    """Runs a graph that engines/onnx_graph.py built."""

    padded = True
    budget = 512

    def __init__(self, graph: NDArray[np.uint8], *, padding: int | None) -> None:
        """padding: the id of the padding subword, if there is one. The graph ignores padding, whatever its id."""
        self.graph = graph
        self.padding = padding or 0
        self._session: Any = None
        self._process = 0

    def __call__(self, packed: Packed) -> Floats:
        """Run one forward pass; attention stays within each window. -> (N, D) float32."""
        real, ids = pad(packed.ids, packed.lengths, self.padding)
        segments = np.zeros_like(ids) if packed.segments is None else pad(packed.segments, packed.lengths, 0)[1]
        (rows,) = self._run([ROWS], {IDS: ids, MASK: real.astype(np.int64), SEGMENTS: segments})
        return rows

    def _run(self, outputs: list[str], inputs: dict[str, NDArray[np.int64]]) -> list[Floats]:
        """Run the graph and return the named outputs; inputs that the graph lacks are left out."""
        if self._session is None or self._process != os.getpid():
            # A forked worker doesn't have the session's threads: it creates a new session, and never deletes the
            # inherited one, which would wait for those threads.
            if self._session is not None:
                _inherited.append(self._session)
            self._session, self._process = _session(self.graph), os.getpid()
        known = [one.name for one in self._session.get_inputs()]
        found: list[Floats] = self._session.run(outputs, {name: inputs[name] for name in known})
        return found


def _session(graph: NDArray[np.uint8]) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise EncoderError(
            'The encoder\'s backend is "onnxruntime", which is not installed. Expected the package onnxruntime: '
            f"{how_to_install('onnx', distribution='spacy-bertft-core')}."
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = compat.n_threads()
    options.log_severity_level = 3  # errors only
    # Spinning threads would take the cores from the heads, other workers and other programs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The graph is already fused as needed: ONNX Runtime's own fusion of sum and norm is several times slower on a CPU.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        return onnxruntime.InferenceSession(graph.tobytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own exception types
        raise EncoderError(
            f"The encoder's model.onnx could not be read by ONNX Runtime {onnxruntime.__version__}: {error} Expected "
            "the whole file that `bertft export` wrote. Check that the copy is complete, or export the pipeline again."
        ) from error
