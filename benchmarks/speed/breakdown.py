"""Where the time of nlp.pipe goes: in the encoder's forward, and in each part around it. On a CPU.

    python benchmarks/speed/breakdown.py PIPELINE [--precision float32] [--window 256]

Wraps the functions of PARTS in timers. Where one runs inside another, its time counts for the inner one alone.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from report import table
from subjects import SIZES
from texts import build, check_data, n_words

FORWARD, REST = "the encoder's forward", "the rest (spaCy's loop, batches)"
ATTENTION = "attention in the fused forward"
# Part of the work -> the functions whose own time it is, as module:name.
PARTS = {
    "spaCy's tokenizer": ("spacy.language:Language.make_doc",),
    "subword tokenisation": ("spacy_bertft.text.subwords:Splitter.split",),
    "alignment, windows, packing": (
        "spacy_bertft.components.doc_texts:texts_of",
        "spacy_bertft.encoder.encoder:Encoder.forward",
    ),
    FORWARD: (
        "spacy_bertft.engines.fused:FusedEngine.__call__",
        "spacy_bertft.engines.transformers:TransformersEngine.__call__",
        "spacy_bertft.engines.onnx:OnnxEngine.__call__",
    ),
    ATTENTION: ("spacy_bertft.engines.fused:_attend",),
    "handing over features": (
        "spacy_bertft.components.encoder_pipe:EncoderPipe.predict",
        "spacy_bertft.components.encoder_pipe:EncoderPipe.set_annotations",
    ),
    "pooling and heads": ("spacy_bertft.components.head_pipe:HeadPipe.predict",),
    "decoding": ("spacy_bertft.tasks.ner:decode",),
    "annotating Docs": ("spacy_bertft.components.head_pipe:HeadPipe.set_annotations",),
}
SETS = ("short", "mixed", "long")


class Stopwatch:
    """Seconds by part; each moment counts for the innermost timed function that runs."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._running: list[str] = []
        self._since = 0.0

    def switch(self) -> None:
        """Book the time since the last switch."""
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since  # type: ignore[assignment]
        self._since = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, with its time booked for `part`."""

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self._running.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch()
                self._running.pop()

        return run


def patch(watch: Stopwatch) -> None:
    """Put timers around the functions of PARTS; an error names one that is no longer there."""
    for part, names in PARTS.items():
        for name in names:
            module, _, path = name.partition(":")
            *owners, last = path.split(".")
            owner: Any = importlib.import_module(module)
            for inner in owners:
                owner = getattr(owner, inner)
            setattr(owner, last, watch.timed(part, getattr(owner, last)))


def spend(nlp: Any, texts: list[str], watch: Stopwatch, repeats: int) -> dict[str, float]:
    """Seconds of each part in `repeats` runs over the texts, after one to warm up."""
    list(nlp.pipe(texts))
    watch.seconds.clear()
    everything = watch.timed(REST, lambda: list(nlp.pipe(texts)))
    for _ in range(repeats):
        everything()
    return {part: watch.seconds[part] for part in (*PARTS, REST)}


def main(
    pipeline: Annotated[str, typer.Argument(help="Folder or name of a pipeline.")],
    data: Annotated[Path | None, typer.Option(help="Folder of data.", envvar="SPACY_BERTFT_DATA")] = None,
    repeats: Annotated[int, typer.Option(help="Runs over each set of texts.", min=1)] = 3,
    precision: Annotated[str, typer.Option(help="The encoder's precision.")] = "auto",
    window: Annotated[int | None, typer.Option(help="The encoder's window; default: its limit.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for breakdown.json.")] = Path(__file__).parent / "results",
) -> None:
    """Print where the time of nlp.pipe goes, for short, mixed and long texts."""
    sets = build(check_data(data), SIZES["minilm"].amounts)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import spacy

    watch = Stopwatch()
    patch(watch)
    settings = {"precision": precision, "window": window}
    nlp = spacy.load(pipeline, config={"components": {"encoder": {"model": settings}}})
    spent = {of_set: spend(nlp, sets[of_set], watch, repeats) for of_set in SETS}
    columns = []
    for of_set, seconds in spent.items():
        per_words = 1e6 / (repeats * n_words(sets[of_set]))
        total = sum(seconds.values())
        around = total - seconds[FORWARD] - seconds[ATTENTION]
        rows = {**seconds, "around the forward": around, "all": total}
        columns.append({part: (f"{per_words * one:,.1f}", f"{100 * one / total:.1f}") for part, one in rows.items()})
    header = ["", *(f"{of_set}, {unit}" for of_set in SETS for unit in ("µs a word", "%"))]
    typer.echo(table(header, [[part, *(cell for column in columns for cell in column[part])] for part in columns[0]]))
    out.mkdir(parents=True, exist_ok=True)
    numbers = {
        "settings": settings,
        "repeats": repeats,
        "words": {of_set: n_words(sets[of_set]) for of_set in SETS},
        "seconds": spent,
    }
    (out / "breakdown.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
