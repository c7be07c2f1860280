"""Processes that share a machine with others like them."""

from __future__ import annotations

import os
from multiprocessing import parent_process

import torch


class ThreadGuard:
    """One thread of PyTorch for a worker of nlp.pipe(n_process=…): there are others for the other cores.

    A forked process, whoever forked it, would also wait in vain for threads that were not forked with it.
    """

    def __init__(self) -> None:
        self._process = self._origin = os.getpid()

    def __call__(self) -> None:
        """Look where this is, before PyTorch computes anything."""
        forked = os.getpid() != self._process
        spawned = os.getpid() != self._origin and parent_process() is not None
        if forked or spawned:
            torch.set_num_threads(1)
            self._process = self._origin = os.getpid()

    def __getstate__(self) -> int:
        return self._origin

    def __setstate__(self, origin: int) -> None:
        self._process, self._origin = os.getpid(), origin
