"""Two pipelines side by side: hidden states, scores and speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from spacy.language import Language
from spacy.training import Corpus, Example
from torch import Tensor

from spacy_bertft.encoder_pipe import EncoderPipe
from spacy_bertft.errors import DataError
from spacy_bertft.export.report import Change, Hidden

# Words that hidden states and speed are measured on.
SAMPLE_WORDS = 5000
ROUNDS = 5
BATCH = 32
# Compared where there is no dev set.
OWN_TEXTS = (
    "The train to the coast was late again, so we had coffee at the station.",
    "Please send the invoice to our office in Leeds before the end of March.",
    "Yes.",
    "On Tuesday Maria Keller, who runs the bakery on Mill Street, sold 240 loaves before nine o'clock.",
    "Is there a way to change the address of an order that has already been paid for?",
    "Version 2.1 fixes the crash on start-up; the log files are now kept for 30 days.",
    "Der Zug nach Hamburg fährt heute von Gleis 7 ab, und zwar erst um Viertel nach acht.",
    "Le musée est fermé le lundi, mais le jardin reste ouvert jusqu'à la tombée de la nuit.",
    "Mañana por la mañana llegan dos cajas de naranjas al mercado de Valencia.",
    "It rained for three days. The river rose to the lower meadow, the bridge was closed, and the school bus had to go "
    "round by Northfield. On the fourth day the water went down as fast as it had come, and left a line of twigs and "
    "plastic bottles along the hedge, at the height of a child's shoulder.",
    "Never buy this lamp: it flickers, it hums, and the switch broke after a week!",
    "The committee agreed, by 9 votes to 4, to ask Dr. Osei of the University of Ghana for a second report on the "
    "wells, since the first one had left out everything that lies north of the railway.",
)


def read(dev: Path, nlp: Language) -> list[Example]:
    """The examples of a .spacy file, or of a folder of such files."""
    if not dev.exists():
        raise DataError(
            f"The dev set {str(dev)!r} is not there ({dev.absolute()}). Expected a .spacy file or a folder of them. "
            "Correct --dev, or make the file with `bertft convert`."
        )
    if dev.is_file() and dev.suffix != ".spacy":
        raise DataError(
            f"The dev set {str(dev)!r} is no .spacy file. Expected what spaCy trains and evaluates on. Make it with "
            "`bertft convert`."
        )
    try:
        examples = list(Corpus(dev)(nlp)) if dev.is_file() or any(dev.rglob("*.spacy")) else []
    except Exception as error:  # zlib, msgpack and spaCy raise of all kinds
        raise DataError(
            f"The dev set {str(dev)!r} could not be read: {error} Expected a .spacy file, as `bertft convert` writes "
            "it. Make it anew."
        ) from error
    if not examples:
        raise DataError(
            f"The dev set {str(dev)!r} holds no texts. Expected annotated texts, to compare scores on. Correct --dev, "
            "or leave it out to compare no scores."
        )
    return examples


def sample(nlp: Language, texts: Sequence[str]) -> list[str]:
    """The first texts, until there are SAMPLE_WORDS words."""
    chosen, words = [], 0
    for text in texts:
        chosen.append(text)
        words += len(nlp.make_doc(text))
        if words >= SAMPLE_WORDS:
            break
    return chosen


def hidden_states(before: Language, after: Language, names: Sequence[str], texts: Sequence[str]) -> Hidden:
    """Differences of all hidden values that heads can read."""
    largest = total = size = 0.0
    n_values = 0
    for name in names:
        for start in range(0, len(texts), BATCH):
            chosen = texts[start : start + BATCH]
            old, new = (_rows(nlp, name, chosen) for nlp in (before, after))
            differences = (new - old).abs()
            largest = max(largest, float(differences.amax()) if len(old) else 0.0)
            total += float(differences.sum(dtype=torch.float64))
            size += float(old.abs().sum(dtype=torch.float64))
            n_values += old.numel()
    n_values = max(n_values, 1)
    return Hidden(largest, total / n_values, size / n_values, len(texts))


def _rows(nlp: Language, name: str, texts: Sequence[str]) -> Tensor:
    """The rows of all subwords and of each window's first special one, in the order of the texts. (S + W, D)."""
    pipe = nlp.get_pipe(name)
    assert isinstance(pipe, EncoderPipe)
    features = pipe.predict([nlp.make_doc(text) for text in texts])
    return features.hidden[[*features.rows, *features.cls_rows]].cpu()


def scores(nlp: Language, dev: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The scores in points, and those of single labels; what is no number and the speed are left out."""
    found = nlp.evaluate(read(dev, nlp))
    found.pop("speed", None)
    overall = {name: value for name, value in found.items() if not isinstance(value, Mapping)}
    of_labels = {name: value for name, value in found.items() if isinstance(value, Mapping)}
    return dict(_points(overall)), dict(_points(of_labels))


def _points(values: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _points(value, f"{inside}{name}.")
        elif isinstance(value, int | float):
            yield f"{inside}{name}", 100.0 * value


def changes(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[Change, ...]:
    """Scores that both have."""
    return tuple(Change(name, value, after[name]) for name, value in before.items() if name in after)


def speed(before: Language, after: Language, texts: Sequence[str]) -> Change:
    """Words a second of the whole pipelines, run in turns: the medians."""
    words = sum(len(before.make_doc(text)) for text in texts)
    repeats = -(-SAMPLE_WORDS // max(words, 1))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for nlp, of_nlp in zip((before, after), times, strict=True):
            start = time.perf_counter()
            for _ in nlp.pipe([*texts] * repeats):
                pass
            of_nlp.append(time.perf_counter() - start)
    return Change("words/s", *(words * repeats / statistics.median(of_nlp) for of_nlp in times))
