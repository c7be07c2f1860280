"""Speed on a GPU: prediction, latency and training of a category pipeline, beside transformers' pipeline and model.

    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/speed/gpu.py

Encoders with random weights, of base size and of MiniLM's, with the tokenizer of --tokenizer. Texts are the sentences
of textcat/sentence_polarity: short ones, and mixed lengths (1 to 12 sentences joined). All take turns in one process.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import spacy
import torch
import typer
from spacy.language import Language
from spacy.training import Example
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel, pipeline

SIZES = {"base": (12, 768, 12), "minilm": (6, 384, 12), "tiny": (2, 64, 4)}
OURS = {"ours, packed": {}, "ours, padded": {"batching": "padded"}, "ours, float32": {"precision": "float32"}}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FIRST = 4  # rounds and steps that are not counted


def main(
    tokenizer: Annotated[str, typer.Option(help="Folder or hub name of a tokenizer.")] = "bert-base-uncased",
    sizes: Annotated[str, typer.Option(help=f"Some of {', '.join(SIZES)}.")] = "base,minilm",
    texts: Annotated[int, typer.Option(help="Number of short texts; half as many mixed ones.")] = 4000,
    steps: Annotated[int, typer.Option(help="Training steps of each.")] = 22,
) -> None:
    """Print subwords per second, TFLOP/s of the matrix products, and milliseconds."""
    folder = Path(os.environ["SPACY_BERTFT_DATA"], "textcat/sentence_polarity/train.jsonl")
    lines = [json.loads(line)["text"] for line in folder.read_text(encoding="utf-8").splitlines()]
    draw = random.Random(0)
    mixed = [" ".join(draw.choices(lines, k=draw.choice([1, 1, 1, 2, 4, 8, 12]))) for _ in range(texts // 2)]
    print(f"peak in bfloat16: {peak():.0f} TFLOP/s on {torch.cuda.get_device_name() if DEVICE == 'cuda' else 'a CPU'}")
    for size in sizes.split(","):
        with tempfile.TemporaryDirectory() as work:
            make_encoder(Path(work), tokenizer, *SIZES[size])
            model = BertForSequenceClassification.from_pretrained(work, num_labels=2).to(DEVICE)
            words = AutoTokenizer.from_pretrained(work)
            for name, some in (("short", lines[:texts]), ("mixed", mixed)):
                predict(f"{size}, {name}", Path(work), words, some, SIZES[size])
                train(f"{size}, {name}", Path(work), model, words, some, 32 if name == "short" else 16, steps)


def predict(name: str, folder: Path, words: Any, texts: list[str], size: tuple[int, int, int]) -> None:
    """Throughput and latency of whole pipelines."""
    nlp, _ = pipeline_of(folder)
    theirs = BertForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=torch.bfloat16)
    theirs = pipeline("text-classification", model=theirs, tokenizer=words, device=DEVICE, truncation=True)
    count = sum(map(len, words(texts, truncation=True)["input_ids"]))
    layers, width, _ = size
    runs: dict[str, Callable[[], Any]] = {
        "nlp.pipe": lambda: list(nlp.pipe(texts, batch_size=1024)),
        "transformers' pipeline, batches of 64, by length": lambda: theirs(sorted(texts, key=len), batch_size=64),
    }
    for who, seconds in in_turns(runs, rounds=3, skip=1).items():
        operations = 24 * layers * width**2 * count
        print(f"{name}: {who}: {count / seconds:,.0f} subwords/s, {operations / seconds / 1e12:.0f} TFLOP/s")
    one = texts[: 2 * FIRST + 60]
    for who, call in (("nlp(text)", nlp), ("transformers' pipeline", theirs)):
        taken = [timed(lambda text=text, call=call: call(text)) for text in one]
        print(f"{name}: {who}: {1000 * statistics.median(taken[FIRST:]):.2f} ms for one text")


def train(
    name: str, folder: Path, model: BertForSequenceClassification, words: Any, texts: list[str], size: int, steps: int
) -> None:
    """Milliseconds for a training step, each with the optimizer's."""
    batches = [texts[start : start + size] for start in range(0, steps * size, size)]
    for who, settings in OURS.items():
        nlp, optimizer = pipeline_of(folder, **settings)

        def step(batch: list[str], nlp: Language = nlp, optimizer: Any = optimizer) -> None:
            nlp.update(examples(nlp, batch), sgd=optimizer)
            nlp.get_pipe("encoder").settle()  # type: ignore[attr-defined]

        report(f"{name}: {who}", [timed(lambda batch=batch, step=step: step(batch)) for batch in batches])
    for who, half in (("transformers, bfloat16", True), ("transformers, float32", False)):
        adamw = torch.optim.AdamW(model.train().parameters(), lr=1e-5, fused=DEVICE == "cuda")

        def their_step(batch: list[str], half: bool = half, adamw: torch.optim.AdamW = adamw) -> None:
            inputs = words(batch, truncation=True, padding=True, return_tensors="pt").to(DEVICE)
            labels = torch.tensor([len(text) % 2 for text in batch], device=DEVICE)
            with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=half):
                loss = model(**inputs, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adamw.step()
            adamw.zero_grad()

        report(f"{name}: {who}", [timed(lambda batch=batch, step=their_step: step(batch)) for batch in batches])


def report(name: str, seconds: list[float]) -> None:
    """The median after the first steps."""
    print(f"{name}: {1000 * statistics.median(seconds[FIRST:] or seconds):.1f} ms a training step", flush=True)


def in_turns(runs: dict[str, Callable[[], Any]], *, rounds: int, skip: int) -> dict[str, float]:
    """Median seconds of each, in rounds."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + skip):
        for name, run in runs.items():
            taken[name].append(timed(run))
    return {name: statistics.median(seconds[skip:]) for name, seconds in taken.items()}


def timed(run: Callable[[], Any]) -> float:
    """Seconds of a call, the GPU's work included."""
    wait()
    begun = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - begun


def wait() -> None:
    """Until the GPU has done all."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def peak() -> float:
    """TFLOP/s of products of large matrices."""
    size = 8192 if DEVICE == "cuda" else 512
    matrix = torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16)
    taken = [timed(lambda: matrix @ matrix) for _ in range(20)]
    return 2 * size**3 / statistics.median(taken[FIRST:]) / 1e12


def make_encoder(folder: Path, tokenizer: str, layers: int, width: int, heads: int) -> None:
    """Save a BERT with random weights."""
    words = AutoTokenizer.from_pretrained(tokenizer, model_max_length=512)
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    BertModel(BertConfig(vocab_size=len(words), intermediate_size=4 * width, **sizes)).save_pretrained(folder)
    words.save_pretrained(folder)


def pipeline_of(folder: Path, **settings: Any) -> tuple[Language, Any]:
    """A pipeline with a category head, and its optimizer."""
    nlp = spacy.blank("en")
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": str(folder), **settings}
    nlp.add_pipe("bertft_encoder", name="encoder", config={"model": model})
    nlp.add_pipe("bertft_textcat", name="textcat")
    optimizer = nlp.initialize(lambda: examples(nlp, ["odd", "even"]))
    optimizer.learn_rate = 1e-5
    return nlp, optimizer


def examples(nlp: Language, texts: list[str]) -> list[Example]:
    """Two categories, by the parity of the length."""
    return [
        Example.from_dict(nlp.make_doc(text), {"cats": {"odd": len(text) % 2 * 1.0, "even": (len(text) + 1) % 2 * 1.0}})
        for text in texts
    ]


if __name__ == "__main__":
    typer.run(main)
