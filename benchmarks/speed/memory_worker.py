"""One measurement of memory.py in a process of its own; the last line of stdout is what was found, as JSON.

python memory_worker.py FUNCTION JOB
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

from texts import short_pool

WARM_UP = 500  # texts before the first look at the memory
STEPS = 10  # looks at the memory along a stream

Job = dict[str, Any]
Found = dict[str, Any]
Annotations = tuple[list[tuple[int, int, str]], list[float]]  # entities, and all scores in order


def keep(job: Job) -> Found:
    """Memory before and after a list of all Docs; their entities go to a file for `bare`.

    All texts have been read once before, so that what grows is Docs, not what the allocator and oneDNN keep.
    """
    nlp = _load(job, warm_up=job["n"])
    before = resident()
    docs = list(nlp.pipe(_texts(job)))
    gc.collect()
    after = resident()
    entities = [[(ent.start, ent.end, ent.label_) for ent in doc.ents] for doc in docs]
    Path(job["entities"]).write_text(json.dumps(entities), encoding="utf-8")
    return {"before": before, "after": after}


def bare(job: Job) -> Found:
    """Memory before and after a list of Docs from a blank pipeline with the entities that `keep` found."""
    import spacy
    from spacy.tokens import Span

    nlp = spacy.blank("en")
    for text in _texts(job):
        nlp(text)
    entities = json.loads(Path(job["entities"]).read_text(encoding="utf-8"))
    gc.collect()
    before = resident()
    docs = []
    for text, of_text in zip(_texts(job), entities, strict=True):
        doc = nlp(text)
        doc.set_ents([Span(doc, start, end, label) for start, end, label in of_text])
        docs.append(doc)
    gc.collect()
    return {"before": before, "after": resident()}


def stream(job: Job) -> Found:
    """Memory after each tenth of a stream."""
    nlp = _load(job)
    sizes = [(0, resident())]
    start = time.perf_counter()
    for done, _ in enumerate(nlp.pipe(_texts(job)), start=1):
        if done % max(1, job["n"] // STEPS) == 0:
            sizes.append((done, resident()))
    return {"sizes": sizes, "seconds": time.perf_counter() - start}


def threads(job: Job) -> Found:
    """Memory after each tenth of the calls of nlp(text) from several threads."""
    nlp = _load(job)
    sizes = [(0, resident())]
    start, step = time.perf_counter(), max(1, job["n"] // STEPS)
    texts = _texts(job)
    with ThreadPoolExecutor(job["threads"]) as pool:
        for done in range(0, job["n"], step):
            for _ in pool.map(lambda text: len(nlp(text)), islice(texts, step)):
                pass
            sizes.append((min(done + step, job["n"]), resident()))
    return {"sizes": sizes, "seconds": time.perf_counter() - start}


def long(job: Job) -> Found:
    """Seconds and peak memory of one text of so many characters."""
    nlp = _load(job)
    text = _long_text(job, nlp)
    before = resident()
    start = time.perf_counter()
    doc = nlp(text)
    seconds = time.perf_counter() - start
    peak = _status("VmHWM")
    return {"before": before, "peak": peak, "seconds": seconds, "tokens": len(doc), "entities": len(doc.ents)}


def among(job: Job) -> Found:
    """Peak memory and seconds of one long text in the middle of short ones, and seconds of each kind alone."""
    nlp = _load(job)
    text = _long_text(job, nlp)
    texts = list(_texts({**job, "n": job["texts"]}))
    half = len(texts) // 2
    before = resident()
    together = _seconds(nlp, [*texts[:half], text, *texts[half:]])
    peak = _status("VmHWM")
    alone = {"short": _seconds(nlp, texts), "long": _seconds(nlp, [text])}
    return {"before": before, "peak": peak, "together": together, **alone}


def _seconds(nlp: Any, texts: list[str]) -> float:
    start = time.perf_counter()
    for _ in nlp.pipe(texts):
        pass
    return time.perf_counter() - start


def processes(job: Job) -> Found:
    """Seconds and annotations of one process, and of two started by `method`."""
    multiprocessing.set_start_method(job["method"])
    nlp = _load(job)
    texts = list(_texts(job))
    found: Found = {}
    annotations: list[list[Annotations]] = []
    for name, settings in (("seconds_one", {}), ("seconds_two", {"n_process": 2})):
        start = time.perf_counter()
        annotations.append([_annotations(doc) for doc in nlp.pipe(texts, **settings)])
        found[name] = time.perf_counter() - start
    pairs = list(zip(*annotations, strict=True))
    found["different"] = sum(one[0] != two[0] for one, two in pairs)
    scores = zip(*(chain.from_iterable(scores for _, scores in side) for side in annotations), strict=False)
    found["largest_difference"] = max((abs(one - two) for one, two in scores), default=0.0)
    return found


def _annotations(doc: Any) -> Annotations:
    entities = [(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents]
    return entities, [*(ent._.score for ent in doc.ents), *doc.cats.values()]


def _load(job: Job, warm_up: int = WARM_UP) -> Any:
    """The pipeline, after so many texts."""
    import spacy

    nlp = spacy.load(job["pipeline"])
    for _ in nlp.pipe(islice(_texts(job), warm_up)):
        pass
    gc.collect()
    return nlp


def _long_text(job: Job, nlp: Any) -> str:
    """Sentences one after the other, `n` characters, which the pipeline is told to take."""
    nlp.max_length = max(nlp.max_length, job["n"])
    pool = cycle(short_pool(Path(job["data"]), "wikigold"))
    parts: list[str] = []
    length = 0
    while length < job["n"]:
        parts.append(next(pool))
        length += len(parts[-1]) + 1
    return " ".join(parts)[: job["n"]]


def _texts(job: Job) -> Iterator[str]:
    """`n` sentences, the same again and again."""
    data = Path(job["data"])
    return islice(cycle([text for name in ("wikigold", "wnut17") for text in short_pool(data, name)]), job["n"])


def resident() -> float:
    """The memory that this process holds now, in MiB."""
    return _status("VmRSS")


def _status(key: str) -> float:
    """A size of this process, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


FUNCTIONS = {
    "keep": keep,
    "bare": bare,
    "stream": stream,
    "threads": threads,
    "long": long,
    "among": among,
    "processes": processes,
}

if __name__ == "__main__":
    print(json.dumps(FUNCTIONS[sys.argv[1]](json.loads(sys.argv[2]))))
