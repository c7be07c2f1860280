"""Thread limits for worker processes, which share the cores of one machine."""

from __future__ import annotations

import os
from multiprocessing import parent_process

from spacy_bertft import compat


class ThreadGuard:
    """Limit PyTorch and ONNX Runtime to one thread in a worker of nlp.pipe(n_process=…): others use the other cores.

    A forked process, whoever forked it, would also wait forever for threads that were not forked with it.
    """

    def __init__(self) -> None:
        self._process = self._origin = os.getpid()

    def __call__(self) -> None:
        """Check which process this is; called before anything is computed."""
        forked = os.getpid() != self._process
        spawned = os.getpid() != self._origin and parent_process() is not None
        if forked or spawned:
            compat.use_one_thread()
            self._process = self._origin = os.getpid()

    def __getstate__(self) -> int:
        return self._origin

    def __setstate__(self, origin: int) -> None:
        self._process, self._origin = os.getpid(), origin
