"""Thread limits for worker processes, which share the cores of one machine."""

from __future__ import annotations

import os
from multiprocessing import parent_process

import torch


class ThreadGuard:
    """Limit PyTorch to one thread in a worker of nlp.pipe(n_process=…): other workers use the other cores.

    A forked process, whoever forked it, would also wait forever for threads that were not forked with it.
    """

    def __init__(self) -> None:
        self._process = self._origin = os.getpid()

    def __call__(self) -> None:
        """Check which process this is; called before PyTorch computes anything."""
        forked = os.getpid() != self._process
        spawned = os.getpid() != self._origin and parent_process() is not None
        if forked or spawned:
            torch.set_num_threads(1)
            self._process = self._origin = os.getpid()

    def __getstate__(self) -> int:
        return self._origin

    def __setstate__(self, origin: int) -> None:
        self._process, self._origin = os.getpid(), origin
