"""How fast raw text becomes a cache for pretraining: MB of UTF-8 text a second, and a second of CPU time (a core).

    RAYON_NUM_THREADS=1 python benchmarks/pretraining/tokenise.py TOKENIZER FILE...

Times the ways to get ids from texts on the first megabytes, reading (and unpacking) alone, and building the cache from
the files as they are and from the same texts as a plain .txt. RAYON_NUM_THREADS says how many threads tokenizers uses.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from tokenizers import Tokenizer

from spacy_bertft.jobs.pretraining.cache import build_cache
from spacy_bertft.jobs.pretraining.texts import read_documents
from spacy_bertft.jobs.pretraining.tokenise import BATCH_TEXTS, WordTable, encode_fast, splits_at_spaces

MB = 10**6


def main(
    tokenizer: Annotated[Path, typer.Argument(help="Folder with a tokenizer.json.")],
    files: Annotated[list[Path], typer.Argument(help="Files or folders of text.")],
    sample: Annotated[float, typer.Option(help="MB of text that the ways to tokenise are compared on; 0: none.")] = 3,
) -> None:
    tok = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    tok.no_truncation()
    tok.no_padding()
    tok.encode_special_tokens = True
    threads = os.environ.get("RAYON_NUM_THREADS", "all")
    print(f"{tok.get_vocab_size():,} subwords, threads: {threads}, cores: {os.cpu_count()}")
    write(files[:1], None)  # so that it is in the disk cache
    if sample:
        compare(tok, list(head(files, sample * MB)))
    with tempfile.TemporaryDirectory() as name:
        unpacked = Path(name, "texts.txt")
        n_bytes = measure("reading alone", lambda: write(files, None))
        write(files, unpacked)
        measure("the cache, from the files", lambda: build_cache(files, tok, Path(name, "cache")).n_bytes)
        measure("the cache, from plain text", lambda: build_cache([unpacked], tok, Path(name, "cache")).n_bytes)
        size = sum(path.stat().st_size for path in Path(name, "cache").iterdir())
    print(f"{n_bytes / MB:.1f} MB of text, a cache of {size / MB:.1f} MB")
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def compare(tok: Tokenizer, texts: list[str]) -> None:
    """Time each way to tokenise, and check that the ids are the same."""
    n_bytes = sum(len(text.encode()) for text in texts)
    batches = [texts[start : start + BATCH_TEXTS] for start in range(0, len(texts), BATCH_TEXTS)]
    found: list[Any] = []

    def slow() -> int:
        encodings = chain.from_iterable(tok.encode_batch(batch, add_special_tokens=False) for batch in batches)
        found.append([subword for encoding in encodings for subword in encoding.ids])
        return n_bytes

    def fast() -> int:
        encodings = chain.from_iterable(encode_fast(tok, batch) for batch in batches)
        found.append([subword for encoding in encodings for subword in encoding.ids])
        return n_bytes

    def table() -> int:
        encode = WordTable(tok, np.dtype("<u4"))
        found.append(np.concatenate([encode(batch)[0] for batch in batches]).tolist())
        return n_bytes

    measure("encode_batch", slow)
    measure("encode_batch_fast", fast)
    if splits_at_spaces(tok):
        measure("the table of words", table)
    same = all(ids == found[0] for ids in found)
    print(f"the same ids from each, on {n_bytes / MB:.1f} MB: {'yes' if same else 'NO'}")


def measure(what: str, run: Callable[[], int]) -> int:
    """Print the speed of `run`, which says how many bytes of text it went through."""
    wall, cpu = time.perf_counter(), time.process_time()
    n_bytes = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:27} {n_bytes / MB / wall:7.2f} MB/s  {n_bytes / MB / cpu:7.2f} MB/s a core", flush=True)
    return n_bytes


def write(files: list[Path], target: Path | None) -> int:
    """Read all texts, and write them as one file if there is a target; the bytes of them."""
    n_bytes = 0
    with open(target or os.devnull, "w", encoding="utf-8") as out:
        for document in read_documents(files):
            n_bytes += sum(len(text.encode()) for text in document)
            if target is not None:
                out.write("\n".join(document) + "\n\n")
    return n_bytes


def head(files: list[Path], n_bytes: float) -> Iterator[str]:
    for text in chain.from_iterable(read_documents(files)):
        n_bytes -= len(text.encode())
        if n_bytes < 0:
            return
        yield text


if __name__ == "__main__":
    typer.run(main)
