"""A lock that a fork does not leave closed."""

from __future__ import annotations

import os
from threading import RLock
from typing import Any
from weakref import WeakSet


class Lock:
    """A reentrant lock, open in a forked process even if a thread of the parent, which the fork lacks, holds it.

    Copies of it, pickled ones too, are new locks.
    """

    def __init__(self) -> None:
        self.reopen()
        _locks.add(self)

    def reopen(self) -> None:
        """Forget who holds it."""
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return Lock, ()


_locks: WeakSet[Lock] = WeakSet()


def _reopen_all() -> None:
    for lock in list(_locks):
        lock.reopen()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_reopen_all)
