"""Worker processes: their threads, what they share with others, and their end."""

from __future__ import annotations

import os
import subprocess
import sys

import catalogue
import pytest
from pipelines import trained
from spacy.tokens import Doc
from spacy.vocab import Vocab
from srsly import msgpack

from spacy_bertft.components import workers
from spacy_bertft.export import export

pytestmark = pytest.mark.touches_transformers

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


KILLED = """
import multiprocessing, os, signal, sys
import spacy
from spacy.language import Language
import spacy_bertft.components.workers

@Language.component("dies")
def dies(doc):
    if doc.text == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if doc.text == "raise":
        raise ValueError("raised")
    return doc

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    nlp = spacy.blank("xx")
    nlp.add_pipe("dies")
    # more than the pipes hold
    texts = ["a " * 300] * 50 + [sys.argv[2]] + ["b " * 3000] * 400
    try:
        for doc in nlp.pipe(texts, n_process=2, batch_size=int(sys.argv[3])):
            pass
    except (EOFError, ValueError) as error:
        print(type(error).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize(
    ("text", "size", "error"),
    [
        ("die", 50, "EOFError"),
        ("die", 1000, "EOFError"),  # the other worker gets no texts at all
        ("raise", 50, "ValueError"),  # and the other worker has more Docs to send than the pipe takes
    ],
)
def test_a_worker_that_ends_early_is_not_waited_for(tmp_path, method, text, size, error):
    """spaCy alone waits forever with forked workers."""
    script = tmp_path / "script.py"
    script.write_text(KILLED, encoding="utf-8")
    command = [sys.executable, "-W", "ignore", str(script), method, text, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == [error]


FORKS = """
import os, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
import spacy, torch

torch.set_num_threads(2)  # whose second thread no fork has
nlp = spacy.load(sys.argv[1])
texts = [f"Anna lives in Berlin with {number} friends" for number in range(40)]

def said(docs):
    return [([(ent.text, ent.label_) for ent in doc.ents], max(doc.cats, key=doc.cats.get)) for doc in docs]

def alone():
    return said(map(nlp, texts))

def stream():
    return said(nlp.pipe(texts))

def in_threads():
    with ThreadPoolExecutor(8) as pool:
        return said(pool.map(nlp, texts))

expected = stream()
for work in (lambda: expected, alone, stream, in_threads):
    child = os.fork()
    if not child:
        sys.exit(0 if work() == expected else 1)  # as gunicorn's workers end
    end = time.monotonic() + 60
    done = 0
    while not done and time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if not done:
        os.kill(child, signal.SIGKILL)
    print("hangs" if not done else os.waitstatus_to_exitcode(status))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_fork_goes_on_with_a_pipeline_that_has_predicted(tiny_bert, tmp_path, backend):
    """gunicorn --preload with a pipeline that has been tried, and with workers of several threads."""
    nlp = trained(tiny_bert)
    nlp.to_disk(tmp_path / "torch")
    if backend == "onnxruntime":
        export(tmp_path / "torch", tmp_path / "onnxruntime")
    script = tmp_path / "script.py"
    script.write_text(FORKS, encoding="utf-8")
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path / backend)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=True)
    assert done.stdout.split() == ["0"] * 4


@pytest.fixture
def encoders():
    """srsly's registry of encoders, as it was before and is afterwards."""
    before = dict(catalogue.REGISTRY)
    yield msgpack.msgpack_encoders
    catalogue.REGISTRY.clear()
    catalogue.REGISTRY.update(before)


def test_what_srsly_packs_with_is_looked_up_once_until_it_changes(encoders, monkeypatch):
    fresh = catalogue.Registry(encoders.namespace, entry_points=True)
    looked = []
    monkeypatch.setattr(fresh, "get_all", lambda: looked.append(1) or catalogue.Registry.get_all(fresh))
    remembered = workers._Remembering(fresh)
    assert remembered() == remembered() == encoders.get_all()
    assert len(looked) == 1
    remembered().clear()  # a copy
    for change in (
        lambda: encoders.register("own", func=len),
        lambda: encoders.register("own", func=repr),  # in place of the first
        lambda: encoders.register("numpy", func=repr),
        lambda: catalogue.REGISTRY.pop(("srsly", "msgpack_encoders", "own")),
    ):
        change()
        assert remembered() == catalogue.Registry.get_all(fresh) == encoders.get_all()
    assert len(looked) == 5


def test_a_new_encoder_counts_after_docs_were_packed(encoders):
    class Own:
        pass

    doc = Doc(Vocab(), words=["Anna"])
    doc.to_bytes()
    doc.user_data["own"] = Own()
    with pytest.raises(TypeError, match="Own"):
        doc.to_bytes()
    encoders.register("own", func=lambda value, chain=None: "an Own" if isinstance(value, Own) else chain(value))
    assert Doc(Vocab()).from_bytes(doc.to_bytes()).user_data["own"] == "an Own"


def test_packing_a_doc_does_not_go_through_all_functions(monkeypatch):
    doc = Doc(Vocab(), words=["Anna"])
    packed = doc.to_bytes()

    def look(registry):
        raise AssertionError(registry.namespace)

    monkeypatch.setattr(catalogue.Registry, "get_all", look)
    assert doc.to_bytes() == packed
    assert Doc(Vocab()).from_bytes(packed).text == "Anna "
