"""ONNX Runtime as an engine, on the CPU, for encoders that `bertft export` wrote."""

from __future__ import annotations

import ctypes
import os
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from spacy_bertft import compat
from spacy_bertft.errors import EncoderError, how_to_install
from spacy_bertft.locks import Lock
from spacy_bertft.text.batches import pad
from spacy_bertft.types import Floats, Packed

# The graph's inputs (windows, longest), int64, and outputs. It removes padding for everything except attention, and has
# no input for segments if the encoder doesn't distinguish them.
IDS, MASK, SEGMENTS = "input_ids", "attention_mask", "token_type_ids"
HIDDEN, ROWS = "last_hidden_state", "packed_hidden_state"  # (windows, longest, D) and (N, D) float32


# The sessions of this process.
_sessions: WeakSet[Any] = WeakSet()


def _keep_inherited() -> None:
    """Never delete the sessions that a forked process inherits, not even at its end.

    That would wait forever for their threads, which were not forked.
    """
    for session in _sessions:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    _sessions.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_keep_inherited)


class OnnxEngine:
    """Runs a graph that engines/onnx_graph.py built."""

    padded = True
    budget = 512

    def __init__(self, graph: NDArray[np.uint8], *, padding: int | None) -> None:
        """padding: the id of the padding subword, if there is one. The graph ignores padding, whatever its id."""
        self.graph = graph
        self.padding = padding or 0
        self._started: tuple[int, Any] | None = None  # a process, and its session
        self._starting = Lock()

    def __call__(self, packed: Packed) -> Floats:
        """Run one forward pass; attention stays within each window. -> (N, D) float32."""
        real, ids = pad(packed.ids, packed.lengths, self.padding)
        segments = np.zeros_like(ids) if packed.segments is None else pad(packed.segments, packed.lengths, 0)[1]
        (rows,) = self._run([ROWS], {IDS: ids, MASK: real.astype(np.int64), SEGMENTS: segments})
        return rows

    def _run(self, outputs: list[str], inputs: dict[str, NDArray[np.int64]]) -> list[Floats]:
        """Run the graph and return the named outputs; inputs that the graph lacks are left out."""
        session = self._session()
        known = [one.name for one in session.get_inputs()]
        found: list[Floats] = session.run(outputs, {name: inputs[name] for name in known})
        return found

    def _session(self) -> Any:
        """The session of this process. Threads may run it at the same time."""
        started, process = self._started, os.getpid()
        if started is not None and started[0] == process:
            return started[1]
        with self._starting:
            # A forked process doesn't have the threads of the session that it inherits, and creates a new one.
            if self._started is None or self._started[0] != process:
                self._started = process, _new_session(self.graph)
                _sessions.add(self._started[1])
            return self._started[1]


def _new_session(graph: NDArray[np.uint8]) -> Any:
    # Read at the import. ONNX Runtime 1.31 sends usage data, by threads that a forked process would wait for.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
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
