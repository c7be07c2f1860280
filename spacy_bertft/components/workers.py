"""Worker processes of nlp.pipe(n_process=…): their threads, the pipes that they inherit, the Docs that they send."""

from __future__ import annotations

import os
import sys
from multiprocessing import parent_process
from typing import Any

import catalogue
from srsly.msgpack import msgpack_decoders, msgpack_encoders

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


class _Remembering:
    """A registry's `get_all` that goes through everything again only if the registry may have changed.

    srsly asks for its functions whenever it packs or unpacks something, six times for a Doc that a worker sends, and
    catalogue then goes through all functions that are registered anywhere and all entry points of the environment: most
    of the time of Doc.to_bytes and Doc.from_bytes.
    """

    def __init__(self, registry: catalogue.Registry) -> None:
        self._registry, self._look = registry, registry.get_all
        self._size = -1
        self._found: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        known, size = catalogue.REGISTRY, len(catalogue.REGISTRY)
        names = self._registry.namespace
        if size != self._size or any(known.get((*names, name), one) is not one for name, one in self._found.items()):
            self._found, self._size = self._look(), size
        return dict(self._found)


for _registry in (msgpack_encoders, msgpack_decoders):
    _registry.get_all = _Remembering(_registry)
