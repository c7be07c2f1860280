"""Updates of a category head and its encoder, beside the same in transformers' own model with padded batches.

    pip install -c constraints.txt -e .
    SPACY_BERTFT_DATA=/folder/of/data python benchmarks/speed/training.py --encoder PACKAGE/FOLDER_OR_FOLDER

Batches of 16 texts, full fine-tuning, dropout as the encoder's config has it, AdamW (fused) with a clip. Ours is
nlp.update from raw texts, with all that belongs to it; transformers' side tokenises its batch too, and pads it to its
longest text. Updates alternate; medians of the ratios of each batch. Both run on the GPU where there is one; with
--precision auto, both train in bfloat16 where ours does.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import spacy
import torch
import typer
from environments import find_encoder
from spacy.training import Example
from texts import Amounts, build
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from spacy_bertft.encoder.settings import resolve_device
from spacy_bertft.engines.choose import uses_half

BATCH = 16  # texts
RATE = 1e-4
LABELS = ("A", "B")
ARCHITECTURE = {"@architectures": "spacy-bertft.Encoder.v1", "window": 512}

Update = Callable[[list[str]], object]


def main(
    encoder: Annotated[str, typer.Option(help="Folder, or package/folder of an installed package.")],
    updates: Annotated[int, typer.Option(help="Updates of each, for each set of texts.")] = 12,
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or auto.")] = "float32",
) -> None:
    """Print subwords a second of both, and the ratio, for texts of like and of unlike lengths."""
    folder = find_encoder(encoder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    subjects = {
        "spacy-bertft": make_ours(encoder, precision),
        "transformers": make_theirs(folder, tokenizer, precision),
    }
    enough = Amounts(wikigold=300, wnut17=0, mixed_words=BATCH * 300 * updates, long_words=0, latency=0)
    texts = build(Path(os.environ["SPACY_BERTFT_DATA"]), enough)
    for name in ("short", "mixed"):
        n_batches = min(updates + 1, len(texts[name]) // BATCH)
        batches = [texts[name][start * BATCH :][:BATCH] for start in range(n_batches)]
        measure(name, subjects, batches, [subwords(tokenizer, batch) for batch in batches])


def make_ours(encoder: str, precision: str) -> Update:
    """A pipeline of this package: what updates it."""
    nlp = spacy.blank("en")
    nlp.add_pipe(
        "bertft_encoder",
        config={"model": {**ARCHITECTURE, "name": encoder, "precision": precision}},
    )
    nlp.add_pipe("bertft_textcat")

    def examples(texts: list[str]) -> list[Example]:
        docs = [nlp.make_doc(text) for text in texts]
        cats = [{label: float(LABELS[category(text)] == label) for label in LABELS} for text in texts]
        return [Example.from_dict(doc, {"cats": of_doc}) for doc, of_doc in zip(docs, cats, strict=True)]

    optimizer = nlp.initialize(lambda: examples(["a", "b b"]))
    optimizer.learn_rate = RATE

    def update(texts: list[str]) -> None:
        nlp.update(examples(texts), sgd=optimizer)
        nlp.get_pipe("bertft_encoder").settle()  # a step may wait until the encoder is next used

    return update


def make_theirs(folder: Path, tokenizer: Any, precision: str) -> Update:
    """transformers' model for sequences: what updates it."""
    device = resolve_device("auto")
    half = uses_half(precision, device, fused=True)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(LABELS), dtype=torch.float32)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)

    def update(texts: list[str]) -> None:
        batch = tokenizer(texts, truncation=True, max_length=512, padding=True, return_tensors="pt").to(device)
        labels = torch.tensor([category(text) for text in texts]).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            loss = model(**batch, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update


def category(text: str) -> int:
    """The place of its label, which need not mean anything here."""
    return len(text.split()) % 2


def subwords(tokenizer: Any, texts: list[str]) -> int:
    """How many subwords a batch has, special ones included and padding not."""
    return sum(map(len, tokenizer(texts, truncation=True, max_length=512)["input_ids"]))


def measure(name: str, subjects: dict[str, Update], batches: list[list[str]], sizes: list[int]) -> None:
    """Print the speeds on one set of batches; the first is for warming up."""
    speeds: dict[str, list[float]] = {subject: [] for subject in subjects}
    for batch, size in zip(batches, sizes, strict=True):
        for subject, update in subjects.items():
            start = time.perf_counter()
            update(batch)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            speeds[subject].append(size / (time.perf_counter() - start))
    ours, theirs = (of_subject[1:] for of_subject in speeds.values())
    ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
    print(
        f"{name:6} {len(ratios)} updates  spacy-bertft {statistics.median(ours):6,.0f} subwords/s  "
        f"transformers {statistics.median(theirs):6,.0f}  ratio {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )


if __name__ == "__main__":
    typer.run(main)
