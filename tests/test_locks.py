"""Locks in a forked process, and their copies."""

from __future__ import annotations

import copy
import os
import pickle
from threading import Event, Thread

import pytest

from spacy_bertft.locks import Lock


def held_by_another_thread(lock, function):
    """The result of a function that is called while another thread holds a lock."""
    held, over = Event(), Event()

    def hold():
        with lock:
            held.set()
            over.wait(timeout=60)

    thread = Thread(target=hold)
    thread.start()
    assert held.wait(timeout=60)
    try:
        return function()
    finally:
        over.set()
        thread.join()


def is_open(lock):
    free = lock._lock.acquire(blocking=False)
    if free:
        lock._lock.release()
    return free


def test_one_thread_at_a_time_holds_it_and_may_do_so_twice():
    lock = Lock()
    with lock, lock:
        assert is_open(lock)  # for this thread
    assert not held_by_another_thread(lock, lambda: is_open(lock))
    assert is_open(lock)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_it_is_open_in_a_fork_that_lacks_the_thread_that_holds_it():
    lock = Lock()

    def fork():
        child = os.fork()
        if not child:
            os._exit(0 if is_open(lock) else 1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert held_by_another_thread(lock, fork) == 0


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda lock: pickle.loads(pickle.dumps(lock))])
def test_copies_are_locks_of_their_own(twin_of):
    lock = Lock()
    twin = twin_of(lock)
    assert held_by_another_thread(lock, lambda: is_open(twin))
