"""One subject in a process of its own.

python worker.py serve SPEC    answer requests, a JSON object a line, until stdin ends
python worker.py load SPEC     load once, answer with the seconds that took, and end

SPEC is a JSON object: kind ("spacy", "hf" or "meter"), path, texts (a JSON file of texts by set), batch_size,
precision, gpu.
Run by measure.py. Answers go to the real stdout; what libraries print goes to stderr.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

from limit import Shape, gflop, window_lengths

STARTED = time.perf_counter()  # the interpreter's own start does not count
OVERLAP = 64  # subwords that neighbouring windows of a text share in the Hugging Face pipeline
FEATURES = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "VNNI": "avx512_vnni",
    "BF16": "avx512_bf16",
    "AMX": "amx_tile",
}
SIDE, PRODUCTS = 2048, 7  # of the square matrices whose product gives the machine's peak; products timed
PACKAGES = (
    "spacy-bertft-core",
    "spacy-transformers",
    "spacy-huggingface-pipelines",
    "spacy",
    "transformers",
    "tokenizers",
    "torch",
    "onnxruntime",
    "numpy",
)

Spec = dict[str, Any]
Answer = dict[str, Any]
Work = dict[str, Callable[[dict[str, Any]], Answer]]


class SpacyPipeline:
    """A saved pipeline, from raw text to doc.ents."""

    def __init__(self, spec: Spec) -> None:
        import spacy

        self.importing = time.perf_counter()
        overrides: dict[str, Any] = {}
        if spec["gpu"]:
            spacy.prefer_gpu()
            if "bertft_encoder" in (Path(spec["path"]) / "config.cfg").read_text(encoding="utf-8"):
                overrides = {"components": {"encoder": {"model": {"precision": "bfloat16"}}}}
        elif spec["precision"] != "auto":
            overrides = {"components": {"encoder": {"model": {"precision": spec["precision"]}}}}
        self.nlp = spacy.load(spec["path"], config=overrides)
        self.batch_size: int = spec["batch_size"] or self.nlp.batch_size

    def many(self, texts: list[str], batch_size: int) -> int:
        """Run over all texts. How many entities there are."""
        return sum(len(doc.ents) for doc in list(self.nlp.pipe(texts, batch_size=batch_size)))

    def one(self, text: str) -> int:
        """Run over one text."""
        return len(self.nlp(text).ents)


class HuggingFacePipeline:
    """transformers' token-classification pipeline, from raw text to lists of entities; no Docs are made."""

    def __init__(self, spec: Spec) -> None:
        from transformers import pipeline

        self.importing = time.perf_counter()
        self.batch_size: int = spec["batch_size"]
        self.pipeline = pipeline(
            "token-classification",
            model=spec["path"],
            tokenizer=spec["path"],
            aggregation_strategy="simple",
            stride=OVERLAP,
            device=0 if spec["gpu"] else -1,
        )

    def many(self, texts: list[str], batch_size: int) -> int:
        """Run over all texts. How many entities there are."""
        return sum(map(len, self.pipeline(texts, batch_size=batch_size)))

    def one(self, text: str) -> int:
        """Run over one text."""
        return len(self.pipeline(text))


Pipeline = SpacyPipeline | HuggingFacePipeline


def time_all(pipeline: Pipeline, texts: list[str], batch_size: int | None) -> Answer:
    """Seconds for all texts at once. batch_size: None: the pipeline's own."""
    gc.collect()
    start = time.perf_counter()
    entities = pipeline.many(texts, batch_size or pipeline.batch_size)
    return {"seconds": time.perf_counter() - start, "entities": entities}


def time_each(pipeline: Pipeline, texts: list[str]) -> Answer:
    """Milliseconds for one text at a time: the median, and the 99th percentile."""
    gc.collect()
    ticks = [time.perf_counter()]
    for text in texts:
        pipeline.one(text)
        ticks.append(time.perf_counter())
    spent = sorted(1000 * (after - before) for before, after in pairwise(ticks))
    return {"median": statistics.median(spent), "p99": spent[-(-99 * len(spent) // 100) - 1]}


def count(encoder: str, texts: list[str]) -> Answer:
    """What an encoder has to compute for texts: subwords, special ones included, and billions of operations."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(encoder)
    shape = Shape(config.num_hidden_layers, config.hidden_size, config.intermediate_size)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    n_special = tokenizer.num_special_tokens_to_add()
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    encodings = backend.encode_batch(texts, add_special_tokens=False)
    lengths = [length for one in encodings for length in window_lengths(len(one.ids), n_special)]
    return {"subwords": sum(lengths), "gflop": gflop(shape, lengths)}


def measure_peak(gpu: bool) -> Answer:
    """Billions of operations a second in a product of large matrices: `gflops` in float32, or in bfloat16 on a GPU, and
    on a CPU with instructions for it `bfloat16` too.
    """
    import torch

    if gpu:
        return {"gflops": product_gflops("cuda", torch.bfloat16)}
    answer = {"gflops": product_gflops("cpu", torch.float32)}
    if {"BF16", "AMX"} & set(features()):
        answer["bfloat16"] = product_gflops("cpu", torch.bfloat16)
    return answer


def product_gflops(device: str, dtype: Any) -> float:
    """Billions of operations a second in a product of large matrices; on a CPU the faster of PyTorch's and oneDNN's."""
    import torch

    left, right = (torch.randn(SIDE, SIDE, device=device, dtype=dtype) for _ in range(2))
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    products: list[Callable[[], Any]] = [lambda: left @ right]
    if device == "cpu":
        from spacy_bertft.compat import fast_linear

        linear = fast_linear(right, right[0], "none", rows=SIDE)
        products.append(lambda: linear(left))
    return 2 * SIDE**3 / 1e9 / min(seconds_of(product, wait) for product in products)


def seconds_of(product: Callable[[], Any], wait: Callable[[], Any]) -> float:
    """The median over PRODUCTS runs."""
    ticks: list[float] = []
    for _ in range(PRODUCTS + 2):  # the first is to warm up
        product()
        wait()
        ticks.append(time.perf_counter())
    return statistics.median(after - before for before, after in pairwise(ticks))


def features() -> list[str]:
    """The processor's instructions that matter for speed here, as Linux lists them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return [name for name, flag in FEATURES.items() if flag in flags]


def peak_memory() -> Answer:
    """The most memory that this process ever had resident, in MiB."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return {"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, where they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def load(spec: Spec) -> Pipeline:
    """Import what it takes and load the pipeline."""
    return HuggingFacePipeline(spec) if spec["kind"] == "hf" else SpacyPipeline(spec)


def pipeline_work(spec: Spec, sets: dict[str, list[str]]) -> tuple[Answer, Work]:
    """A loaded pipeline's first answer, and what it does when asked."""
    pipeline = load(spec)
    return {"versions": versions(), "batch_size": pipeline.batch_size}, {
        "all": lambda request: time_all(pipeline, sets[request["texts"]], request["batch_size"]),
        "some": lambda request: time_all(pipeline, sets[request["texts"]][:: request["every"]], None),
        "each": lambda request: time_each(pipeline, sets[request["texts"]]),
        "memory": lambda request: peak_memory(),
    }


def meter_work(spec: Spec, sets: dict[str, list[str]]) -> tuple[Answer, Work]:
    """The same of the process that measures the machine and the texts; `path` is the encoder's."""
    import torch

    return {"cuda": torch.cuda.is_available(), "threads": torch.get_num_threads(), "features": features()}, {
        "count": lambda request: count(spec["path"], sets[request["texts"]]),
        "peak": lambda request: measure_peak(request["gpu"]),
    }


def serve(spec: Spec, answers: TextIO) -> None:
    """Get ready, say so, and answer requests."""
    sets = json.loads(Path(spec["texts"]).read_text(encoding="utf-8"))
    ready, work = (meter_work if spec["kind"] == "meter" else pipeline_work)(spec, sets)
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(work[request["do"]](request)), file=answers, flush=True)


def time_load(spec: Spec, answers: TextIO) -> None:
    """Seconds from the start to the loaded pipeline, and of loading alone."""
    pipeline = load(spec)
    now = time.perf_counter()
    print(json.dumps({"total": now - STARTED, "load": now - pipeline.importing}), file=answers, flush=True)


if __name__ == "__main__":
    real_stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    {"serve": serve, "load": time_load}[sys.argv[1]](json.loads(sys.argv[2]), real_stdout)
