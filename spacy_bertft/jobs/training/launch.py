"""Start several processes of this machine that train together, as torchrun does, and end them together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from tempfile import TemporaryFile

from spacy_bertft.errors import ConfigError

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 20.0  # for the others to end after one has
_LINES = 20  # of the messages of one that failed


def launch(arguments: Sequence[str], count: int) -> int:
    """Run `python <arguments>` in `count` processes, and return the exit code: 0 if all succeed.

    If one ends with an error, the others are ended too, and its code is returned. The first one's output is shown, and
    the last messages of another one that fails. The cores are shared out, unless OMP_NUM_THREADS is set.
    Raises a ConfigError for fewer than one process.
    """
    if count < 1:
        raise ConfigError(f"processes: found {count}; expected 1 or more; fix: give the number of processes")
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count)),
    }
    with ExitStack() as stack:
        messages = [stack.enter_context(TemporaryFile()) for _ in range(count)]
        running = [
            subprocess.Popen(
                [sys.executable, *arguments],
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=messages[rank] if rank else None,
                stderr=messages[rank] if rank else None,
            )
            for rank in range(count)
        ]
        try:
            with _passed_on(signal.SIGTERM, running):
                failed = _wait(running)
        except KeyboardInterrupt:  # they have got it too, and write a checkpoint
            failed = _wait(running)
        finally:
            _end(running)
        for rank, process in enumerate(running):
            if rank and process.returncode and failed is not None:
                messages[rank].seek(0)
                lines = messages[rank].read().decode(errors="replace").splitlines(keepends=True)
                sys.stderr.write("".join(lines[-_LINES:]))
        return 0 if failed is None else running[failed].returncode


@contextmanager
def _passed_on(number: int, running: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Inside, the processes get a signal that this one gets."""
    if threading.current_thread() is not threading.main_thread():  # only it can handle signals
        yield
        return

    def pass_on(number: int, frame: object) -> None:
        for process in running:
            process.send_signal(number)

    before = signal.signal(number, pass_on)
    try:
        yield
    finally:
        signal.signal(number, before)


def _free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _wait(running: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait until all have ended, or one with an error, whose rank is returned."""
    while True:
        codes = [process.poll() for process in running]
        failed = next((rank for rank, code in enumerate(codes) if code), None)
        if failed is not None or None not in codes:
            return failed
        time.sleep(_POLL_SECONDS)


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """End those that still run: they would wait for the one that failed."""
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    until = time.monotonic() + _GRACE_SECONDS
    for process in running:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
