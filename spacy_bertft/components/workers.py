"""Worker processes of nlp.pipe(n_process=…): their threads, and the pipes that they inherit."""

from __future__ import annotations

import os
import sys
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


def _close_pipes_of_others() -> None:
    """Close what a forked worker of nlp.pipe inherits of the pipes through which workers send Docs, except its own end.

    spaCy leaves them open, and so waits forever for Docs of a worker that was killed, whose pipe the other workers hold
    open, or for a worker that waits to send more Docs after spaCy has stopped reading. With them closed, the first ends
    in an EOFError, and the second worker stops.
    """
    frame = sys._getframe()
    while frame.f_code.co_name != "_multiprocessing_pipe":
        if frame.f_back is None:
            return  # forked by others
        frame = frame.f_back
    ours = frame.f_locals
    try:
        own = ours["bytedocs_send_ch"][ours["procs"].index(ours["proc"])]
        pipes = (*ours["bytedocs_send_ch"], *ours["bytedocs_recv_ch"])
    except (KeyError, ValueError, IndexError):  # another version of spaCy
        return
    for pipe in pipes:
        if pipe is not own:
            pipe.close()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_close_pipes_of_others)
