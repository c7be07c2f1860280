"""Threads of processes that others have started."""

from __future__ import annotations

import subprocess
import sys

import pytest

START = """
import multiprocessing, os, pickle, sys
import torch
from spacy_bertft.components.workers import ThreadGuard

def count(guard):
    torch.set_num_threads(2)
    guard()
    return torch.get_num_threads()

def forked(guard):
    child = os.fork()
    if not child:
        os._exit(count(guard))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def worker(guard):
    sys.exit(count(guard))

def spawned(guard):
    process = multiprocessing.get_context("spawn").Process(target=worker, args=(guard,))
    process.start()
    process.join()
    return process.exitcode

if __name__ == "__main__":
    guard = ThreadGuard()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "threads"),
    [
        ("count(guard)", 2),  # where it was made
        ("count(pickle.loads(pickle.dumps(guard)))", 2),
        ("forked(guard)", 1),
        ("spawned(guard)", 1),
    ],
)
def test_a_worker_computes_on_one_thread(tmp_path, where, threads):
    script = tmp_path / "script.py"
    script.write_text(f"{START}    print({where})\n", encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) == threads


@pytest.mark.slow
def test_a_copy_in_another_main_process_keeps_its_threads(tmp_path):
    make = tmp_path / "make.py"
    make.write_text(f"{START}    sys.stdout.buffer.write(pickle.dumps(guard))\n", encoding="utf-8")
    copied = subprocess.run([sys.executable, str(make)], capture_output=True, timeout=120, check=True).stdout
    read = tmp_path / "read.py"
    read.write_text(f"{START}    print(count(pickle.loads(sys.stdin.buffer.read())))\n", encoding="utf-8")
    done = subprocess.run([sys.executable, str(read)], input=copied, capture_output=True, timeout=120, check=True)
    assert int(done.stdout) == 2
